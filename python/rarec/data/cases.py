"""Evaluation cases: the history of a user, and the item that came next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rarec.data.histories import Histories


@dataclass(frozen=True, eq=False)
class Cases:
    """C evaluation cases; in case `i` the model predicts which item follows `histories[i]`.

    Attributes:
        users: `[C]` int32 user numbers (rows of the dataset).
        targets: `[C]` int32 item numbers, the correct answers.
        histories: C rows with all items that the user had before the target, oldest first.
    """

    users: NDArray[np.int32]
    targets: NDArray[np.int32]
    histories: Histories

    def __post_init__(self) -> None:
        if not len(self.users) == len(self.targets) == len(self.histories):
            raise ValueError(
                f"expected as many users as targets and histories, "
                f"got {len(self.users)}, {len(self.targets)} and {len(self.histories)}"
            )

    def __len__(self) -> int:
        return len(self.users)

    def sample(self, n: int, *, seed: int) -> Cases:
        """Return at most `n` of the cases, drawn uniformly without replacement, in their order.

        Args:
            n: Largest number of cases. If there are no more than `n` cases, all are returned.
            seed: Seed of the draw.
        """
        if len(self) <= n:
            return self
        chosen = np.random.default_rng(seed).permutation(len(self))[:n]
        return self.take(np.sort(chosen))

    def take(self, rows: ArrayLike) -> Cases:
        """Return the cases in `rows`, in that order."""
        rows = np.asarray(rows, dtype=np.int64)
        return Cases(self.users[rows], self.targets[rows], self.histories.take(rows))
