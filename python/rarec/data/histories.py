"""Histories of users as one CSR table, each row in time order.

Axes: U users, E events (interactions), N items.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Histories:
    """The items of each user, oldest first; user `u` has `items[offsets[u]:offsets[u + 1]]`.

    Attributes:
        offsets: `[U + 1]` int64, non-decreasing, from 0 to E.
        items: `[E]` int32 item numbers.
        times: `[E]` float64 seconds (or the unit that the source has), or None if unknown.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    times: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        offsets = np.ascontiguousarray(self.offsets, dtype=np.int64)
        items = np.ascontiguousarray(self.items, dtype=np.int32)
        if offsets.ndim != 1 or len(offsets) == 0 or offsets[0] != 0:
            raise ValueError(
                f"expected offsets [U + 1] that start at 0, got shape {list(offsets.shape)} and "
                f"the start {offsets.ravel()[:1].tolist()}"
            )
        if offsets[-1] != len(items):
            raise ValueError(
                f"expected offsets that end at {len(items)} (the number of items), "
                f"got the end {offsets[-1]}"
            )
        if np.any(np.diff(offsets) < 0):
            row = int(np.argmin(np.diff(offsets)))
            raise ValueError(
                f"expected offsets that never decrease, got {offsets[row]} before "
                f"{offsets[row + 1]}"
            )
        if len(items) and items.min() < 0:
            raise ValueError(f"expected item numbers >= 0, got {items.min()}")
        times = self.times
        if times is not None:
            times = np.ascontiguousarray(times, dtype=np.float64)
            if times.shape != items.shape:
                raise ValueError(f"expected {len(items)} times, got {len(times)}")
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "items", items)
        object.__setattr__(self, "times", times)

    @classmethod
    def from_lists(cls, rows: Iterable[Sequence[int]]) -> Histories:
        """Return histories made of one list of item numbers per user."""
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in arrays], out=offsets[1:])
        return cls(offsets, np.concatenate(arrays) if arrays else np.empty(0, np.int32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`[U]` int64: the number of events of each user."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> NDArray[np.int64]:
        """`[E]` int64: the user of each event."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def counts(self, n_items: int) -> NDArray[np.int64]:
        """Return `[n_items]` int64: how often each item occurs."""
        return np.bincount(self.items, minlength=n_items)

    def slices(self, starts: ArrayLike, ends: ArrayLike) -> Histories:
        """Return R rows; row `i` is `items[starts[i]:ends[i]]`.

        Args:
            starts: `[R]` position in `items` where each row starts.
            ends: `[R]` position in `items` after the end of each row, at least its start.
        """
        starts = np.asarray(starts, dtype=np.int64)
        lengths = np.asarray(ends, dtype=np.int64) - starts
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        index = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        times = None if self.times is None else self.times[index]
        return Histories(offsets, self.items[index], times)

    def take(self, rows: ArrayLike) -> Histories:
        """Return the histories of the users in `rows`, in that order."""
        rows = np.asarray(rows, dtype=np.int64)
        return self.slices(self.offsets[rows], self.offsets[rows + 1])

    def sorted_unique(self) -> Histories:
        """Return each user's distinct items in ascending order, without times."""
        if not len(self.items):
            return Histories(self.offsets, self.items)
        width = int(self.items.max()) + 1
        keys = np.unique(self.rows * width + self.items)
        offsets = np.searchsorted(keys, np.arange(len(self) + 1) * width)
        return Histories(offsets, keys % width)

    def last(self, n: int) -> Histories:
        """Return the newest `n` events of each user."""
        ends = self.offsets[1:]
        return self.slices(np.maximum(self.offsets[:-1], ends - n), ends)

    def padded(self, length: int, padding: int) -> NDArray[np.int64]:
        """Return `[U, length]` int64: the newest `length` items, oldest first, padded on the left.

        Args:
            length: Number of columns.
            padding: Value of the columns that a shorter history leaves empty.
        """
        newest = self.last(length)
        table = np.full((len(self), length), padding, dtype=np.int64)
        column = np.arange(len(newest.items)) - np.repeat(newest.offsets[1:], newest.lengths)
        table[newest.rows, column + length] = newest.items
        return table
