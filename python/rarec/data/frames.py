"""Tables made of data frames in memory and of parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from rarec.data.tables import DataError, Table

if TYPE_CHECKING:
    import pandas as pd

    Frame: TypeAlias = pl.DataFrame | pl.LazyFrame | pd.DataFrame


def read_parquet(path: Path) -> Table:
    """Return a parquet file as a table.

    Raises:
        DataError: If the file is missing, not parquet, or has no rows.
    """
    if not path.is_file():
        raise DataError(f"expected a file, got {path} (it does not exist)")
    try:
        frame = parquet_frame(path)
    except (PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path.name}: expected a parquet file, got {reason}") from None
    return _checked(Table(frame, path.name))


def parquet_frame(path: Path) -> pl.DataFrame:
    """Return the content of a parquet file, whatever its path is."""
    # a path that polars opens may be no pattern, must not begin with ~, and must be UTF-8
    with path.open("rb") as file:
        return pl.read_parquet(file)


def from_frame(frame: Frame, source: str) -> Table:
    """Return a polars or pandas frame as a table; a pandas frame does not need pyarrow.

    Args:
        frame: The frame; a lazy frame is collected.
        source: Name of the frame in messages.

    Raises:
        DataError: If `frame` is not a frame, has no rows, or has a column with values of several
            types.
    """
    if isinstance(frame, pl.LazyFrame):
        return _checked(Table(frame.collect(), source))
    if isinstance(frame, pl.DataFrame):
        return _checked(Table(frame, source))
    if type(frame).__module__.split(".")[0] == "pandas":
        return _checked(Table(_from_pandas(frame, source), source))
    raise DataError(f"expected a path or a frame for {source}, got {type(frame).__name__}")


def _checked(table: Table) -> Table:
    if len(table) == 0:
        raise DataError(f"{table.source}: expected at least one record, got none")
    return table


def _from_pandas(frame: pd.DataFrame, source: str) -> pl.DataFrame:
    columns: dict[str, pl.Series] = {}
    for name, values in frame.items():
        try:
            columns[str(name)] = pl.Series(str(name), _values(values), strict=True)
        except (TypeError, PolarsError):
            raise DataError(
                f"{source}: column {str(name)!r}: expected values of one type, got a mixture"
            ) from None
    return pl.DataFrame(columns)


def _values(column: pd.Series) -> Any:
    if getattr(column.dtype, "tz", None) is not None:
        column = column.dt.tz_convert("UTC").dt.tz_localize(None)
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biufM":
        return column.to_numpy()
    # NumPy has no missing text, category or integer, so these columns become Python objects
    missing = column.isna().to_numpy()
    return [None if gone else value for value, gone in zip(column.tolist(), missing, strict=True)]
