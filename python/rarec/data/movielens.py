"""MovieLens files that have no header: `ratings.dat` and `movies.dat`, `u.data` and `u.item`.

The newer releases have `ratings.csv` and `movies.csv`, which are read as ordinary csv files.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from rarec.data.delimited import Layout, first_line, read_delimited
from rarec.data.tables import DataError, Table

# this is the order of the genre flags at the end of each line of u.item
GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
_RATING = ("user_id", "item_id", "rating", "timestamp")
_MOVIE = ("item_id", "title", "genres")
_OLD_MOVIE = ("item_id", "title", "release_date", "video_release_date", "url", *GENRES)


def read_ratings(path: Path) -> Table:
    """Return `ratings.dat` (fields separated by `::`) or `u.data` (by tabs) as a table.

    Raises:
        DataError: If the file is malformed.
    """
    return _read(path, {"::": _RATING, "\t": _RATING})


def read_movies(path: Path) -> Table:
    """Return `movies.dat` (fields separated by `::`) or `u.item` (by `|`) as a table.

    The genre flags of `u.item` also become one column `genres`, as in `movies.dat`:
    `Action|Comedy`.

    Raises:
        DataError: If the file is malformed.
    """
    table = _read(path, {"::": _MOVIE, "|": _OLD_MOVIE})
    if "genres" in table.names:
        return table
    named = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in GENRES[1:]]
    genres = pl.concat_str(named, separator="|", ignore_nulls=True).alias("genres")
    return replace(table, frame=table.frame.with_columns(genres))


def _read(path: Path, layouts: dict[str, tuple[str, ...]]) -> Table:
    line = first_line(path)
    for separator, names in layouts.items():
        if separator in line:
            return read_delimited(path, Layout(separator, names=names, latin1=True))
    expected = " or ".join(repr(separator) for separator in layouts)
    raise DataError(f"{path.name}:1: expected fields separated by {expected}, got {line[:60]!r}")
