"""Text files with one record per line, and errors that name the line.

polars reads a file fast, but its errors do not always name the line. So polars reads each file
once, with every column as text. Python reads the file a second time only to find blank lines or
the line of an error.
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

from rarec.data.tables import DataError, Table

# text files do not contain this byte, so polars reads each line as one field
_NO_SEPARATOR = "\x01"


@dataclass(frozen=True)
class Layout:
    """How the lines of a file are split into fields.

    Attributes:
        separator: Text between two fields; it may have more than one character.
        quoted: Whether a field may stand in double quotes.
        names: Names of the columns; None if the first line of the file holds them.
        latin1: Whether a file that is not UTF-8 is read as Latin-1 instead of refused.
    """

    separator: str
    quoted: bool = False
    names: tuple[str, ...] | None = None
    latin1: bool = False


def read_delimited(path: Path, layout: Layout) -> Table:
    """Return the file as a table of text columns; an empty field is null.

    Args:
        path: The file. It is decompressed if its name ends in `.gz`.
        layout: How its lines are split into fields.

    Raises:
        DataError: If the file is missing, empty or in another encoding, or if a line has too many
            or too few fields. The message names the file and the line.
    """
    data, encoding = _read_bytes(path, latin1=layout.latin1)
    names = layout.names or _header(path, data, layout, encoding)
    if encoding != "utf-8":
        data = data.decode(encoding).encode()
    try:
        frame = _parse(data, layout, names)
    except PolarsError as error:
        _blank_records(path, layout, names)
        # Python found nothing wrong, but polars is stricter: the first line of its error says why
        raise DataError(f"{path.name}: {str(error).splitlines()[0]}") from None

    line = functools.partial(_line_of_record, path, layout)
    rows = None
    # both a line with too few fields and a blank line end in nulls
    if frame.width != len(names) or frame.to_series(frame.width - 1).null_count():
        blank = _blank_records(path, layout, names)
        if blank:
            numbers = pl.int_range(frame.height, dtype=pl.UInt32, eager=True)
            kept = ~numbers.is_in(pl.Series(blank, dtype=pl.UInt32).implode())
            frame, rows = frame.filter(kept), numbers.filter(kept)
    if frame.height == 0:
        raise DataError(f"{path.name}: expected at least one record, got none")
    notes = () if encoding == "utf-8" else (f"{path.name} is not UTF-8; it was read as Latin-1",)
    return Table(frame, path.name, line, notes=notes, rows=rows)


def first_line(path: Path) -> str:
    """Return the first line that is not blank, without its line end; "" if all lines are blank.

    Raises:
        DataError: If the file is missing or cannot be decompressed.
    """
    data, encoding = _read_bytes(path, latin1=True)
    return next((line.strip("\r\n") for line in _lines(data, encoding) if line.strip()), "")


def _read_bytes(path: Path, *, latin1: bool) -> tuple[bytes, str]:
    if not path.is_file():
        found = "it is a folder" if path.is_dir() else "it does not exist"
        raise DataError(f"expected a file, got {path} ({found})")
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


def _lines(data: bytes, encoding: str) -> Iterator[str]:
    # a line ends only at "\n", because polars counts lines in this way
    return io.TextIOWrapper(io.BytesIO(data), encoding=encoding, newline="\n")


def _header(path: Path, data: bytes, layout: Layout, encoding: str) -> tuple[str, ...]:
    # the first record with fields, because polars skips blank lines above the header
    records = _records(path, data, layout, encoding)
    line, fields = next(record for record in records if record[1])
    names = tuple(name.strip() for name in fields)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or "" in names:
        found = f"{repeated[0]!r} twice" if repeated else "a column without a name"
        raise DataError(f"{path.name}:{line}: expected a name for each column, got {found}")
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
    # an empty field is null, as in the files that polars splits itself
    return parts.struct.unnest().with_columns(pl.all().replace("", None))


def _records(
    path: Path, data: bytes, layout: Layout, encoding: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields of each record, the header included.

    A blank line has no fields.
    """
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


def _body_records(path: Path, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields of each record below the header.

    The n-th record is row n of the table.
    """
    data, encoding = _read_bytes(path, latin1=layout.latin1)
    records = _records(path, data, layout, encoding)
    if layout.names is None:
        next(fields for _, fields in records if fields)
    return records


def _line_of_record(path: Path, layout: Layout, row: int) -> int:
    records = enumerate(_body_records(path, layout))
    return next(line for index, (line, _) in records if index == row)


def _blank_records(path: Path, layout: Layout, names: tuple[str, ...]) -> list[int]:
    """Return the rows that are blank lines.

    Raises:
        DataError: If a line has a wrong number of fields; the message names the first such line.
    """
    blank = []
    for row, (line, fields) in enumerate(_body_records(path, layout)):
        if not fields:
            blank.append(row)
        elif len(fields) != len(names):
            raise DataError(
                f"{path.name}:{line}: expected {len(names)} fields "
                f"({', '.join(names)}), got {len(fields)}"
            )
    return blank
