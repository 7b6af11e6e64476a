"""Item vectors that are an ID embedding plus a linear map of frozen text vectors.

After UniSRec (Hou et al. 2022, arXiv:2206.05941), whose item vectors are made of text too; here a
linear map stands for its mixture of experts.

Axes: N items, E width, F width of the text vectors, B users, T places of a history.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F


def standardised(vectors: NDArray[np.float32], has_text: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return `[N, F]` float32: zero mean per column, root mean square 1; zero without text.

    Args:
        vectors: `[N, F]`; rows of items without text mean nothing.
        has_text: `[N]` bool.

    Raises:
        ValueError: If no item has text.
    """
    if not has_text.any():
        raise ValueError("expected items with text, got none")
    known = vectors[has_text].astype(np.float64)
    known -= known.mean(axis=0)
    known /= max(np.sqrt(np.square(known).mean()), 1e-12)
    found = np.zeros(vectors.shape, dtype=np.float32)
    found[has_text] = known
    return found


class TextItemEmbedding(nn.Module):
    """An item table that stands in for `nn.Embedding`: row `i` is `ids[i] + W text[i]`.

    The text vectors are no part of the state: they are frozen, and kept beside it.

    Args:
        ids: `[N + 1, E]` table, whose last row stands for padding.
        text: `[N, F]` float32 text vectors; zero for items without text.
        id_dropout: In training, share of the ID parts that are left out, so that the text part
            learns to stand alone as it does for cold items (after DropoutNet, Volkovs et al. 2017).
    """

    text: Tensor

    def __init__(self, ids: nn.Embedding, text: Tensor, *, id_dropout: float = 0.0) -> None:
        super().__init__()
        n_items, dim = ids.num_embeddings - 1, ids.embedding_dim
        if text.ndim != 2 or len(text) != n_items or text.shape[1] < 1:
            raise ValueError(f"expected text vectors [{n_items}, F], got {list(text.shape)}")
        self.ids = ids
        self.project = nn.Linear(text.shape[1], dim, bias=False)
        nn.init.normal_(self.project.weight, std=dim**-0.5)
        self.id_dropout = id_dropout
        self.register_buffer("text", F.pad(text.float(), (0, 0, 0, 1)), persistent=False)

    @property
    def text_vectors(self) -> Tensor:
        """`[N, F]` the text vectors."""
        return self.text[:-1]

    @property
    def weight(self) -> Tensor:
        """`[N + 1, E]` the whole table, computed anew each time."""
        return self._kept(self.ids.weight) + self._projected(self.text)

    def forward(self, items: Tensor) -> Tensor:
        """Return `[B, T, E]`: the rows of `[B, T]` items."""
        if items.numel() > len(self.text):
            text_part = F.embedding(items, self._projected(self.text))
        else:
            text_part = self._projected(self.text[items])
        return self._kept(self.ids(items)) + text_part

    @torch.no_grad()
    def leave_to_text(self, cold: Tensor) -> None:
        """Set the ID part of items to zero; it stays so in a loss that leaves them out.

        Args:
            cold: `[N]` bool: items without training events.
        """
        self.ids.weight[:-1][cold] = 0

    def _projected(self, text: Tensor) -> Tensor:
        # as large as the ID part at the start, however many columns the text vectors have
        return F.linear(text, self.project.weight / math.sqrt(self.project.in_features))

    def _kept(self, ids: Tensor) -> Tensor:
        if not self.training or not self.id_dropout:
            return ids
        kept = torch.rand(ids.shape[:-1], device=ids.device) >= self.id_dropout
        return ids * kept[..., None]
