"""Representations of many users or items: short batches of texts of like length.

Axes: R rows (entities), B batch, T tokens, K ID tokens, E width of the ID vectors, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional as F

from rarec.backbone import Backbone
from rarec.model import EntityBatch, RARec, Tower
from rarec.prompts import Tokens


@dataclass(frozen=True, eq=False)
class Entities:
    """Texts and ID vectors of R users or items.

    Attributes:
        tokens: R texts.
        id_vectors: `[R, K, E]` float32, or None.
        has_id: `[R]` bool, false where the row of `id_vectors` means nothing.
    """

    tokens: Tokens
    id_vectors: NDArray[np.float32] | None = None
    has_id: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        n_rows = len(self.tokens)
        if self.id_vectors is not None and (
            self.id_vectors.ndim != 3 or len(self.id_vectors) != n_rows
        ):
            raise ValueError(
                f"expected id_vectors [{n_rows}, K, E], got {list(self.id_vectors.shape)}"
            )
        if self.has_id is not None and self.has_id.shape != (n_rows,):
            raise ValueError(f"expected has_id [{n_rows}], got {list(self.has_id.shape)}")

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, rows: ArrayLike) -> EntityBatch:
        """Return the entities in `rows`, padded to the longest of them."""
        rows = np.asarray(rows, dtype=np.int64)
        id_vectors = has_id = None
        if self.id_vectors is not None:
            id_vectors = torch.from_numpy(self.id_vectors[rows])
            if self.has_id is not None and not self.has_id[rows].all():
                has_id = torch.from_numpy(self.has_id[rows])
        return EntityBatch(*self.tokens.batch(rows), id_vectors, has_id)


@torch.no_grad()
def encode(
    model: RARec,
    tower: Tower,
    entities: Entities,
    *,
    batch_tokens: int = 4096,
    on_rows: Callable[[int], None] | None = None,
    fill: Callable[[EntityBatch, NDArray[np.int64]], EntityBatch] | None = None,
) -> NDArray[np.float32]:
    """Return `[R, H]` float32 representations.

    Args:
        model: The model.
        tower: `model.user` or `model.item`.
        entities: R users or items.
        batch_tokens: Tokens of a batch at most, padding included.
        on_rows: Called after each batch with the number of rows it had.
        fill: Completes the batch of some rows with its lower states.
    """
    model.eval()
    n_vectors = 0 if entities.id_vectors is None else entities.id_vectors.shape[1] * len(entities)
    prepared = model.prepare(tower, n_vectors)
    table = np.empty((len(entities), model.backbone.hidden_size), dtype=np.float32)
    for rows in length_batches(entities.tokens.lengths, batch_tokens):
        batch = entities.batch(rows)
        if fill is not None:
            batch = fill(batch, rows)
        batch = batch.to(model.backbone.device)
        table[rows] = model.encode(tower, batch, prepared).cpu().numpy()
        if on_rows is not None:
            on_rows(len(rows))
    return table


@torch.no_grad()
def encode_texts(
    backbone: Backbone,
    tokens: Tokens,
    *,
    batch_tokens: int = 4096,
    on_rows: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Return `[R, H]` float32 representations of texts as the language model alone has them.

    Args:
        backbone: The language model.
        tokens: R texts.
        batch_tokens: Tokens of a batch at most, padding included.
        on_rows: Called after each batch with the number of rows it had.

    Returns:
        Pooled last states, each of length one.
    """
    table = np.empty((len(tokens), backbone.hidden_size), dtype=np.float32)
    for rows in length_batches(tokens.lengths, batch_tokens):
        ids, mask = (part.to(backbone.device) for part in tokens.batch(rows))
        pooled = backbone.pool(backbone.last_hidden_states(ids, mask), mask)
        table[rows] = F.normalize(pooled.float(), dim=-1).cpu().numpy()
        if on_rows is not None:
            on_rows(len(rows))
    return table


def length_batches(lengths: NDArray[np.int64], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Yield row numbers in batches of like length, shortest first, each row once.

    Args:
        lengths: `[R]` tokens of each row.
        batch_tokens: Rows x longest row of a batch stays below this, unless one row is longer.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= batch_tokens:
            stop += 1
        yield order[start:stop]
        start = stop
