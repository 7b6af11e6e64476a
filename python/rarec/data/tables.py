"""A table as it was read, and errors that say where in it something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

# the column that keeps a row's number in the file where blank lines were left out
ROW_COLUMN = "(row)"


class DataError(ValueError):
    """Input data that cannot be read as it is; the message names the place."""


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of one source, and how to name a place in it.

    Attributes:
        frame: The columns as the source has them.
        source: The name of the source in messages: a file name, or what was passed.
        line: Returns the line of a row in the file; None where the source has no lines.
        titles: Columns that hold an item's title, as far as the format itself says so.
        notes: What a reader of the report should know about the source.
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
        """The columns of the source."""
        return [name for name in self.frame.columns if name != ROW_COLUMN]

    def fault(self, row: int, column: str, message: str) -> DataError:
        """Return the error for one cell, to be raised.

        Args:
            row: Row of `frame`.
            column: Name of the column.
            message: What was expected and what was found.
        """
        if ROW_COLUMN in self.frame.columns:
            row = int(self.frame[ROW_COLUMN][row])
        if self.line is None:
            return DataError(f"{self.source}, row {row}: column {column!r}: {message}")
        return DataError(f"{self.source}:{self.line(row)}: column {column!r}: {message}")

    def choose(self, wanted: str | None, usual: tuple[str, ...], purpose: str) -> str:
        """Return the name of the column for `purpose`.

        Args:
            wanted: The name the caller gave, or None.
            usual: Names to look for when none was given, the first one found wins.
            purpose: Stands in the message.

        Raises:
            DataError: If there is no such column; the message lists those that exist.
        """
        found = self.find(wanted, usual)
        if found is None:
            raise DataError(
                f"{self.source}: expected a column {' or '.join(map(repr, usual))} for {purpose}, "
                f"got the columns {', '.join(map(repr, self.names))}"
            )
        return found

    def find(self, wanted: str | None, usual: tuple[str, ...]) -> str | None:
        """Return the name of the column, or None where no name was given and none is usual.

        Args:
            wanted: The name the caller gave, or None.
            usual: Names to look for when none was given.

        Raises:
            DataError: If `wanted` is given and does not exist.
        """
        if wanted is not None:
            if wanted not in self.names:
                raise DataError(
                    f"{self.source}: expected a column {wanted!r}, "
                    f"got the columns {', '.join(map(repr, self.names))}"
                )
            return wanted
        return next((name for name in usual if name in self.names), None)
