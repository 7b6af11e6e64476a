"""The fused score `r_u . r_i / temperature + w (e_u . e_i)`: one inner product (DESIGN.md 1.10).

Axes: C cases or users, K vectors per user, N items, H hidden size, E width of ID vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rarec.baselines import (
    ScoreVectors,
    fused_scores,
    fusion_weight,
    id_scores,
    with_mean_for_cold,
)
from rarec.data import Cases, Histories
from rarec.evaluation import Ranks
from rarec.ids import IDEmbeddings

if TYPE_CHECKING:
    from rarec.recommender.recommender import Recommender

#: Validation cases at most on which a weight is chosen.
MOST_CASES = 5000


class LateFusion:
    """Models alone and with the score of the ID model added.

    Args:
        ids: The ID model.
        validation: What weights are chosen on.
    """

    def __init__(self, ids: IDEmbeddings, validation: Cases) -> None:
        self.ids = ids
        self._validation = validation

    @property
    def validation(self) -> Cases:
        """The cases that weights are chosen on."""
        return self._validation.sample(MOST_CASES, seed=0)

    def weight(self, scores_of: Callable[[Cases], ScoreVectors]) -> float:
        """Return the weight of the ID model with the best NDCG@100; 0 without validation cases.

        Args:
            scores_of: The scores of the model for some cases.
        """
        cases = self.validation
        if len(cases) == 0:
            return 0.0
        return fusion_weight(scores_of(cases), self._by_id(cases), cases)

    def ranks(self, scores: ScoreVectors, cases: Cases, weight: float) -> tuple[Ranks, Ranks]:
        """Return the ranks of a model alone, and with its scores fused.

        Args:
            scores: Of the model.
            cases: C cases.
            weight: Of the ID model.
        """
        fused = fused_scores(scores, self._by_id(cases), weight)
        return scores.ranks(cases), fused.ranks(cases)

    def item_vectors(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `[N, H + E]`: the vectors of an index that answers alone and fused.

        Args:
            vectors: `[N, H]` of a model; items after those of the ID model are new, and get the
                ID part that cold ones have.
        """
        by_id = with_mean_for_cold(self.ids)
        n_new = len(vectors) - len(by_id)
        mean = by_id[self.ids.item_known].mean(axis=0, keepdims=True) if n_new else by_id[:0]
        return np.concatenate(
            [vectors, np.concatenate([by_id, mean.repeat(n_new, axis=0)])], axis=1
        )

    def queries(
        self,
        vectors: NDArray[np.float32],
        histories: Histories,
        users: NDArray[np.int32] | None,
        weight: float,
    ) -> NDArray[np.float32]:
        """Return `[C, K, H + E]`: queries for such an index.

        Args:
            vectors: `[C, H]` of a model.
            histories: C histories.
            users: `[C]` numbers of the dataset's users, or None.
            weight: Of the ID model; 0 asks the model alone.
        """
        by_id, known = self.ids.user_vectors(histories, users)
        by_id = np.where(known[:, None, None], by_id, 0) * np.float32(weight)
        own = np.repeat(vectors[:, None], by_id.shape[1], axis=1)
        return np.concatenate([own, by_id.astype(np.float32)], axis=2)

    def _by_id(self, cases: Cases) -> ScoreVectors:
        return id_scores(self.ids, cases, cold_at_bottom=False)


def late_fusion(recommender: Recommender) -> LateFusion:
    """Return the fusion with the strongest ID model of a recommender."""
    ids = recommender.baseline or recommender.ids
    assert ids is not None
    return LateFusion(ids, recommender.split.validation)
