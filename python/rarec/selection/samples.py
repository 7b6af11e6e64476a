"""Training samples: the item of an event is the target, the events before it are the history.

Axes: S samples, U users, E events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rarec.data import Histories


@dataclass(frozen=True, eq=False)
class Samples:
    """S samples; the target of sample `i` is the item of event `positions[i]`.

    A sample is stored as one position in the histories, so no history is copied.

    Attributes:
        histories: Training histories of all users.
        positions: `[S]` int64 positions of the targets in `histories.items`.
    """

    histories: Histories
    positions: NDArray[np.int64]

    def __post_init__(self) -> None:
        positions = np.ascontiguousarray(self.positions, dtype=np.int64)
        n_events = len(self.histories.items)
        if positions.ndim != 1:
            raise ValueError(f"expected positions [S], got shape {list(positions.shape)}")
        if len(positions) and not 0 <= positions.min() <= positions.max() < n_events:
            raise ValueError(
                f"expected positions from 0 to {n_events - 1}, "
                f"got {positions.min()} to {positions.max()}"
            )
        object.__setattr__(self, "positions", positions)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def users(self) -> NDArray[np.int32]:
        """`[S]` int32: the user of each sample."""
        # "right", because users without events repeat an offset, and the last of these rows is
        # the one with the event
        rows = np.searchsorted(self.histories.offsets, self.positions, side="right") - 1
        return rows.astype(np.int32)

    @property
    def targets(self) -> NDArray[np.int32]:
        """`[S]` int32: the target item of each sample."""
        return self.histories.items[self.positions]

    @property
    def starts(self) -> NDArray[np.int64]:
        """`[S]` int64: the position in `histories.items` where each sample's history starts."""
        return self.histories.offsets[self.users]

    @property
    def ends(self) -> NDArray[np.int64]:
        """`[S]` int64: the position after each sample's history, which is that of its target."""
        return self.positions

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`[S]` int64: the number of events before each target."""
        return self.ends - self.starts

    def prefixes(self, n: int) -> Histories:
        """Return the newest `n` events before each target, one row per sample.

        Args:
            n: Largest number of events in a row; at least 1.

        Raises:
            ValueError: If `n < 1`.
        """
        if n < 1:
            raise ValueError(f"expected n >= 1, got {n}")
        return self.histories.slices(np.maximum(self.starts, self.ends - n), self.ends)

    def take(self, rows: ArrayLike) -> Samples:
        """Return the samples in `rows` (row numbers or a mask), in that order."""
        rows = np.asarray(rows)
        if rows.size == 0 and rows.dtype != np.bool_:
            # NumPy turns an empty list into floats, which it then refuses as an index
            rows = rows.astype(np.int64)
        return Samples(self.histories, self.positions[rows])


def training_samples(histories: Histories, *, min_history: int = 1) -> Samples:
    """Return all samples of the histories: each event after the first `min_history` of a user.

    Args:
        histories: Training histories, oldest first.
        min_history: Least number of events before a target. With 0, the first item of a user is
            also a target, with an empty history.

    Raises:
        ValueError: If `min_history < 0`.
    """
    if min_history < 0:
        raise ValueError(f"expected min_history >= 0, got {min_history}")
    first = np.repeat(histories.offsets[:-1], histories.lengths)
    positions = np.arange(len(histories.items))
    return Samples(histories, positions[positions - first >= min_history])


def held_out_mask(samples: Samples) -> NDArray[np.bool_]:
    """Return `[E]` bool: True where an event of `samples.histories` is the target of a sample.

    An ID model leaves these events out of its loss. Otherwise its vectors would contain the
    correct answers of the samples on which the language model is tuned. See docs/method.md,
    "Held-out samples".
    """
    mask = np.zeros(len(samples.histories.items), dtype=np.bool_)
    mask[samples.positions] = True
    return mask
