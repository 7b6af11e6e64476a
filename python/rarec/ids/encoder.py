"""What every ID model is here: an item table, and an encoder of a history into user vectors.

Axes: B users, T places of a history, K vectors per user, E width, N items.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rarec.ids.text import TextItemEmbedding


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
        table = nn.Embedding(n_items + 1, dim, padding_idx=n_items)
        nn.init.normal_(table.weight, std=dim**-0.5)
        with torch.no_grad():
            table.weight[n_items].zero_()
        self.item_embedding: nn.Embedding | TextItemEmbedding = table

    @property
    def item_vectors(self) -> Tensor:
        """`[N, E]` the vectors that answers are scored with; computed each time with text."""
        return self.item_embedding.weight[: self.n_items]

    def read_text(self, text_vectors: Tensor, *, id_dropout: float = 0.0) -> None:
        """Add a linear map of text vectors to the item vectors, once, before any training.

        Args:
            text_vectors: `[N, F]` float32; zero for items without text.
            id_dropout: Share of the ID parts left out in training.
        """
        table = self.item_embedding
        assert isinstance(table, nn.Embedding)
        self.item_embedding = TextItemEmbedding(table, text_vectors, id_dropout=id_dropout)

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
