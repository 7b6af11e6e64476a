"""Item vectors of an ID model: an ID embedding, a map of frozen text vectors, or their sum.

Each kind is a module with the same interface, and any of them can be given to an encoder. After
UniSRec (Hou et al. 2022, arXiv:2206.05941), whose item vectors are made of text, too.

Axes: N items, E vector width, F width of the text vectors.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F


def standardise(vectors: NDArray[np.float32], has_text: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return `[N, F]` float32 text vectors with mean 0 per column and root mean square 1.

    Args:
        vectors: `[N, F]` vectors of the titles; rows of items without text are ignored.
        has_text: `[N]` bool, true for items with text; the other rows of the result are zero.

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


class ItemVectors(nn.Module):
    """The vectors of a catalogue, and a zero vector for the padding of histories.

    Args:
        n_items: Number of items N. The number N itself stands for padding.
        dim: Vector width E.
    """

    #: Whether items without training events have vectors that are made of their texts.
    reads_text = False

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.dim = dim

    def forward(self, items: Tensor) -> Tensor:
        """Return `[..., E]`, the vectors of items.

        Args:
            items: `[...]` int64 item numbers up to N.
        """
        raise NotImplementedError

    def table(self) -> Tensor:
        """Return `[N + 1, E]`, the vectors of all items; the last row, of the padding, is zero."""
        raise NotImplementedError

    def leave_to_text(self, cold: Tensor) -> None:
        """Set the part of the vectors to zero that only training events can teach.

        Args:
            cold: `[N]` bool, true for items without training events.
        """


class IDTable(ItemVectors):
    """One trained vector for each item (an ID embedding).

    Args:
        n_items: Number of items N.
        dim: Vector width E.
    """

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__(n_items, dim)
        self.embedding = nn.Embedding(n_items + 1, dim, padding_idx=n_items)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        with torch.no_grad():
            self.embedding.weight[n_items].zero_()

    def forward(self, items: Tensor) -> Tensor:
        """Return `[..., E]`, the vectors of items; see `ItemVectors.forward`."""
        return self.embedding(items)

    def table(self) -> Tensor:
        """Return `[N + 1, E]`, the vectors of all items; see `ItemVectors.table`."""
        return self.embedding.weight

    @torch.no_grad()
    def leave_to_text(self, cold: Tensor) -> None:
        """Set the vectors of items to zero; see `ItemVectors.leave_to_text`."""
        self.embedding.weight[:-1][cold] = 0


class TextAdapter(ItemVectors):
    """A trained map of frozen text vectors to item vectors.

    The text vectors are a buffer that is no part of the state. No layer has a bias, so the vector
    of an item without text is zero.

    Args:
        text_vectors: `[N, F]` float32 text vectors, about of size 1 (see `standardise`); zero for
            items without text.
        dim: Vector width E.
        n_layers: Number of layers. With 1 the map is linear. With more it has hidden layers of
            width 4 E and GELU between them.

    Raises:
        ValueError: If the text vectors are not a table, or there is no layer.
    """

    reads_text = True
    text_vectors: Tensor

    def __init__(self, text_vectors: Tensor, dim: int, *, n_layers: int = 1) -> None:
        if text_vectors.ndim != 2 or text_vectors.shape[1] < 1:
            raise ValueError(f"expected text vectors [N, F], got {list(text_vectors.shape)}")
        if n_layers < 1:
            raise ValueError(f"expected n_layers >= 1, got {n_layers}")
        super().__init__(len(text_vectors), dim)
        widths = [text_vectors.shape[1], *[4 * dim] * (n_layers - 1), dim]
        self.layers = nn.ModuleList(
            nn.Linear(width, next_width, bias=False) for width, next_width in pairwise(widths)
        )
        padded = F.pad(text_vectors.float(), (0, 0, 0, 1))
        self.register_buffer("text_vectors", padded, persistent=False)
        self._draw_weights()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        for layer in self._linear:
            layer.reset_parameters()
        self._draw_weights()

    def forward(self, items: Tensor) -> Tensor:
        """Return `[..., E]`, the vectors of items; see `ItemVectors.forward`."""
        # the map costs more than the look-up, so it is computed for the smaller of the two
        if items.numel() > len(self.text_vectors):
            return F.embedding(items, self.table())
        return self._mapped(self.text_vectors[items])

    def table(self) -> Tensor:
        """Return `[N + 1, E]`, the vectors of all items; see `ItemVectors.table`."""
        return self._mapped(self.text_vectors)

    @property
    def _linear(self) -> list[nn.Linear]:
        return cast("list[nn.Linear]", list(self.layers))

    def _mapped(self, vectors: Tensor) -> Tensor:
        for number, layer in enumerate(self._linear):
            if number:
                vectors = F.gelu(vectors)
            # the result has the size of an ID embedding, whatever the width of the text vectors
            vectors = F.linear(vectors, layer.weight / math.sqrt(layer.in_features))
        return vectors

    def _draw_weights(self) -> None:
        *hidden, last = self._linear
        for layer in hidden:
            # GELU about halves the mean square
            nn.init.normal_(layer.weight, std=math.sqrt(2))
        nn.init.normal_(last.weight, std=self.dim**-0.5)


class IDTextSum(ItemVectors):
    """The sum of an ID embedding and a map of text vectors.

    Args:
        ids: The ID embedding.
        text: The map of the text vectors, of the same N and E.
        id_dropout: Share of the ID embeddings that are left out in training, so that the map
            learns to stand alone, as it does for items without training events (after DropoutNet,
            Volkovs et al. 2017).

    Raises:
        ValueError: If the two are not of the same N and E.
    """

    reads_text = True

    def __init__(self, ids: IDTable, text: TextAdapter, *, id_dropout: float = 0.0) -> None:
        if text.n_items != ids.n_items or text.dim != ids.dim:
            raise ValueError(
                f"expected text vectors [{ids.n_items}, F] and a map to width {ids.dim}, "
                f"got {list(text.text_vectors[:-1].shape)} and {text.dim}"
            )
        super().__init__(ids.n_items, ids.dim)
        self.ids = ids
        self.text = text
        self.id_dropout = id_dropout

    def forward(self, items: Tensor) -> Tensor:
        """Return `[..., E]`, the vectors of items; see `ItemVectors.forward`."""
        return self._dropped(self.ids(items)) + self.text(items)

    def table(self) -> Tensor:
        """Return `[N + 1, E]`, the vectors of all items; see `ItemVectors.table`."""
        return self._dropped(self.ids.table()) + self.text.table()

    def leave_to_text(self, cold: Tensor) -> None:
        """Set the ID embeddings of items to zero; see `ItemVectors.leave_to_text`."""
        self.ids.leave_to_text(cold)

    def _dropped(self, ids: Tensor) -> Tensor:
        if not self.training or not self.id_dropout:
            return ids
        kept = torch.rand(ids.shape[:-1], device=ids.device) >= self.id_dropout
        return ids * kept[..., None]
