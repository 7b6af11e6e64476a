"""RecBole atomic files: tab-separated, with a type after each column name in the header."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rarec.data.delimited import Layout, read_delimited
from rarec.data.tables import DataError, Table

TYPES = ("token", "token_seq", "float", "float_seq")


def read_recbole(path: Path) -> Table:
    """Return an `.inter` or `.item` file as a table; the column names do not include the types.

    The titles are in the first column of type `token_seq` whose name contains "title" or "name".

    Args:
        path: The file.

    Raises:
        DataError: If the file is malformed, or if a column header is not `name:type`.
    """
    table = read_delimited(path, Layout("\t"))
    types: dict[str, str] = {}
    for header in table.names:
        name, _, kind = header.rpartition(":")
        if not name or kind not in TYPES:
            raise DataError(
                f"{path.name}:1: expected headers name:type with a type of {', '.join(TYPES)}, "
                f"got {header!r}"
            )
        if name in types:
            raise DataError(f"{path.name}:1: expected a name for each column, got {name!r} twice")
        types[name] = kind
    frame = table.frame.rename({f"{name}:{kind}": name for name, kind in types.items()})
    titles = tuple(
        name
        for name, kind in types.items()
        if kind == "token_seq" and ("title" in name.lower() or "name" in name.lower())
    )
    return dataclasses.replace(table, frame=frame, titles=titles[:1])
