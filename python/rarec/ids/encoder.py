"""What every ID model is here: an item table, and an encoder of a history into user vectors.

Axes: B users, T places of a history, K vectors per user, E width, N items.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HistoryEncoder(nn.Module):
    """A sequential recommender whose score is the largest inner product of K user vectors.

    Histories come as `[B, T]` item numbers, newest last, padded on the left with `n_items`.
    """

    def __init__(self, n_items: int, *, dim: int, max_history: int, n_vectors: int = 1) -> None:
        super().__init__()
        self.n_items = n_items
        self.dim = dim
        self.max_history = max_history
        self.n_vectors = n_vectors
        # the last row stands for padding and is never an answer
        self.item_embedding = nn.Embedding(n_items + 1, dim, padding_idx=n_items)
        nn.init.normal_(self.item_embedding.weight, std=dim**-0.5)
        with torch.no_grad():
            self.item_embedding.weight[n_items].zero_()

    @property
    def item_vectors(self) -> Tensor:
        """`[N, E]` the vectors that answers are scored with."""
        return self.item_embedding.weight[: self.n_items]

    def forward(self, history: Tensor) -> Tensor:
        """Return `[B, T, K, E]`: the user vectors after each place of the history.

        Args:
            history: `[B, T]` int64, `T <= max_history`.
        """
        raise NotImplementedError

    def user_vectors(self, history: Tensor) -> Tensor:
        """Return `[B, K, E]`: the user vectors after the whole history."""
        return self(history)[:, -1]

    def places(self, history: Tensor) -> Tensor:
        """Return `[B, T]` int64: 1 for the oldest item shown, 2 for the next; 0 where padded."""
        return (history != self.n_items).cumsum(dim=1)
