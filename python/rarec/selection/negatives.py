"""Negative samples: items that a user has not seen.

Axes: B rows of a batch, N items, U users, M items of a row, E excluded items, P pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rarec import _rust
from rarec.data import Histories

Integers = NDArray[np.int32] | NDArray[np.int64]


class NegativeSampler:
    """Draws items that a user has not seen, uniformly or by a power of their popularity.

    The proposal distribution `Q(i)` is proportional to `max(count(i), 1) ** alpha`, so an item
    without events has the weight of an item with one. The candidates of a row are the items that
    its user has not seen and that the call does not exclude. The draws of a row follow `Q`
    renormalised over its candidates. They are made with replacement, so a row can hold an item
    more than once. Item numbers are 0 to N - 1; no number is reserved for padding.

    `Q` is stored with a precision of `1 / (N * 2**32)`, which is also its smallest value. Besides
    the seen items, the sampler takes 16 bytes per item for `alpha > 0` and none for `alpha = 0`.
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
        """Prepare the tables for the draws.

        Args:
            histories: Items that each of the U users has seen; they are never drawn for the user.
            n_items: Number of items N, up to 2**31 - 1.
            alpha: Power of the popularity; 0 draws uniformly, 1 in proportion to the number of
                events.
            seed: Seed of all draws.
            threads: Number of threads; None takes `RAREC_NUM_THREADS`, or all processors if that
                is not set. The draws do not depend on it.

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
        """Return `[B, n]` item numbers, for each row items that its user has not seen.

        The draws of a row depend only on the seed, the step, the number of the row, its user and
        its excluded items. They do not depend on threads, processes or earlier calls. To draw a
        batch in parts, pass the number of the first row of each part.

        Args:
            users: `[B]` user numbers; a user may occur more than once.
            n: Number of items to draw for each row.
            step: Number of the training step; each step has different draws.
            first_row: Number of the first row in the batch.
            exclude: `[E]` more items that are excluded from all rows.
            exclude_by_row: `[B]` or `[B, M]` more items that are excluded from one row, such as
                its target; -1 excludes nothing.
            out: `[B, n]` int32 or int64, a C-contiguous buffer that is filled and returned. A
                buffer that is used again saves the time of memory allocation. None allocates an
                int32 array. After an error, a part of the buffer may be filled.

        Raises:
            ValueError: If a user or an item is out of range, if a shape does not fit, or if a row
                has no candidates.
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
        """Return the items that `sample` returns, and the log-probability of each.

        The log-probability is `[B, n]` float32: `log Q` renormalised over the candidates of the
        row. The arguments and the errors are those of `sample`.
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
        """Return the log-probability of a draw of each item, float64, in the shape of `items`.

        With `users` it is `log Q` renormalised over the candidates of each row, and minus infinity
        for an item that is not a candidate. Without `users` it is `log Q` itself. This differs
        from the exact value by a constant of the row, which does not change a softmax over the
        items of one row.

        Args:
            items: `[B]` or `[B, M]` item numbers.
            users: `[B]` user numbers, or None.
            exclude: Items excluded from all rows, as in `sample`; only together with `users`.
            exclude_by_row: Items excluded from one row, as in `sample`; only together with
                `users`.

        Raises:
            ValueError: If an item or a user is out of range, if there are not B users, or if there
                are excluded items without users.
        """
        numbers = _numbers("items", items, 0, self.n_items)
        if users is None:
            if exclude is not None or exclude_by_row is not None:
                raise ValueError("expected users for the items to exclude, got none")
            # one row for a user who has seen nothing, so that Q is not renormalised
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
        """Return the arguments of the Rust functions that describe the rows of a call."""
        rows = _numbers("users", users, 0, len(self._seen))
        if rows.ndim != 1:
            raise ValueError(f"expected users [B], got {list(rows.shape)}")
        if exclude is not None:
            exclude = _numbers("items to exclude", exclude, 0, self.n_items)
            if exclude.ndim != 1:
                raise ValueError(f"expected items to exclude [E], got {list(exclude.shape)}")
        if exclude_by_row is not None:
            by_row = _numbers("items to exclude by row", exclude_by_row, -1, self.n_items)
            if by_row.ndim not in (1, 2) or len(by_row) != len(rows):
                raise ValueError(
                    f"expected items to exclude by row [{len(rows)}] or [{len(rows)}, M], "
                    f"got {list(by_row.shape)}"
                )
            exclude_by_row = by_row if by_row.ndim == 2 else by_row[:, None]
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
    """Return the pairs of a row and a column where the row's user has seen the column's item.

    Args:
        seen: Seen items of U users, as `Histories.sorted_unique` returns them.
        users: `[B]` user numbers.
        items: `[M]` item numbers of the batch; an item may occur more than once.
        threads: Number of threads; None takes `RAREC_NUM_THREADS`, or all processors if that is
            not set.

    Returns:
        `[P, 2]` int64, sorted: the row number and the column number of each pair.

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
    # relative to the largest count, because a power of a count can overflow
    weights = counts / counts.max()
    np.power(weights, alpha, out=weights)
    # an item with a weight of 0 could never be drawn
    return _rust.AliasTable(np.maximum(weights, np.finfo(np.float64).tiny, out=weights))


def _numbers(name: str, values: ArrayLike, lowest: int, limit: int) -> NDArray[np.int32]:
    """Return whole numbers from `lowest` to `limit - 1` as a contiguous int32 array."""
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
    has_dtype = isinstance(out, np.ndarray) and out.dtype in (np.int32, np.int64)
    if not has_dtype or out.shape != (n_rows, n):
        kind = f"{out.dtype} {list(out.shape)}" if isinstance(out, np.ndarray) else type(out)
        raise ValueError(f"expected out as int32 or int64 [{n_rows}, {n}], got {kind}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(
            f"expected out to be C-contiguous and writable, got C-contiguous: "
            f"{out.flags.c_contiguous}, writable: {out.flags.writeable}"
        )
    return out
