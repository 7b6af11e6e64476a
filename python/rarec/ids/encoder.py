"""The interface of every ID model: item vectors, and an encoder of a history into user vectors.

Axes: C histories, B users of a batch, T places of a history, K vectors per user, E vector width,
N items.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rarec.data import Histories
from rarec.ids.items import ItemVectors

# histories that are encoded at once
_BLOCK = 512


class HistoryEncoder(nn.Module):
    """A sequential recommender whose score is the largest inner product of K user vectors.

    Histories come as `[B, T]` item numbers, newest last, padded on the left with N.

    Args:
        items: The item vectors, of any kind.
        max_history: Number of newest items of a history that are read.
        n_vectors: Number of vectors per user K.
    """

    def __init__(self, items: ItemVectors, *, max_history: int, n_vectors: int = 1) -> None:
        super().__init__()
        self.items = items
        self.n_items = items.n_items
        self.dim = items.dim
        self.max_history = max_history
        self.n_vectors = n_vectors

    @property
    def item_vectors(self) -> Tensor:
        """`[N, E]` vectors that are scored; a map of text vectors is computed each time."""
        return self.items.table()[: self.n_items]

    def forward(self, history: Tensor) -> Tensor:
        """Return `[B, T, K, E]`, the user vectors after each place of the history.

        Args:
            history: `[B, T]` int64, `T <= max_history`.
        """
        raise NotImplementedError

    def user_vectors(self, history: Tensor) -> Tensor:
        """Return `[B, K, E]`, the user vectors after the whole history."""
        return self(history)[:, -1]

    def places(self, history: Tensor) -> Tensor:
        """Return `[B, T]` int64: 1 for the oldest item of a row, 2 for the next; 0 for padding."""
        return (history != self.n_items).cumsum(dim=1)


@torch.no_grad()
def encode_histories(encoder: HistoryEncoder, histories: Histories) -> NDArray[np.float32]:
    """Return `[C, K, E]` float32 user vectors of whole histories, encoded block by block.

    Args:
        encoder: The model, in evaluation mode.
        histories: C histories, oldest first.
    """
    device = next(encoder.parameters()).device
    vectors = np.zeros((len(histories), encoder.n_vectors, encoder.dim), dtype=np.float32)
    for start in range(0, len(histories), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(histories)))
        table = histories.take(rows).padded(encoder.max_history, encoder.n_items)
        vectors[rows] = encoder.user_vectors(torch.from_numpy(table).to(device)).cpu().numpy()
    return vectors
