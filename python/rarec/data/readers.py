"""Reads files and data frames into a dataset; all formats go through `read_dataset`.

Axes: U users, N items, E events.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from rarec.data import columns as typed
from rarec.data.dataset import Dataset
from rarec.data.filters import k_core
from rarec.data.histories import Histories
from rarec.data.report import Report
from rarec.data.sources import open_sources
from rarec.data.tables import DataError, Table
from rarec.data.titles import fill_template, join_texts, template_columns
from rarec.settings import ColumnSettings, ReadSettings

if TYPE_CHECKING:
    from rarec.data.sources import Source

_USER = ("user_id", "userId")
_ITEM = ("item_id", "movieId")


def read_dataset(
    interactions: Source,
    items: Source | None = None,
    *,
    format: str = "auto",  # noqa: A002
    glob: bool = False,
    columns: ColumnSettings | None = None,
    options: ReadSettings | None = None,
) -> Dataset:
    """Return the dataset that is read from a folder, from files, or from data frames.

    Ids stay the text that the source has. Users and items are numbered in the order of their ids,
    so the numbers do not depend on the format. A history is in the order of time; events at the
    same time are in the order of the source. The `report` of the result counts what was left out
    and what may be an error in the data.

    Args:
        interactions: A folder, a file, or a polars or pandas frame. A folder has `*.inter` (and
            `*.item`), `ratings.dat` (`movies.dat`), `u.data` (`u.item`), `ratings.csv`
            (`movies.csv`) or `interactions.*` (`items.*`) as csv, tsv, csv.gz or parquet.
            A path is literal, whatever characters it has. Only if nothing has this path, `*`, `?`
            and `[...]` in it make it a pattern, and the files that match are read as one table,
            sorted by name.
        items: A file or a frame with the texts of items. If it is None and the folder has no such
            file, all titles are empty.
        format: "recbole", "movielens" (the files without a header), "table", or "auto", which
            finds the format from the names of the files.
        glob: Read the path of the interactions as a pattern, even if there is such a file.
        columns: Names of the columns; None takes the usual names.
        options: Which interactions and items to keep; None takes the defaults.

    Raises:
        DataError: If the data is malformed; the message names the file, the line and the column.
            If no file matches a pattern, or the files do not go together.
        ValueError: If `format` is unknown.

    Example:
        >>> import polars as pl
        >>> events = pl.DataFrame({"user_id": ["007", "007"], "item_id": ["b", "a"]})
        >>> read_dataset(events).item_ids
        ['a', 'b']
    """
    columns = columns or ColumnSettings()
    options = options or ReadSettings()
    if columns.title_template is not None:
        # a template without columns is refused before any work
        template_columns(columns.title_template)
    table, texts, kind = open_sources(interactions, items, format=format, glob=glob)
    read, counts = _events(table, columns, options)
    ordered, repeated = _ordered(read, options)
    titles, text_counts = _titles(texts, columns)
    item_ids, text_counts = _catalogue(ordered, titles, text_counts, options)

    user_ids = ordered["user"].unique().sort().to_list()
    report = Report(
        repeats=options.repeats,
        repeated=repeated,
        ties=options.ties,
        catalogue=options.catalogue,
        has_item_texts=texts is not None,
        notes=table.notes + (texts.notes if texts is not None else ()),
        **counts,
        **text_counts,
    )
    dataset = Dataset(
        user_ids,
        item_ids,
        [titles.get(name, "") for name in item_ids],
        _histories(ordered, user_ids, item_ids),
        report,
        {
            "format": kind,
            "interactions": _name(interactions, table),
            "items": None if texts is None else texts.source,
            "columns": dataclasses.asdict(columns),
            "options": dataclasses.asdict(options),
            "filters": [],
        },
    )
    return _filtered(dataset, options)


def _name(source: Source, table: Table) -> str:
    # without the path of the folder: the description is published with results
    if isinstance(source, str | Path) and Path(source).is_dir():
        return f"{Path(source).resolve().name}/{table.source}"
    return table.source


def _filtered(dataset: Dataset, options: ReadSettings) -> Dataset:
    if options.min_user_interactions == options.min_item_interactions == 1:
        return dataset
    item = 0 if options.catalogue == "all" else options.min_item_interactions
    return k_core(dataset, user=options.min_user_interactions, item=item)


def _events(
    table: Table, columns: ColumnSettings, options: ReadSettings
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return user, item and time (if the source has times) of each record, and report counts."""
    user = table.choose(columns.user, _USER, "users")
    item = table.choose(columns.item, _ITEM, "items")
    time = table.find(columns.timestamp, ("timestamp",))
    frame = pl.DataFrame(
        {"user": typed.ids(table, user), "item": typed.ids(table, item)}
        | ({} if time is None else {"time": typed.times(table, time)})
    )
    counts: dict[str, Any] = {"rows_read": frame.height}
    if options.min_rating is not None:
        rating = table.choose(columns.rating, ("rating",), "ratings (required by min_rating)")
        frame = frame.filter(typed.numbers(table, rating) >= options.min_rating)
        counts |= {
            "min_rating": options.min_rating,
            "below_min_rating": counts["rows_read"] - frame.height,
        }
        if frame.height == 0:
            raise DataError(
                f"{table.source}: expected ratings of at least {options.min_rating:g}, got none"
            )
    return frame, counts


def _ordered(frame: pl.DataFrame, options: ReadSettings) -> tuple[pl.DataFrame, int]:
    """Return the events sorted by user and time, and the number of repeated interactions.

    Repeated interactions are left out unless the options keep them.
    """
    by = ["user"] + [name for name in frame.columns if name == "time"]
    if options.ties == "shuffle" and "time" in by:
        shuffled = np.random.default_rng(options.tie_seed).permutation(frame.height)
        frame = frame.with_columns(tie=pl.Series(shuffled)).sort([*by, "tie"]).drop("tie")
    else:
        frame = frame.sort(by, maintain_order=True)
    pairs = ["user", "item"]
    if options.repeats == "keep":
        return frame, frame.height - frame.select(pairs).n_unique()
    keep = "first" if options.repeats == "first" else "last"
    kept = frame.unique(pairs, keep=keep, maintain_order=True)
    return kept, frame.height - kept.height


def _titles(texts: Table | None, columns: ColumnSettings) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the text of each item by its id, and counts for the report."""
    if texts is None:
        if columns.title_template is not None:
            raise DataError(
                f"expected a source of items for the title template {columns.title_template!r}, "
                "got none"
            )
        return {}, {}
    item = texts.choose(columns.text_item or columns.item, _ITEM, "items")
    ids = typed.ids(texts, item).to_list()
    values = _texts(texts, columns)
    titles: dict[str, str] = {}
    for name, title in zip(ids, values, strict=True):
        titles.setdefault(name, title)
    return titles, {"items_listed": len(titles), "items_listed_twice": len(ids) - len(titles)}


def _texts(table: Table, columns: ColumnSettings) -> list[str]:
    """Return the text of each row of an item table."""
    usual = table.titles or ("title",)
    if columns.title_template is None:
        names = [table.choose(name, (), "texts") for name in columns.text]
        names = names or [table.choose(None, usual, "titles")]
        return join_texts([typed.texts(table, name) for name in names])
    found = {}
    for name in template_columns(columns.title_template):
        wanted = None if name == "title" and name not in table.names else name
        found[name] = typed.texts(table, table.choose(wanted, usual, "titles"))
    return fill_template(columns.title_template, found)


def _catalogue(
    events: pl.DataFrame, titles: dict[str, str], counts: dict[str, Any], options: ReadSettings
) -> tuple[list[str], dict[str, Any]]:
    """Return the sorted ids of the catalogue, and the counts with those of missing items added."""
    interacted = events["item"].unique().sort().to_list()
    if not titles:
        return interacted, counts
    listed = set(titles)
    without_interactions = listed.difference(interacted)
    counts = {
        **counts,
        "items_not_listed": len(set(interacted) - listed),
        "items_without_interactions": len(without_interactions),
    }
    if options.catalogue == "all":
        # the same order as above: polars sorts UTF-8 bytes, which is the order of `sorted`
        return sorted({*interacted, *without_interactions}), counts
    return interacted, counts


def _histories(events: pl.DataFrame, user_ids: list[str], item_ids: list[str]) -> Histories:
    users = _numbers(events["user"], user_ids)
    lengths = np.bincount(users, minlength=len(user_ids))
    return Histories(
        np.concatenate([[0], np.cumsum(lengths)]),
        _numbers(events["item"], item_ids),
        events["time"].to_numpy() if "time" in events.columns else None,
    )


def _numbers(ids: pl.Series, known: list[str]) -> np.ndarray:
    return ids.cast(pl.Enum(known)).to_physical().to_numpy()
