"""A table as it was read, with errors that name the place in the source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl


class DataError(ValueError):
    """The error for malformed input data; its message names the place."""


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of one source, with the means to name a place in it.

    Attributes:
        frame: The columns as the source has them.
        source: Name of the source in messages, for example the file name.
        line: Function from a row of `frame` to its line in the file; None if the source has no
            lines.
        titles: Names of the columns that hold the title of an item according to the format.
        notes: Remarks on the source for the report.
        rows: `[len(frame)]` number of each row in the file; None if they are 0, 1, 2 and so on.
        parts: The tables that this one was joined from, in their order.
    """

    frame: pl.DataFrame
    source: str
    line: Callable[[int], int] | None = None
    titles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rows: pl.Series | None = None
    parts: tuple[Table, ...] = ()

    def __len__(self) -> int:
        return self.frame.height

    @property
    def names(self) -> list[str]:
        """Names of the columns of the source."""
        return self.frame.columns

    def fault(self, row: int, column: str, message: str) -> DataError:
        """Return the error for one cell; the caller raises it.

        Args:
            row: Row of `frame`.
            column: Name of the column.
            message: Text of the form "expected X, got Y".
        """
        for part in self.parts:
            if row < len(part):
                return part.fault(row, column, message)
            row -= len(part)
        if self.rows is not None:
            row = int(self.rows[row])
        if self.line is None:
            return DataError(f"{self.source}, row {row}: column {column!r}: {message}")
        return DataError(f"{self.source}:{self.line(row)}: column {column!r}: {message}")

    def choose(self, wanted: str | None, usual: tuple[str, ...], purpose: str) -> str:
        """Return the name of the column for `purpose`.

        Args:
            wanted: The name that the caller gave, or None.
            usual: Names to look for if `wanted` is None; the first one that exists is taken.
            purpose: What the column is for; the error message contains it.

        Raises:
            DataError: If there is no such column; the message lists the columns that exist.
        """
        found = self.find(wanted, usual)
        if found is None:
            raise DataError(
                f"{self.source}: expected a column {' or '.join(map(repr, usual))} for {purpose}, "
                f"got the columns {', '.join(map(repr, self.names))}"
            )
        return found

    def find(self, wanted: str | None, usual: tuple[str, ...]) -> str | None:
        """Return the name of the column; None if `wanted` is None and no usual name exists.

        Args:
            wanted: The name that the caller gave, or None.
            usual: Names to look for if `wanted` is None; the first one that exists is taken.

        Raises:
            DataError: If `wanted` is not None and does not exist.
        """
        if wanted is not None:
            if wanted not in self.names:
                raise DataError(
                    f"{self.source}: expected a column {wanted!r}, "
                    f"got the columns {', '.join(map(repr, self.names))}"
                )
            return wanted
        return next((name for name in usual if name in self.names), None)


def joined(tables: Sequence[Table], source: str) -> Table:
    """Return the rows of several tables, one table after the other, as one table.

    Args:
        tables: Tables with the same columns in any order.
        source: Name of the whole in messages.

    Raises:
        DataError: If a table has other columns than the first, or columns of other types. The
            message names it.
    """
    first = tables[0]
    for table in tables[1:]:
        if sorted(table.names) != sorted(first.names):
            raise DataError(
                f"{table.source}: expected the columns of {first.source}, which are "
                f"{', '.join(map(repr, first.names))}, got {', '.join(map(repr, table.names))}"
            )
        for name in first.names:
            wanted, found = first.frame[name].dtype, table.frame[name].dtype
            if found != wanted:
                raise DataError(
                    f"{table.source}: column {name!r}: expected {wanted} as in {first.source}, "
                    f"got {found}"
                )
    return Table(
        pl.concat([table.frame.select(first.names) for table in tables]),
        source,
        titles=first.titles,
        notes=tuple(note for table in tables for note in table.notes),
        parts=tuple(tables),
    )
