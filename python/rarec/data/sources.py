"""Opens the sources of a dataset and finds their format from the names of the files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from glob import glob as files_like
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rarec.data.delimited import Layout, read_delimited
from rarec.data.frames import from_frame, read_parquet
from rarec.data.movielens import read_movies, read_ratings
from rarec.data.recbole import read_recbole
from rarec.data.tables import DataError, Table, joined

if TYPE_CHECKING:
    from rarec.data.frames import Frame

    Source: TypeAlias = str | Path | Frame

FORMATS = ("auto", "recbole", "movielens", "table")
# names of files that a message shows at most
_MOST_NAMES = 6
_PATTERN = re.compile(r"[*?[]")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_TABLE_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
# format, names of the interaction file, names of the item file
_FOLDERS = (
    ("recbole", ("*.inter",), ("*.item",)),
    ("movielens", ("ratings.dat",), ("movies.dat",)),
    ("movielens", ("u.data",), ("u.item",)),
    ("table", ("ratings.csv",), ("movies.csv",)),
    (
        "table",
        tuple(f"interactions{ending}" for ending in _TABLE_ENDINGS),
        tuple(f"items{ending}" for ending in _TABLE_ENDINGS),
    ),
)


def open_sources(
    interactions: Source,
    items: Source | None,
    *,
    format: str = "auto",  # noqa: A002
    glob: bool = False,
) -> tuple[Table, Table | None, str]:
    """Return the interaction table, the item table (or None), and the name of the format.

    Args:
        interactions: A folder, a file, a frame, or a pattern of files if nothing has this path.
        items: A file or a frame. If it is None, the item file of the folder is taken.
        format: One of `FORMATS`; "auto" finds it from the names of the files.
        glob: Read a path of the interactions as a pattern in any case.

    Raises:
        DataError: If the files fit no format, or more than one; if no file matches a pattern, or
            those that match do not go together.
        ValueError: If `format` is unknown.
    """
    if format not in FORMATS:
        raise ValueError(f"expected a format of {', '.join(FORMATS)}, got {format!r}")
    if isinstance(interactions, str | Path) and (glob or _is_pattern(interactions)):
        table, kind = _open_matching(os.fspath(interactions), format)
    else:
        if isinstance(interactions, str | Path) and Path(interactions).is_dir():
            interactions, found, format = _find_files(Path(interactions), format)  # noqa: A001
            items = found if items is None else items
        table, kind = _open(interactions, "interactions", format)
    if items is None:
        return table, None, kind
    return table, _open(items, "items", format)[0], kind


def _is_pattern(path: str | Path) -> bool:
    """Return whether a path is read as a pattern of files: there is nothing with this path."""
    return _PATTERN.search(os.fspath(path)) is not None and not os.path.lexists(path)


def _open_matching(pattern: str, wanted: str) -> tuple[Table, str]:
    """Return the rows of all files that match a pattern, sorted by name, and their format."""
    # pathlib takes no pattern that is an absolute path
    matching = sorted(files_like(pattern, recursive=True))  # noqa: PTH207
    files = [Path(path) for path in matching if Path(path).is_file()]
    if not files:
        raise DataError(f"expected a file {pattern!r} or files that match it, got none")
    tables: list[Table] = []
    kinds: list[str] = []
    for file in files:
        table, kind = _open(file, "interactions", wanted)
        tables.append(table)
        kinds.append(kind)
        if kind != kinds[0]:
            raise DataError(f"{file}: expected the format {kinds[0]} as of {files[0]}, got {kind}")
    # without the path of the folder: the report is published with results
    name = Path(pattern).name
    names = _shortened([file.name for file in files])
    note = f"files that match {name!r}: {len(files):,} ({names})"
    table = joined(tables, name)
    return replace(table, notes=(note, *table.notes)), kinds[0]


def _shortened(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[: _MOST_NAMES - 1])}, ... {names[-1]}"


def _open(source: Source, role: str, wanted: str) -> tuple[Table, str]:
    if not isinstance(source, str | Path):
        return from_frame(source, f"{role} frame"), "frame"
    path = Path(source)
    kind = _format_of(path) if wanted == "auto" else wanted
    readers: dict[str, Callable[[Path], Table]] = {
        "recbole": read_recbole,
        "movielens": read_ratings if role == "interactions" else read_movies,
        "table": _read_table,
    }
    return readers[kind](path), kind


def _format_of(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    if name in ("u.data", "u.item") or name.endswith(".dat"):
        return "movielens"
    if name.endswith((".inter", ".item")):
        return "recbole"
    if name.endswith((*_SEPARATORS, ".parquet")):
        return "table"
    raise DataError(
        f"expected a file .inter, .item, .dat, {', '.join(_TABLE_ENDINGS)}, u.data or u.item, "
        f"or the argument format, got {path}"
    )


def _read_table(path: Path) -> Table:
    name = path.name.lower()
    if name.endswith(".parquet"):
        return read_parquet(path)
    separator = _SEPARATORS.get(Path(name.removesuffix(".gz")).suffix, ",")
    return read_delimited(path, Layout(separator, quoted=True))


def _find_files(folder: Path, wanted: str) -> tuple[Path, Path | None, str]:
    found = []
    for kind, interactions, items in _FOLDERS:
        file = _single_file(folder, interactions)
        if file is not None and wanted in ("auto", kind):
            found.append((file, _single_file(folder, items), kind))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file, _, _ in found)
        raise DataError(
            f"{folder}: expected the interactions in one file, got {names}; pass the name of one"
        )
    known = ", ".join(interactions[0] for _, interactions, _ in _FOLDERS)
    raise DataError(f"{folder}: expected a folder with one of {known}, got none of them")


def _single_file(folder: Path, patterns: tuple[str, ...]) -> Path | None:
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise DataError(
            f"{folder}: expected one file of this kind, got {names}; pass the name of one"
        )
    return files[0] if files else None
