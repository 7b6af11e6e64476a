"""Training histories cut into windows, from which the batches are made.

Axes: W windows, B windows of a batch, T targets of a window, E events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rarec.data import Histories


class HistoryWindows:
    """Training histories cut into windows of T targets, of which the newest one is full.

    Consecutive windows of a user share one event: the last target of the older one is the first
    input of the newer one, so each event except a user's first one is a target exactly once.

    Args:
        train: Training histories.
        length: Number of targets of a window T.
        n_items: Number of items N.
        held_out: `[E]` bool over `train.items`, true for events that are never a target. They stay
            in the histories. None holds out nothing.

    Attributes:
        users: `[W]` row of each window in the training histories.
        n_targets: Number of targets in all windows that are not held out.
        n_held_out: Number of targets that are held out.

    Raises:
        ValueError: If an item is not below N, the shapes do not fit, or there is no target.
    """

    def __init__(
        self,
        train: Histories,
        length: int,
        n_items: int,
        held_out: NDArray[np.bool_] | None,
    ) -> None:
        if len(train.items) and train.items.max() >= n_items:
            raise ValueError(f"expected item numbers < {n_items}, got {train.items.max()}")
        if held_out is None:
            held_out = np.zeros(len(train.items), dtype=bool)
        if held_out.shape != train.items.shape:
            raise ValueError(f"expected held_out [{len(train.items)}], got {held_out.shape}")
        n_windows = -(-np.maximum(train.lengths - 1, 0) // length)
        self.users = np.repeat(np.arange(len(train)), n_windows)
        first = np.cumsum(n_windows) - n_windows
        age = np.arange(len(self.users)) - np.repeat(first, n_windows)  # 0 = newest
        ends = train.offsets[1:][self.users] - age * length
        starts = np.maximum(ends - length - 1, train.offsets[:-1][self.users])
        self.items = train.slices(starts, ends)
        flags = Histories(train.offsets, held_out.astype(np.int32))
        self.held_out = flags.slices(starts, ends)
        self.length = length
        self.n_items = n_items
        firsts = train.offsets[:-1][train.lengths > 0]
        self.n_held_out = int(held_out.sum() - held_out[firsts].sum())
        self.n_targets = len(train.items) - len(firsts) - self.n_held_out
        if self.n_targets < 1:
            raise ValueError(
                "expected a user with two training events or more, not all held out, got none"
            )

    def __len__(self) -> int:
        return len(self.users)

    def digest(self) -> str:
        """Return a hash of the events and of which of them are held out."""
        digest = hashlib.sha256()
        for array in (self.items.offsets, self.items.items, self.held_out.items):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def batches(self, size: int, *, seed: int, epoch: int) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of each batch of an epoch, `[B]`, in a random order.

        The order depends on the seed and the epoch alone, so it is the same when a training is
        resumed, and whatever is held out.

        Args:
            size: Number of windows of a batch.
            seed: Seed of the order.
            epoch: Number of epochs before this one.
        """
        order = np.random.default_rng([seed, epoch]).permutation(len(self))
        for start in range(0, len(self), size):
            yield order[start : start + size]

    def batch(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs `[B, T]`, targets `[B, T]` and which targets count, `[B, T]` bool."""
        items = torch.from_numpy(self.items.take(rows).padded(self.length + 1, self.n_items))
        held_out = torch.from_numpy(self.held_out.take(rows).padded(self.length + 1, 1))
        inputs, targets = items[:, :-1], items[:, 1:]
        return inputs, targets, (inputs != self.n_items) & (held_out[:, 1:] == 0)
