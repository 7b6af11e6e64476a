"""Scores of a member as inner products of query and item vectors, and their weighted sum.

Axes: C cases, K vectors of a query, D width, N items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rarec.data import Cases, Histories
from rarec.evaluation import Ranks, rank_targets


@dataclass(frozen=True, eq=False)
class ScoreVectors:
    """Scores of a member: item `n` of case `c` gets the largest `queries[c, k] . items[n]`.

    Attributes:
        queries: `[C, K, D]` float32.
        items: `[N, D]` float32.
    """

    queries: NDArray[np.float32]
    items: NDArray[np.float32]

    def ranks(self, cases: Cases) -> Ranks:
        """Return the rank of the target of each case among the items outside its history."""
        return rank_targets(self.queries, self.items, cases.targets, cases.histories)


def popularity_scores(train: Histories, cases: Cases, n_items: int) -> ScoreVectors:
    """Return scores that are the same for all cases: the number of training events of an item."""
    counts = train.counts(n_items).astype(np.float32)
    return ScoreVectors(np.ones((len(cases), 1, 1), np.float32), counts[:, None])


def weighted_sum(scores: Mapping[str, ScoreVectors], weights: Mapping[str, float]) -> ScoreVectors:
    """Return the sum of weighted scores: one inner product of concatenated vectors.

    Args:
        scores: Scores by member. At most one member has several query vectors for a case.
        weights: Weight of each member.

    Raises:
        ValueError: If the names differ, or two members have several query vectors.
    """
    if scores.keys() != weights.keys():
        raise ValueError(f"expected weights of {sorted(scores)}, got {sorted(weights)}")
    counts = [one.queries.shape[1] for one in scores.values()]
    if sum(count > 1 for count in counts) > 1:
        raise ValueError(f"expected one member with several query vectors at most, got {counts}")
    queries = [
        np.repeat(np.float32(weights[name]) * one.queries, max(counts) // one.queries.shape[1], 1)
        for name, one in scores.items()
    ]
    items = [one.items for one in scores.values()]
    return ScoreVectors(np.concatenate(queries, axis=2), np.concatenate(items, axis=1))
