"""Text files with one record a line: read by polars, with the line of what is wrong.

polars reads fast and says little about a bad line. So a file is read once by polars, every column
as text, and walked a second time, in Python, only when something in it is wrong or looks so.
"""

from __future__ import annotations

import csv
import functools
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from rarec.data.tables import ROW_COLUMN, DataError, Table

# a byte that no text file has: polars then sees each line as one field
_NO_SEPARATOR = "\x01"


@dataclass(frozen=True)
class Layout:
    """How a file is cut into fields.

    Attributes:
        separator: What stands between two fields; more than one character is allowed.
        quoted: Whether a field may stand in double quotes.
        names: Names of the columns; None where the first line has them.
        latin1: Whether a file that is not UTF-8 is read as Latin-1 instead of refused.
    """

    separator: str
    quoted: bool = False
    names: tuple[str, ...] | None = None
    latin1: bool = False


def read_delimited(path: Path, layout: Layout) -> Table:
    """Return the file as a table of text columns; an empty field is null.

    Args:
        path: The file; a name that ends in `.gz` is unpacked.
        layout: How it is cut into fields.

    Raises:
        DataError: If the file is missing, empty, not of its encoding, or has a line with too
            many or too few fields. The message names file and line.
    """
    data, encoding = _read_bytes(path, latin1=layout.latin1)
    names = layout.names or _header(path, data, layout, encoding)
    if encoding != "utf-8":
        data = data.decode(encoding).encode()
    try:
        frame = _parse(data, layout, names)
    except PolarsError as error:
        _blank_records(path, layout, names)
        # the walk found no fault: polars is stricter, its first line says why
        raise DataError(f"{path.name}: {str(error).splitlines()[0]}") from None

    line = functools.partial(_line_of_record, path, layout)
    # a short line ends in nulls, and so does a blank one
    if frame.width != len(names) or frame.to_series(frame.width - 1).null_count():
        blank = _blank_records(path, layout, names)
        if blank:
            frame = frame.with_row_index(ROW_COLUMN)
            frame = frame.filter(~pl.col(ROW_COLUMN).is_in(pl.Series(blank, dtype=pl.UInt32)))
    if frame.height == 0:
        raise DataError(f"{path.name}: expected at least one record, got none")
    notes = () if encoding == "utf-8" else (f"{path.name} is not UTF-8: read as Latin-1",)
    return Table(frame, path.name, line, notes=notes)


def first_line(path: Path) -> str:
    """Return the first line that is not blank, without its end; "" for a blank file.

    Raises:
        DataError: If the file is missing or cannot be unpacked.
    """
    data, encoding = _read_bytes(path, latin1=True)
    return next((line.strip("\r\n") for line in _lines(data, encoding) if line.strip()), "")


def _read_bytes(path: Path, *, latin1: bool) -> tuple[bytes, str]:
    if not path.is_file():
        raise DataError(f"expected a file, got {path} ({_what_is_there(path)})")
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path.name}: expected a gzip file, got {error}") from None
    if not data.strip():
        raise DataError(f"{path.name}: expected records, got an empty file")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if latin1:
            return data, "latin-1"
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path.name}:{line}: expected UTF-8 text, got the byte {data[error.start]:#04x}"
        ) from None
    return data, "utf-8"


def _what_is_there(path: Path) -> str:
    return "a folder" if path.is_dir() else "it does not exist"


def _lines(data: bytes, encoding: str) -> Iterator[str]:
    # as polars does: a line ends at "\n", and nowhere else
    return io.TextIOWrapper(io.BytesIO(data), encoding=encoding, newline="\n")


def _header(path: Path, data: bytes, layout: Layout, encoding: str) -> tuple[str, ...]:
    # polars skips blank lines above the header
    records = _records(path, data, layout, encoding)
    line, fields = next(record for record in records if record[1])
    names = tuple(name.strip() for name in fields)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or "" in names:
        what = f"{repeated[0]!r} twice" if repeated else "a column without a name"
        raise DataError(f"{path.name}:{line}: expected a name for each column, got {what}")
    return names


def _parse(data: bytes, layout: Layout, names: tuple[str, ...]) -> pl.DataFrame:
    single = len(layout.separator) == 1
    frame = pl.read_csv(
        data,
        has_header=layout.names is None,
        separator=layout.separator if single else _NO_SEPARATOR,
        quote_char='"' if layout.quoted else None,
        infer_schema=False,
    )
    if single:
        return frame.rename(dict(zip(frame.columns, names, strict=False)))
    cells = frame.to_series(0).str
    parts = cells.split_exact(layout.separator, len(names) - 1).struct.rename_fields(list(names))
    counts = cells.count_matches(layout.separator, literal=True)
    if (counts > len(names) - 1).any():
        raise PolarsError("found more fields than expected")
    # an empty field is null, as in the files that polars cuts itself
    return parts.struct.unnest().with_columns(pl.all().replace("", None))


def _records(
    path: Path, data: bytes, layout: Layout, encoding: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield line and fields of each record, the header too; no fields for a blank line."""
    lines = _lines(data, encoding)
    if not layout.quoted:
        for number, line in enumerate(lines, start=1):
            text = line.rstrip("\r\n")
            yield number, text.split(layout.separator) if text else []
        return
    reader = csv.reader(lines, delimiter=layout.separator, strict=True)
    start = 1
    try:
        for fields in reader:
            yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path.name}:{start}: expected a csv record, got {error}") from None


def _body(path: Path, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield line and fields of each record below the header; the n-th is row n of the table."""
    data, encoding = _read_bytes(path, latin1=layout.latin1)
    records = _records(path, data, layout, encoding)
    if layout.names is None:
        next(fields for _, fields in records if fields)
    return records


def _line_of_record(path: Path, layout: Layout, row: int) -> int:
    return next(line for index, (line, _) in enumerate(_body(path, layout)) if index == row)


def _blank_records(path: Path, layout: Layout, names: tuple[str, ...]) -> list[int]:
    """Return the rows that are blank lines; raise for the first line of another width."""
    blank = []
    for row, (line, fields) in enumerate(_body(path, layout)):
        if not fields:
            blank.append(row)
        elif len(fields) != len(names):
            raise DataError(
                f"{path.name}:{line}: expected {len(names)} fields "
                f"({', '.join(names)}), got {len(fields)}"
            )
    return blank
