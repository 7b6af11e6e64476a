"""States of texts below the lowest prefix: computed before the training, then only read.

With prefixes in the top layers alone, a frozen model gives a text the same states below them each
time. A training that reads texts more than once computes these states once. All of them come from
one plan of batches, so a resumed training reads or computes the same bits.

Axes: R rows (texts), B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import FileIO

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rarec.backbone import Backbone
from rarec.encoding import Entities, plan_batches
from rarec.model import EntityBatch, RARec
from rarec.progress import progress_bar
from rarec.prompts import Tokens
from rarec.training.batches import TrainingBatch, TrainingData
from rarec.training.state_cache import Part, StateCache, texts_hash

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LowerStates:
    """States of R texts entering a layer, read from a file as batches need them.

    Attributes:
        file: The open file, with the states of one text after another.
        numbers: `[R]` int64 numbers of the texts among all users or items, ascending.
        offsets: `[R + 1]` int64 number of tokens before each text.
        width: Hidden size H.
        dtype: Number format of the states.
    """

    file: FileIO
    numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    width: int
    dtype: torch.dtype

    def fill(self, batch: EntityBatch, numbers: ArrayLike) -> EntityBatch:
        """Return a batch with its lower states.

        Args:
            batch: B texts on the CPU.
            numbers: `[B]` numbers of the texts; all are among `self.numbers`.
        """
        rows = np.searchsorted(self.numbers, np.asarray(numbers))
        present = batch.attention_mask.bool()
        states = torch.empty(int(present.sum()), self.width, dtype=self.dtype)
        for row, part in zip(rows, states.split(present.sum(dim=1).tolist()), strict=True):
            self.file.seek(int(self.offsets[row]) * self.width * self.dtype.itemsize)
            buffer = part.view(torch.uint8).numpy().data
            if self.file.readinto(buffer) != buffer.nbytes:
                raise OSError(f"expected {buffer.nbytes} bytes of states in {self.file.name!r}")
        lower = states.new_zeros(*present.shape, self.width)
        lower[present] = states
        return replace(batch, lower=lower)

    def close(self) -> None:
        """Close the file."""
        self.file.close()


@dataclass(frozen=True, eq=False)
class TrainingLowerStates:
    """Lower states for the batches of a training.

    Attributes:
        users: Those of the users, or None to compute them in each batch.
        items: Those of the items, or None to compute them in each batch.
    """

    users: LowerStates | None = None
    items: LowerStates | None = None

    def fill(self, batch: TrainingBatch) -> TrainingBatch:
        """Return a batch whose texts have their lower states, where there are any."""
        users, items = batch.users, batch.items
        if self.users is not None:
            users = self.users.fill(users, batch.user_rows)
        if self.items is not None:
            items = self.items.fill(items, batch.item_rows)
        return replace(batch, users=users, items=items)

    def close(self) -> None:
        """Close the files."""
        for states in (self.users, self.items):
            if states is not None:
                states.close()


def lower_states(
    model: RARec,
    tokens: Tokens,
    numbers: NDArray[np.int64],
    *,
    cache: StateCache | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> LowerStates:
    """Return the states of texts below the lowest prefix, computed now if they are not cached.

    Args:
        model: A model whose lower states never change (`RARec.keeps_lower_states`).
        tokens: Texts of all users or items.
        numbers: `[R]` numbers of the texts whose states are needed, ascending.
        cache: The cache. By default it is the one in the cache folder of rarec.
        on_rows: Called after each batch that is computed with its number of rows.

    Raises:
        OSError: If the states cannot be written.
    """
    cache = cache or StateCache()
    backbone, below = model.backbone, model.prompted_layers.start
    texts = tokens.take(numbers)
    name = texts_hash(f"entering layer {below} in {backbone.dtype}", backbone, texts)
    file = cache.open(
        name,
        _n_bytes(backbone, tokens, numbers),
        lambda: _computed(backbone, texts, below, on_rows),
    )
    return LowerStates(file, numbers, texts.offsets, backbone.hidden_size, backbone.dtype)


def training_lower_states(
    model: RARec,
    data: TrainingData,
    n_samples: int,
    *,
    cache: StateCache | None = None,
    progress: bool = False,
) -> TrainingLowerStates:
    """Return the lower states that save a training time.

    States are made for the users if their texts are read more often than there are texts, and for
    the items likewise. They are not made if they change in the training, or if they would exceed
    the limit of the cache. Then the training computes them in each batch.

    Args:
        model: The model.
        data: The chosen samples.
        n_samples: Number of samples that the training reads, repeated ones included.
        cache: The cache. By default it is the one in the cache folder of rarec.
        progress: Show bars.
    """
    made: dict[str, LowerStates] = {}
    if not model.keeps_lower_states:
        return TrainingLowerStates()
    cache = cache or StateCache()
    room = cache.limit
    sides: list[tuple[str, Entities, NDArray[np.int64], int]] = [
        ("items", data.items, data.possible_items(), n_samples * data.items_per_sample),
        ("users", data.users, np.arange(len(data)), n_samples),
    ]
    for side, entities, numbers, n_read in sides:
        n_bytes = _n_bytes(model.backbone, entities.tokens, numbers)
        if n_read <= len(numbers) or n_bytes > room:
            continue
        room -= n_bytes
        with progress_bar(f"lower states of {side}", len(numbers), shown=progress) as advance:
            try:
                made[side] = lower_states(
                    model, entities.tokens, numbers, cache=cache, on_rows=advance
                )
            except OSError as error:
                _log.warning("lower states of %s are not kept: %s", side, error)
    return TrainingLowerStates(**made)


def _n_bytes(backbone: Backbone, tokens: Tokens, numbers: NDArray[np.int64]) -> int:
    n_tokens = int(tokens.lengths[numbers].sum())
    return n_tokens * backbone.hidden_size * backbone.dtype.itemsize


def _computed(
    backbone: Backbone, texts: Tokens, below: int, on_rows: Callable[[int], None] | None
) -> Iterator[Part]:
    """Yield the states of each text, and their place in the file."""
    for rows in plan_batches(texts.lengths):
        ids, mask = (part.to(backbone.device) for part in texts.batch(rows))
        states: Tensor = backbone.lower_states(ids, mask, below=below)
        for row, text in zip(rows, states.cpu(), strict=True):
            data = text[: texts.lengths[row]].view(torch.uint8).numpy()
            first = int(texts.offsets[row])
            yield first * data.shape[1], np.ascontiguousarray(data)
        if on_rows is not None:
            on_rows(len(rows))
