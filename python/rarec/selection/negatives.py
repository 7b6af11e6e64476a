"""Negative samples: items a user has not seen.

Axes: B rows of a batch, N items, U users, M numbers asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rarec import _rust
from rarec.data import Histories


class NegativeSampler:
    """Draws items a user has not seen, evenly or by popularity to a power.

    The distribution is `Q(i)` in proportion to `max(count(i), 1) ** alpha`, an item without
    events counting as if it had one. A user's draws follow `Q` renormalised over what the user
    has not seen. Draws are made with replacement: a row can hold an item twice.
    """

    def __init__(
        self,
        histories: Histories,
        n_items: int,
        *,
        alpha: float = 0.0,
        seed: int = 0,
        threads: int | None = None,
    ) -> None:
        """Prepare the tables.

        Args:
            histories: What each of the U users has seen; never drawn for that user.
            n_items: Number of items N.
            alpha: Power of the popularity; 0 draws evenly, 1 in proportion to the events.
            seed: Seed of all draws.
            threads: Number of threads; None takes `RAREC_NUM_THREADS`, else every processor. The
                draws do not depend on it.

        Raises:
            ValueError: If an item is not below `n_items`, `alpha` is negative or not finite, or
                the seed is not from 0 to 2**64 - 1.
        """
        if len(histories.items) and histories.items.max() >= n_items:
            raise ValueError(f"expected items below {n_items}, got {histories.items.max()}")
        if not (np.isfinite(alpha) and alpha >= 0):
            raise ValueError(f"expected a finite alpha >= 0, got {alpha}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"expected a seed from 0 to 2**64 - 1, got {seed}")
        if n_items < 1:
            raise ValueError(f"expected n_items >= 1, got {n_items}")
        self.n_items = n_items
        self.alpha = alpha
        self.seed = seed
        self.threads = threads
        self._seen = histories.sorted_unique()
        # in logs, and below the largest: a power of counts can pass the largest float
        counts = np.maximum(histories.counts(n_items), 1)
        log_weights = alpha * np.log(counts / counts.max())
        self._log_probability = log_weights - np.log(np.exp(log_weights).sum())
        self._probability = np.exp(self._log_probability)
        self._alias = _rust.alias_table(self._probability) if alpha > 0 else None

    def sample(
        self, users: ArrayLike, n: int, *, step: int, first_row: int = 0
    ) -> NDArray[np.int32]:
        """Return `[B, n]` int32 items, for each row items its user has not seen.

        The draws of a row depend on the seed, the step, the row's number and its user, and on
        nothing else. A batch drawn in parts gives each part the number of its first row.

        Args:
            users: `[B]` user numbers; a user may come up more than once.
            n: Items for each row.
            step: Number of the training step; another step, other draws.
            first_row: Number of the first row.

        Raises:
            ValueError: If a user is unknown or has seen every item.
        """
        rows = np.asarray(users)
        if rows.ndim != 1 or (len(rows) and not np.issubdtype(rows.dtype, np.integer)):
            raise ValueError(f"expected whole user numbers [B], got {rows.dtype} {rows.shape}")
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self._seen):
            raise ValueError(
                f"expected users from 0 to {len(self._seen) - 1}, got {rows.min()} to {rows.max()}"
            )
        for name, value in (("n", n), ("step", step), ("first_row", first_row)):
            if value < 0:
                raise ValueError(f"expected {name} >= 0, got {value}")
        return _rust.sample_negatives(
            self._seen.offsets,
            self._seen.items,
            np.ascontiguousarray(rows, dtype=np.int32),
            n,
            self.n_items,
            alias=self._alias,
            seed=self.seed,
            step=step,
            first_row=first_row,
            threads=self.threads,
        )

    def log_probability(
        self, items: ArrayLike, users: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Return the log of how likely a draw gives each item, float64, in the shape of `items`.

        Without `users` this is `log Q` before anything is left out. The draws of a user follow
        `Q` renormalised over the unseen items, larger by a constant for all items of that user:
        a softmax over one user's items does not notice. With `users` it is that exact
        distribution, and minus infinity for an item the user has seen.

        Args:
            items: `[B]` or `[B, M]` item numbers.
            users: `[B]` user numbers, or None.

        Raises:
            ValueError: If an item or a user is out of range, or there are not B users.
        """
        numbers = np.asarray(items, dtype=np.int64)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < self.n_items:
            raise ValueError(
                f"expected items from 0 to {self.n_items - 1}, "
                f"got {numbers.min()} to {numbers.max()}"
            )
        log_q = self._log_probability[numbers]
        if users is None:
            return log_q
        rows = np.asarray(users, dtype=np.int64)
        if numbers.ndim not in (1, 2) or rows.shape != numbers.shape[:1]:
            raise ValueError(
                f"expected items [B] or [B, M] and users [B], "
                f"got {list(numbers.shape)} and {list(rows.shape)}"
            )
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self._seen):
            raise ValueError(f"expected users from 0 to {len(self._seen) - 1}")
        columns = numbers.reshape(len(rows), -1)
        # a user who has seen everything has no mass, and minus infinity for every item
        with np.errstate(divide="ignore"):
            exact = log_q.reshape(columns.shape) - np.log(self._unseen_mass(rows))[:, None]
        exact[self._is_seen(rows, columns)] = -np.inf
        return exact.reshape(numbers.shape)

    def _unseen_mass(self, users: NDArray[np.int64]) -> NDArray[np.float64]:
        distinct, place = np.unique(users, return_inverse=True)
        # summed over the unseen, not as 1 - seen: a nearly complete row would lose its digits
        unseen = np.ones(self.n_items, dtype=np.bool_)
        mass = np.empty(len(distinct))
        for row, user in enumerate(distinct):
            seen = self._seen[user]
            unseen[seen] = False
            mass[row] = self._probability[unseen].sum()
            unseen[seen] = True
        return mass[place]

    def _is_seen(self, users: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        keys = self._seen.rows * self.n_items + self._seen.items
        asked = users[:, None] * self.n_items + columns
        place = np.minimum(np.searchsorted(keys, asked), max(len(keys) - 1, 0))
        return keys[place] == asked if len(keys) else np.zeros(columns.shape, dtype=np.bool_)
