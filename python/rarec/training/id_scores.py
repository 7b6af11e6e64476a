"""Scores of the ID model for the training samples.

Axes: S samples, B batch, C candidate items, N items, K vectors of a sample, E width of the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class IDScores:
    """Scores of the ID model: item `n` of sample `s` gets the largest `queries[s, k] . items[n]`.

    Attributes:
        queries: `[S, K, E]` float32 vectors of the samples.
        items: `[N, E]` float32 vectors of the items.
        known: `[S]` bool, false where the row of `queries` has no meaning.
    """

    queries: NDArray[np.float32]
    items: NDArray[np.float32]
    known: NDArray[np.bool_]

    def __post_init__(self) -> None:
        queries, items = self.queries, self.items
        if queries.ndim != 3 or items.ndim != 2 or queries.shape[2] != items.shape[1]:
            raise ValueError(
                f"expected queries [S, K, E] and items [N, E], "
                f"got {list(queries.shape)} and {list(items.shape)}"
            )
        if self.known.shape != queries.shape[:1]:
            raise ValueError(f"expected known [{len(queries)}], got {list(self.known.shape)}")

    def of(self, rows: NDArray[np.integer], items: NDArray[np.integer]) -> Tensor:
        """Return `[B, C]` float32: scores of the samples in `rows`, NaN for unknown samples.

        Args:
            rows: `[B]` sample numbers.
            items: `[C]` item numbers.
        """
        scores = np.einsum("bke,ce->bkc", self.queries[rows], self.items[items]).max(axis=1)
        scores[~self.known[rows]] = np.nan
        return torch.from_numpy(scores)
