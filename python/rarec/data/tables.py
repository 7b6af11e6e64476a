"""A table as it was read, with errors that name the place in the source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

# if blank lines were left out, this column holds the number of each row in the file
ROW_COLUMN = "(row)"


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
    """

    frame: pl.DataFrame
    source: str
    line: Callable[[int], int] | None = None
    titles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.frame.height

    @property
    def names(self) -> list[str]:
        """Names of the columns of the source."""
        return [name for name in self.frame.columns if name != ROW_COLUMN]

    def fault(self, row: int, column: str, message: str) -> DataError:
        """Return the error for one cell; the caller raises it.

        Args:
            row: Row of `frame`.
            column: Name of the column.
            message: Text of the form "expected X, got Y".
        """
        if ROW_COLUMN in self.frame.columns:
            row = int(self.frame[ROW_COLUMN][row])
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
