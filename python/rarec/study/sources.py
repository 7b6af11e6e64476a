"""A dataset of a study: where it is, what is kept of it, and what is set for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rarec.assets import fetch, is_public_dataset
from rarec.data import Dataset, read_dataset
from rarec.pipeline.fit_ids import ALL, HELD_OUT, baseline_part
from rarec.pipeline.samples import selection_of
from rarec.run.folder import RunFolder, ids_address
from rarec.run.freshness import fresh_record
from rarec.settings import (
    ColumnSettings,
    IDSettings,
    ReadSettings,
    SplitSettings,
    as_dict,
    fields_of,
    flatten,
    from_dict,
    with_values,
)


@dataclass(frozen=True)
class DataSource:
    """One dataset of a study.

    Attributes:
        name: Name of the dataset.
        source: A folder, a file, a pattern of files, the name of a public dataset, or a run folder.
        options: What is kept of the interactions.
        columns: Names of the columns.
        split: How the dataset is split.
        settings: Values of every variant on this dataset, by dotted name.
        imported_ids: Folder of ID vectors that are taken as they are, in place of an ID model.
    """

    name: str
    source: str
    options: ReadSettings = field(default_factory=ReadSettings)
    columns: ColumnSettings = field(default_factory=ColumnSettings)
    split: SplitSettings = field(default_factory=SplitSettings)
    settings: Mapping[str, Any] = field(default_factory=dict)
    imported_ids: Path | None = None

    def read(self) -> Dataset:
        """Return the dataset."""
        if is_public_dataset(self.source):
            return read_dataset(fetch(self.source), columns=self.columns, options=self.options)
        if RunFolder.exists(self.source):
            return RunFolder(self.source).dataset
        return read_dataset(self.source, columns=self.columns, options=self.options)


def data_source(
    name: str,
    source: str,
    reading: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> DataSource:
    """Return a dataset of a study.

    Of a run folder come the dataset and its split, how the samples are chosen and the ID model is
    trained if that has been done in it (seeds aside), and ID vectors that were imported into it.

    Args:
        name: Name of the dataset.
        source: A folder, a file, a pattern of files, the name of a public dataset, or a run folder.
        reading: Values of `ReadSettings` and `ColumnSettings`.
        settings: Values of every variant on this dataset, by dotted name.

    Raises:
        ValueError: If a value is refused, or a run folder is to be read in another way.
    """
    reading, settings = dict(reading or {}), dict(settings or {})
    # the name of a public dataset is no path; a run folder of that name is written ./NAME
    if RunFolder.exists(source) and not is_public_dataset(source):
        if reading:
            raise ValueError(f"expected no columns or filters of a run folder, got {list(reading)}")
        return _of_run(name, source, settings)
    options = {key: value for key, value in reading.items() if key in fields_of(ReadSettings)}
    columns = {key: value for key, value in reading.items() if key not in options}
    return DataSource(
        name,
        source,
        options=with_values(ReadSettings(), options),
        columns=with_values(ColumnSettings(), columns),
        settings=settings,
    )


def _of_run(name: str, source: str, settings: Mapping[str, Any]) -> DataSource:
    run = RunFolder(source)
    found: dict[str, Any] = {}
    imported = None
    selection = selection_of(run)
    if selection is not None:
        found["selection"] = as_dict(selection)
    part = baseline_part(run)
    if part is not None:
        record = fresh_record(run, ids_address(part))
        if record is not None and record.settings:
            found["ids"] = as_dict(from_dict(IDSettings, record.settings))
            found["hold_out"] = HELD_OUT in run.id_parts()
        else:
            imported = run.folder(ids_address(ALL))
    for step in found.keys() - {"hold_out"}:
        del found[step]["seed"]
    return DataSource(
        name,
        source,
        split=run.split_settings,
        settings={**flatten(found), **settings},
        imported_ids=imported,
    )
