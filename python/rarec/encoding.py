"""Representations of many users or items: short batches of texts of like length.

Axes: R rows (entities), r rows that are read, B batch, T tokens, K ID tokens, E width of the ID
vectors, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from rarec.backbone import Backbone
from rarec.model import EntityBatch, RARec, Tower
from rarec.prompts import Tokens

#: Most tokens of a batch by default, padding included.
BATCH_TOKENS = 4096


@dataclass(frozen=True, eq=False)
class Entities:
    """Texts and ID vectors of R users or items.

    Attributes:
        tokens: R texts.
        id_vectors: `[R, K, E]` float32 ID vectors, or None.
        has_id: `[R]` bool, false where the row of `id_vectors` has no meaning (a cold entity).
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


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """Batches of rows, cut from one global order.

    A part of the plan has whole batches of it. So a part of the work reads the same batches as the
    whole work, and gives the same bits.

    Attributes:
        batches: Row numbers of each batch, int64. No row is in two batches.
    """

    batches: tuple[NDArray[np.int64], ...]

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Numbers of the rows in the batches, ascending."""
        return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *self.batches]))

    def part(self, k: int, n: int) -> BatchPlan:
        """Return every n-th batch, beginning with batch `k`.

        The parts 0 to n - 1 have each batch once.

        Args:
            k: Number of the part, from 0 to n - 1.
            n: Number of parts.

        Raises:
            ValueError: If there is no such part.
        """
        if not 0 <= k < n:
            raise ValueError(f"expected a part from 0 to {n - 1}, got {k}")
        return BatchPlan(self.batches[k::n])


def plan_batches(lengths: NDArray[np.int64], batch_tokens: int = BATCH_TOKENS) -> BatchPlan:
    """Return a plan with all rows in batches of like length, the shortest first.

    Args:
        lengths: `[R]` number of tokens of each row.
        batch_tokens: Most tokens of a batch, padding included. A row that is longer is alone.
    """
    order = np.argsort(lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= batch_tokens:
            stop += 1
        batches.append(order[start:stop])
        start = stop
    return BatchPlan(tuple(batches))


@torch.no_grad()
def encode(
    model: RARec,
    tower: Tower,
    entities: Entities,
    *,
    plan: BatchPlan | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Return `[r, H]` float32: representations of the r rows in `plan.rows`, all R by default.

    Args:
        model: The model.
        tower: One of the towers, `model.user` or `model.item`.
        entities: R users or items.
        plan: Batches that are read. By default `plan_batches` makes them for all rows.
        on_rows: Called after each batch with its number of rows.
    """
    model.eval()
    # of all entities, not of those in the plan: how prefixes are prepared depends on the number
    n_vectors = 0 if entities.id_vectors is None else entities.id_vectors.shape[1] * len(entities)
    prepared = model.prepare(tower, n_vectors)

    def read(rows: NDArray[np.int64]) -> Tensor:
        batch = entities.batch(rows).to(model.backbone.device)
        return model.encode(tower, batch, prepared)

    return _table(read, entities.tokens, model.backbone.hidden_size, plan, on_rows)


@torch.no_grad()
def encode_texts(
    backbone: Backbone,
    tokens: Tokens,
    *,
    plan: BatchPlan | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Return `[r, H]` float32: pooled last states of texts, without soft prompts, of length one.

    Args:
        backbone: The language model.
        tokens: R texts.
        plan: Batches that are read, with r rows. By default `plan_batches` makes them for all rows.
        on_rows: Called after each batch with its number of rows.
    """

    def read(rows: NDArray[np.int64]) -> Tensor:
        ids, mask = (part.to(backbone.device) for part in tokens.batch(rows))
        pooled = backbone.pool(backbone.last_hidden_states(ids, mask), mask)
        return F.normalize(pooled.float(), dim=-1)

    return _table(read, tokens, backbone.hidden_size, plan, on_rows)


def _table(
    read: Callable[[NDArray[np.int64]], Tensor],
    tokens: Tokens,
    width: int,
    plan: BatchPlan | None,
    on_rows: Callable[[int], None] | None,
) -> NDArray[np.float32]:
    """Return `[r, width]` float32: what `read` returns for the rows of a plan, in their order."""
    plan = plan_batches(tokens.lengths) if plan is None else plan
    table = np.empty((len(plan.rows), width), dtype=np.float32)
    for rows in plan:
        table[np.searchsorted(plan.rows, rows)] = read(rows).cpu().numpy()
        if on_rows is not None:
            on_rows(len(rows))
    return table
