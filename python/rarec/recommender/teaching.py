"""What a training asks of the ID model beside its vectors: scores, and the items it ranks first.

Axes: S samples, M places of a pool, N items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rarec.baselines import with_mean_for_cold
from rarec.data import Dataset, Histories
from rarec.ids import IDEmbeddings
from rarec.index import ItemIndex
from rarec.selection import Samples
from rarec.training import IDScores

# samples whose seen items are held at once
_BLOCK = 4096


def sample_scores(ids: IDEmbeddings, samples: Samples, histories: Histories) -> IDScores:
    """Return the scores of the ID model; items without a vector score as the mean item does.

    Args:
        ids: ID embeddings.
        samples: S samples.
        histories: S rows, what came before each target.
    """
    queries, has_query = ids.user_vectors(histories, samples.users)
    # what stands in the rows without a meaning may be anything
    queries = np.where(has_query[:, None, None], queries, 0)
    return IDScores(queries.astype(np.float32), with_mean_for_cold(ids), has_query)


def hard_pools(
    scores: IDScores, samples: Samples, dataset: Dataset, size: int
) -> NDArray[np.int32]:
    """Return `[S, M]` items that the ID model ranks highest; -1 where there are no more.

    What a sample's user has in training is left out, its target and what came later included. A
    sample that the ID model has no vector of has no pool.

    Args:
        scores: Of the samples.
        samples: S samples.
        dataset: Of which the N items are.
        size: M.
    """
    index = ItemIndex(scores.items, dataset.item_ids, dataset.titles)
    pools = np.full((len(samples), size), -1, dtype=np.int32)
    rows = np.flatnonzero(scores.known)
    users = samples.users
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        seen = samples.histories.take(users[block])
        pools[block], _ = index.top_k(scores.queries[block], size, exclude=seen)
    return pools
