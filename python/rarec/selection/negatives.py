"""Negative samples: items a user has not seen.

Axes: B rows of a batch, N items, U users, M numbers asked for, E items left out, P pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rarec import _rust
from rarec.data import Histories

Integers = NDArray[np.int32] | NDArray[np.int64]


class NegativeSampler:
    """Draws items a user has not seen, evenly or by popularity to a power.

    The distribution is `Q(i)` in proportion to `max(count(i), 1) ** alpha`, an item without
    events counting as if it had one. The draws of a row follow `Q` renormalised over what the row
    can get: what its user has not seen and the call does not exclude. Draws are made with
    replacement: a row can hold an item twice. Item numbers are 0 to N - 1; none is padding.

    `Q` is held to `1 / (N * 2**32)`, and an item has at least that share. Memory: 16 bytes an item
    for `alpha > 0` and nothing for `alpha = 0`, beside the seen items.
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
            n_items: Number of items N, up to 2**31 - 1.
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
        if not 1 <= n_items < 2**31:
            raise ValueError(f"expected n_items from 1 to 2**31 - 1, got {n_items}")
        self.n_items = n_items
        self.alpha = alpha
        self.seed = seed
        self.threads = threads
        self._seen = histories.sorted_unique()
        self._alias = _alias_table(histories, n_items, alpha) if alpha > 0 else None

    def sample(
        self,
        users: ArrayLike,
        n: int,
        *,
        step: int,
        first_row: int = 0,
        exclude: ArrayLike | None = None,
        exclude_by_row: ArrayLike | None = None,
        out: Integers | None = None,
    ) -> Integers:
        """Return `[B, n]` items, for each row items its user has not seen.

        The draws of a row depend on the seed, the step, the row's number, its user and what it
        must not get, and on nothing else: not on threads, processes or calls before. A batch drawn
        in parts gives each part the number of its first row.

        Args:
            users: `[B]` user numbers; a user may come up more than once.
            n: Items for each row.
            step: Number of the training step; another step, other draws.
            first_row: Number of the first row.
            exclude: `[E]` more items that no row may get.
            exclude_by_row: `[B]` or `[B, M]` more items that the row may not get, such as its
                target; -1 stands for none.
            out: `[B, n]` int32 or int64, C-contiguous: filled and returned. A buffer that is used
                again saves the time the system takes to hand out new memory. None makes an int32
                one. After an error it may be filled in part.

        Raises:
            ValueError: If a user or an item is out of range, a shape does not fit, or nothing is
                left for a row.
        """
        options = self._options(n, step, first_row)
        rows = self._rows(users, exclude, exclude_by_row)
        return _rust.sample_negatives(**rows, **options, out=_buffer(out, len(rows["users"]), n))

    def sample_with_log_q(
        self,
        users: ArrayLike,
        n: int,
        *,
        step: int,
        first_row: int = 0,
        exclude: ArrayLike | None = None,
        exclude_by_row: ArrayLike | None = None,
        out: Integers | None = None,
    ) -> tuple[Integers, NDArray[np.float32]]:
        """Return what `sample` returns, and the log of how likely each item was.

        The second is `[B, n]` float32: `log Q` renormalised over all the row can get, which is
        what its user has not seen, less `exclude` and `exclude_by_row`. For the arguments and the
        errors see `sample`.
        """
        options = self._options(n, step, first_row)
        rows = self._rows(users, exclude, exclude_by_row)
        out = _buffer(out, len(rows["users"]), n)
        log_q = np.empty(out.shape, np.float32)
        return _rust.sample_negatives(**rows, **options, out=out, log_q=log_q), log_q

    def log_probability(
        self,
        items: ArrayLike,
        users: ArrayLike | None = None,
        *,
        exclude: ArrayLike | None = None,
        exclude_by_row: ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Return the log of how likely a draw gives each item, float64, in the shape of `items`.

        Without `users` this is `log Q` before anything is left out. The draws of a row follow
        `Q` renormalised over what it can get, larger by a constant for all items of that row:
        a softmax over one row's draws does not notice. With `users` it is that exact distribution,
        and minus infinity for an item the row cannot get.

        Args:
            items: `[B]` or `[B, M]` item numbers.
            users: `[B]` user numbers, or None.
            exclude: As for `sample`; needs `users`.
            exclude_by_row: As for `sample`; needs `users`.

        Raises:
            ValueError: If an item or a user is out of range, or there are not B users.
        """
        numbers = _numbers("items", items, 0, self.n_items)
        if users is None:
            if exclude is not None or exclude_by_row is not None:
                raise ValueError("expected users for the items to exclude, got none")
            # one row of a user who has seen nothing
            rows = {
                "seen_offsets": np.zeros(2, np.int64),
                "seen_items": np.empty(0, np.int32),
                "users": np.zeros(1, np.int32),
                "n_items": self.n_items,
                "alias": self._alias,
                "threads": self.threads,
            }
            exact = _rust.log_probability(**rows, items=numbers.reshape(1, -1))
            return exact.reshape(numbers.shape)
        rows = self._rows(users, exclude, exclude_by_row)
        n_rows = len(rows["users"])
        if numbers.ndim not in (1, 2) or len(numbers) != n_rows:
            raise ValueError(
                f"expected items [B] or [B, M] and users [B], "
                f"got {list(numbers.shape)} and {[n_rows]}"
            )
        columns = numbers.reshape(n_rows, -1) if n_rows else numbers.reshape(0, 1)
        return _rust.log_probability(**rows, items=columns).reshape(numbers.shape)

    def _options(self, n: int, step: int, first_row: int) -> dict[str, Any]:
        for name, value in (("n", n), ("step", step), ("first_row", first_row)):
            if value < 0:
                raise ValueError(f"expected {name} >= 0, got {value}")
        return {"n": n, "seed": self.seed, "step": step, "first_row": first_row}

    def _rows(
        self, users: ArrayLike, exclude: ArrayLike | None, exclude_by_row: ArrayLike | None
    ) -> dict[str, Any]:
        """Return the arguments that describe the rows of a call."""
        rows = _numbers("users", users, 0, len(self._seen))
        if rows.ndim != 1:
            raise ValueError(f"expected users [B], got {list(rows.shape)}")
        if exclude is not None:
            exclude = _numbers("items to exclude", exclude, 0, self.n_items)
            if exclude.ndim != 1:
                raise ValueError(f"expected items to exclude [E], got {list(exclude.shape)}")
        if exclude_by_row is not None:
            own = _numbers("items to exclude by row", exclude_by_row, -1, self.n_items)
            if own.ndim not in (1, 2) or len(own) != len(rows):
                raise ValueError(
                    f"expected items to exclude by row [{len(rows)}] or [{len(rows)}, M], "
                    f"got {list(own.shape)}"
                )
            exclude_by_row = own if own.ndim == 2 else own[:, None]
        return {
            "seen_offsets": self._seen.offsets,
            "seen_items": self._seen.items,
            "users": rows,
            "n_items": self.n_items,
            "alias": self._alias,
            "exclude": exclude,
            "exclude_by_row": exclude_by_row,
            "threads": self.threads,
        }


def collisions(
    seen: Histories, users: ArrayLike, items: ArrayLike, *, threads: int | None = None
) -> NDArray[np.int64]:
    """Return the pairs of a row and a column in which the row's user has seen the column's item.

    Args:
        seen: The seen items of U users as `Histories.sorted_unique` gives them.
        users: `[B]` user numbers.
        items: `[M]` item numbers of the batch; an item may come up more than once.
        threads: Number of threads; None takes `RAREC_NUM_THREADS`, else every processor.

    Returns:
        `[P, 2]` int64, sorted: row number and column number.

    Raises:
        ValueError: If a user or an item is out of range, or a row of `seen` is not sorted.

    Example:
        >>> collisions(Histories.from_lists([[1, 3], [2]]), users=[0, 1], items=[2, 3])
        array([[0, 1],
               [1, 0]])
    """
    limit = 2**31 - 1
    rows = _numbers("users", users, 0, len(seen))
    columns = _numbers("items", items, 0, limit)
    if rows.ndim != 1 or columns.ndim != 1:
        raise ValueError(
            f"expected users [B] and items [M], got {list(rows.shape)} and {list(columns.shape)}"
        )
    return _rust.collisions(seen.offsets, seen.items, rows, columns, limit, threads=threads)


def _alias_table(histories: Histories, n_items: int, alpha: float) -> _rust.AliasTable:
    counts = np.maximum(histories.counts(n_items), 1)
    # below the largest: a power of counts can pass the largest float
    weights = counts / counts.max()
    np.power(weights, alpha, out=weights)
    # however small, a share must not vanish
    return _rust.AliasTable(np.maximum(weights, np.finfo(np.float64).tiny, out=weights))


def _numbers(name: str, values: ArrayLike, lowest: int, limit: int) -> NDArray[np.int32]:
    """Return whole numbers from `lowest` to `limit - 1` as contiguous int32."""
    numbers = np.asarray(values)
    if numbers.size and not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"expected whole numbers as {name}, got {numbers.dtype}")
    if numbers.size and not lowest <= numbers.min() <= numbers.max() < limit:
        raise ValueError(
            f"expected {name} from {lowest} to {limit - 1}, got {numbers.min()} to {numbers.max()}"
        )
    return np.ascontiguousarray(numbers, dtype=np.int32).reshape(numbers.shape)


def _buffer(out: Integers | None, n_rows: int, n: int) -> Integers:
    if out is None:
        return np.empty((n_rows, n), np.int32)
    right = isinstance(out, np.ndarray) and out.dtype in (np.int32, np.int64)
    if not right or out.shape != (n_rows, n):
        kind = f"{out.dtype} {list(out.shape)}" if isinstance(out, np.ndarray) else type(out)
        raise ValueError(f"expected out as int32 or int64 [{n_rows}, {n}], got {kind}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("expected out C-contiguous and writable, got gaps or a read-only array")
    return out
