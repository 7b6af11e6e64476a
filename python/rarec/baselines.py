"""Scores of everything a comparison needs, all as inner products of query and item vectors.

Axes: C cases, K vectors of a query, D width, N items.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rarec.data import Cases, Histories
from rarec.evaluation import Ranks, per_user, rank_targets
from rarec.ids import IDEmbeddings

FUSION_WEIGHTS = (
    0.0,
    0.05,
    0.1,
    0.2,
    0.3,
    0.5,
    0.7,
    1.0,
    1.5,
    2.0,
    3.0,
    5.0,
    7.0,
    10.0,
    15.0,
    20.0,
    30.0,
    50.0,
)


@dataclass(frozen=True, eq=False)
class ScoreVectors:
    """A model's scores: item `n` of case `c` gets the largest `queries[c, k] . items[n]`.

    Attributes:
        queries: `[C, K, D]` float32.
        items: `[N, D]` float32.
    """

    queries: NDArray[np.float32]
    items: NDArray[np.float32]

    def ranks(self, cases: Cases) -> Ranks:
        """Return the rank of each case's target among the items not in its history."""
        return rank_targets(self.queries, self.items, cases.targets, cases.histories)


def popularity_scores(train: Histories, cases: Cases, n_items: int) -> ScoreVectors:
    """Return scores that are the same for all: the number of training events of an item."""
    counts = train.counts(n_items).astype(np.float32)
    return ScoreVectors(np.ones((len(cases), 1, 1), np.float32), counts[:, None])


def id_scores(ids: IDEmbeddings, cases: Cases, *, cold_at_bottom: bool = True) -> ScoreVectors:
    """Return the scores of the ID model alone.

    Args:
        ids: ID embeddings; their scores are inner products.
        cases: The cases.
        cold_at_bottom: Items without an ID vector share the last place; else they score as the
            mean item does, for a fusion in which another model tells them apart.
    """
    queries, _ = ids.user_vectors(cases.histories, cases.users)
    known = ids.item_known
    if not cold_at_bottom:
        return ScoreVectors(queries, with_mean_for_cold(ids))
    items = np.where(known[:, None], ids.item_vectors, 0).astype(np.float32)
    if known.all():
        return ScoreVectors(queries, items)
    # below any real score, by the inequality of Cauchy and Schwarz
    bottom = -1 - 2 * _longest(queries) * _longest(items)
    flag = np.where(known, 0, bottom).astype(np.float32)[:, None]
    ones = np.ones((*queries.shape[:2], 1), np.float32)
    return ScoreVectors(np.concatenate([queries, ones], 2), np.concatenate([items, flag], 1))


def with_mean_for_cold(ids: IDEmbeddings) -> NDArray[np.float32]:
    """Return `[N, E]` float32 item vectors; cold items get the mean one (zero if all are cold)."""
    known = ids.item_known
    items = np.zeros(ids.item_vectors.shape, dtype=np.float32)
    items[known] = ids.item_vectors[known]
    if known.any():
        items[~known] = items[known].mean(axis=0)
    return items


def _longest(vectors: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(vectors, axis=-1).max(initial=0.0))


def fused_scores(first: ScoreVectors, second: ScoreVectors, weight: float) -> ScoreVectors:
    """Return `first + weight * second`: one inner product of concatenated vectors.

    Args:
        first: Scores with one query vector per case.
        second: Scores with any number of them.
        weight: Factor of the second.
    """
    if first.queries.shape[1] != 1:
        raise ValueError(f"expected one query vector per case, got {first.queries.shape[1]}")
    repeated = np.repeat(first.queries, second.queries.shape[1], axis=1)
    queries = np.concatenate([repeated, np.float32(weight) * second.queries], axis=2)
    return ScoreVectors(queries, np.concatenate([first.items, second.items], axis=1))


def fusion_weight(
    first: ScoreVectors,
    second: ScoreVectors,
    cases: Cases,
    *,
    metric: str = "ndcg@100",
    weights: Iterable[float] = FUSION_WEIGHTS,
) -> float:
    """Return the weight of the second with the best mean metric on validation cases."""

    def quality(weight: float) -> float:
        ranks = fused_scores(first, second, weight).ranks(cases)
        return float(per_user(ranks)[metric].mean())

    return max(weights, key=quality)
