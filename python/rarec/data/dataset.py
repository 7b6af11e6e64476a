"""A dataset: the history of each user, the ids of users and items, and the titles of items.

Axes: U users, N items.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from polars.exceptions import PolarsError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rarec.artifacts import read_config, read_whole, write_config, write_folder
from rarec.data.frames import parquet_frame
from rarec.data.histories import Histories
from rarec.data.report import Report, tied_events
from rarec.data.tables import DataError
from rarec.settings import typed

FORMAT = "rarec.dataset/2"
# similar ids are not searched among more ids than this: the error message would come too late
_MAX_IDS_COMPARED = 20_000


@typed
class _Config:
    """What the config of a dataset says."""

    content_hash: str
    """Hash of the ids, titles and histories."""
    report: Mapping[str, Any]
    """What was found in the source."""
    description: Mapping[str, Any]
    """Where the data came from."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Histories of users, with the tables that turn numbers into ids and titles.

    Attributes:
        user_ids: `[U]` the id of each user, as the source has it.
        item_ids: `[N]` the id of each item, as the source has it.
        titles: `[N]` the text of each item; a missing text is "".
        histories: U rows in the order of time; events at the same time are in the order of the
            source.
        report: What was found in the source and what was left out. Counts that follow from the
            other attributes are computed here and replace those given.
        description: Where the data came from and how it was read, as values that JSON can hold.
    """

    user_ids: list[str]
    item_ids: list[str]
    titles: list[str]
    histories: Histories
    report: Report = field(default_factory=Report)
    description: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.user_ids) != len(self.histories):
            raise ValueError(
                f"expected an id for each of {len(self.histories)} histories, "
                f"got {len(self.user_ids)}"
            )
        if len(self.titles) != len(self.item_ids):
            raise ValueError(
                f"expected a title for each of {len(self.item_ids)} items, got {len(self.titles)}"
            )
        largest = self.histories.items.max(initial=-1)
        if largest >= len(self.item_ids):
            raise ValueError(f"expected item numbers below {len(self.item_ids)}, got {largest}")
        for kind, ids in (("user", self.user_ids), ("item", self.item_ids)):
            if len(set(ids)) != len(ids):
                repeated = next(name for name, count in Counter(ids).items() if count > 1)
                raise ValueError(f"expected each {kind} id once, got {repeated!r} again")
        object.__setattr__(self, "report", self._updated_report())

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    @cached_property
    def content_hash(self) -> str:
        """Hexadecimal sha256 of ids, titles and histories; the file format does not change it."""
        digest = hashlib.sha256(b"rarec dataset 1")
        for texts in (self.user_ids, self.item_ids, self.titles):
            encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
            lengths = np.fromiter(map(len, encoded), dtype="<i8", count=len(encoded))
            digest.update(len(encoded).to_bytes(8, "little") + lengths.tobytes())
            digest.update(b"".join(encoded))
        digest.update(self.histories.offsets.astype("<i8").tobytes())
        digest.update(self.histories.items.astype("<i4").tobytes())
        times = self.histories.times
        digest.update(b"no times" if times is None else times.astype("<f8").tobytes())
        return digest.hexdigest()

    def user_number(self, user_id: str) -> int:
        """Return the number of a user, which is its row in the dataset.

        Raises:
            ValueError: If the id is unknown.
        """
        return _number("user", user_id, self._user_numbers)

    def item_number(self, item_id: str) -> int:
        """Return the number of an item, which is its place in `item_ids`.

        Raises:
            ValueError: If the id is unknown.
        """
        return _number("item", item_id, self._item_numbers)

    def require_titles(self) -> None:
        """Raise an error if no item has a title, so that a text model has nothing to read.

        Raises:
            DataError: If no item has a title.
        """
        if not any(self.titles):
            raise DataError(
                f"expected titles for the {self.n_items} items, got none: a text model needs a "
                f"file of items with a column of titles"
            )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the dataset into a folder, either completely or not at all.

        Args:
            folder: A new folder, an empty one, or an artifact that rarec wrote and that is
                replaced.

        Raises:
            ValueError: If an id or a title is no text that UTF-8 has.
        """
        arrays = {"offsets": self.histories.offsets, "items": self.histories.items}
        if self.histories.times is not None:
            arrays["times"] = self.histories.times
        with write_folder(folder) as path:
            save_file(arrays, path / "histories.safetensors")
            _write_texts(path / "users.parquet", {"user_id": self.user_ids})
            items = {"item_id": self.item_ids, "title": self.titles}
            _write_texts(path / "items.parquet", items)
            values = {
                "content_hash": self.content_hash,
                "report": self.report.as_dict(),
                "description": dict(self.description),
            }
            write_config(path, FORMAT, values)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Dataset:
        """Return the dataset that `save` wrote.

        Args:
            folder: The folder.

        Raises:
            ValueError: If the folder holds no dataset, or its content is not what was written.
        """
        path = Path(folder)
        return read_whole(path, lambda: cls._read(path))

    @classmethod
    def _read(cls, path: Path) -> Dataset:
        # the files are those that were written, and the hash of the content with them
        config = read_config(path, FORMAT, _Config)
        try:
            arrays = load_file(path / "histories.safetensors")
            items = parquet_frame(path / "items.parquet")
            dataset = cls(
                parquet_frame(path / "users.parquet")["user_id"].to_list(),
                items["item_id"].to_list(),
                items["title"].to_list(),
                Histories(arrays["offsets"], arrays["items"], arrays.get("times")),
                Report.from_dict(config.report),
                config.description,
            )
        except (OSError, KeyError, TypeError, ValueError, SafetensorError, PolarsError) as error:
            raise DataError(f"{path}: expected a dataset ({error})") from error
        dataset.__dict__["content_hash"] = config.content_hash
        return dataset

    @cached_property
    def _user_numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.user_ids)}

    @cached_property
    def _item_numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.item_ids)}

    def _updated_report(self) -> Report:
        tied = tied_events(self.histories)
        ends = self.histories.offsets[1:][self.histories.lengths > 0] - 1
        shared = [count for count in Counter(filter(None, self.titles)).values() if count > 1]
        return dataclasses.replace(
            self.report,
            users=self.n_users,
            items=self.n_items,
            interactions=len(self.histories.items),
            has_item_texts=self.report.has_item_texts or any(self.titles),
            has_times=self.histories.times is not None,
            tied=int(tied.sum()),
            users_with_tied_end=int(tied[ends].sum()),
            titles_missing=self.titles.count(""),
            titles_shared=sum(shared),
        )


def _write_texts(path: Path, columns: Mapping[str, list[str]]) -> None:
    try:
        frame = pl.DataFrame(dict(columns), schema=dict.fromkeys(columns, pl.String))
    except UnicodeEncodeError as error:
        raise DataError(
            f"expected ids and titles that UTF-8 has, got {error.object[:100]!r}"
        ) from error
    # polars would read ~ at the beginning of a path as the home folder
    with path.open("wb") as file:
        frame.write_parquet(file)


def _number(kind: str, wanted: str, numbers: dict[str, int]) -> int:
    number = numbers.get(wanted)
    if number is None:
        message = f"expected a known {kind} id, got {wanted!r}"
        if len(numbers) <= _MAX_IDS_COMPARED and isinstance(wanted, str):
            similar = difflib.get_close_matches(wanted, numbers, n=3)
            if similar:
                message += f" (similar ids: {', '.join(similar)})"
        raise ValueError(message)
    return number
