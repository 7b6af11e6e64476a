"""The ID model as a member: its scores, alone and beside those of another member.

Axes: C cases, K vectors per user, E width, N items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rarec.data import Cases, Histories
from rarec.ids import IDEmbeddings
from rarec.members.scores import ScoreVectors


def id_scores(ids: IDEmbeddings, cases: Cases) -> ScoreVectors:
    """Return the scores of the ID model alone; items without an ID vector share the last place."""
    queries, _ = ids.user_vectors(cases.histories, cases.users)
    known = ids.item_known
    items = np.where(known[:, None], ids.item_vectors, 0).astype(np.float32)
    if known.all():
        return ScoreVectors(queries, items)
    # lower than any real score, by the inequality of Cauchy and Schwarz
    bottom = -1 - 2 * _longest(queries) * _longest(items)
    flag = np.where(known, 0, bottom).astype(np.float32)[:, None]
    ones = np.ones((*queries.shape[:2], 1), np.float32)
    return ScoreVectors(np.concatenate([queries, ones], 2), np.concatenate([items, flag], 1))


def id_scores_to_add(ids: IDEmbeddings, cases: Cases) -> ScoreVectors:
    """Return the scores of the ID model for a sum, in which another member ranks the cold items.

    Items without an ID vector have the score of the mean item.
    """
    queries, _ = ids.user_vectors(cases.histories, cases.users)
    return ScoreVectors(queries, with_mean_for_cold(ids))


def id_queries_to_add(
    ids: IDEmbeddings, histories: Histories, users: NDArray[np.int32] | None, weight: float
) -> NDArray[np.float32]:
    """Return `[C, K, E]` float32 query vectors times a weight; zero for a user without a vector.

    Args:
        ids: The ID vectors.
        histories: C histories.
        users: `[C]` numbers of the users in the dataset, or None.
        weight: Weight of the ID model.
    """
    vectors, known = ids.user_vectors(histories, users)
    weighted = np.where(known[:, None, None], vectors, 0) * np.float32(weight)
    return weighted.astype(np.float32)


def with_mean_for_cold(ids: IDEmbeddings, n_items: int | None = None) -> NDArray[np.float32]:
    """Return `[N, E]` float32 item vectors in which cold items have the mean vector.

    Args:
        ids: The ID vectors.
        n_items: N, if there are new items after those of the ID model. They are cold, too.
    """
    known = ids.item_known
    n_items = len(known) if n_items is None else n_items
    items = np.zeros((n_items, ids.item_vectors.shape[1]), dtype=np.float32)
    items[: len(known)][known] = ids.item_vectors[known]
    if known.any():
        cold = np.append(~known, np.ones(n_items - len(known), dtype=bool))
        items[cold] = ids.item_vectors[known].astype(np.float32).mean(axis=0)
    return items


def _longest(vectors: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(vectors, axis=-1).max(initial=0.0))
