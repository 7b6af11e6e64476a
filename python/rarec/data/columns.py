"""Columns of a table, converted to ids, numbers, times or texts."""

from __future__ import annotations

import polars as pl

from rarec.data.tables import Table

_DAYS = ("%Y-%m-%d",)
_LOCAL = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
_ZONED = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z")


def ids(table: Table, column: str) -> pl.Series:
    """Return the ids in a column as text, exactly as the source has them.

    Args:
        table: The table.
        column: Name of the column. It holds text, categories or integers.

    Raises:
        DataError: If an id is missing or empty, or if the ids are floating-point numbers. The
            number `12.0` may have been the text `12` or `012`.
    """
    values = table.frame[column]
    if isinstance(values.dtype, pl.Categorical | pl.Enum) or values.dtype.is_integer():
        values = values.cast(pl.String)
    elif values.dtype != pl.String:
        example = values.drop_nulls()
        shown = f" (as {example[0]})" if len(example) else ""
        raise table.fault(0, column, f"expected ids as text or integers, got {values.dtype}{shown}")
    missing = values.is_null() | (values.str.strip_chars() == "")
    if missing.any():
        raise table.fault(_first_true(missing), column, "expected an id, got nothing")
    return values


def numbers(table: Table, column: str) -> pl.Series:
    """Return a column as float64.

    Args:
        table: The table.
        column: Name of the column. It holds numbers, or text that can be read as a number.

    Raises:
        DataError: If a value is missing, not a number, NaN or infinite.
    """
    raw = table.frame[column]
    text = raw.str.strip_chars() if raw.dtype == pl.String else raw
    if not (raw.dtype == pl.String or raw.dtype.is_numeric()):
        raise table.fault(0, column, f"expected numbers, got {raw.dtype}")
    return _require_finite(table, column, text.cast(pl.Float64, strict=False), "a number")


def times(table: Table, column: str) -> pl.Series:
    """Return a column of times as float64 seconds; numbers keep the unit that the source has.

    Args:
        table: The table.
        column: Name of the column. It holds numbers, dates, or ISO 8601 text such as
            `2011-12-09`, `2011-12-09 12:50`, `2011-12-09T12:50:00Z`. A time without a time zone
            is read as UTC.

    Raises:
        DataError: If a value is missing, NaN, infinite, or not a time.
    """
    raw = table.frame[column]
    if raw.dtype.is_temporal() and raw.dtype in (pl.Date, pl.Datetime):
        # the time zone can be dropped without a conversion: polars stores UTC
        seconds = raw.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
        return _require_finite(table, column, seconds, "a time")
    if raw.dtype != pl.String:
        return numbers(table, column)
    filled = raw.drop_nulls()
    if len(filled) == 0 or filled[:1].str.strip_chars().cast(pl.Float64, strict=False)[0] is None:
        parsed = _parse_iso(raw)
        if parsed.null_count() < len(raw):
            return _require_finite(table, column, parsed, "a date")
    return numbers(table, column)


def texts(table: Table, column: str) -> list[str]:
    """Return a column as text; a missing value becomes ""."""
    return table.frame[column].cast(pl.String).fill_null("").to_list()


def _first_true(mask: pl.Series) -> int:
    row = mask.arg_max()
    return 0 if row is None else row


def _require_finite(table: Table, column: str, values: pl.Series, kind: str) -> pl.Series:
    bad = ~values.is_finite().fill_null(value=False)
    if bad.any():
        row = _first_true(bad)
        found = table.frame[column][row]
        raise table.fault(
            row, column, f"expected {kind}, got {'nothing' if found is None else repr(found)}"
        )
    return values


def _parse_iso(raw: pl.Series) -> pl.Series:
    text = raw.str.strip_chars().str.replace("T", " ", literal=True).str.replace("Z$", "+00:00")
    column = pl.col("text")
    local = [column.str.to_datetime(form, strict=False) for form in _LOCAL]
    zoned = [
        column.str.to_datetime(form, strict=False, time_zone="UTC").dt.replace_time_zone(None)
        for form in _ZONED
    ]
    days = [column.str.to_date(form, strict=False).cast(pl.Datetime("us")) for form in _DAYS]
    moment = pl.coalesce(*local, *zoned, *days)
    return pl.DataFrame({"text": text}).select(moment.dt.epoch("us") / 1e6).to_series()
