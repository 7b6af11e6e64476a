"""The record of an artifact: what it was made from, with which settings, and what was measured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

from rarec.artifacts import (
    check_folder,
    content_hash,
    is_artifact,
    parse,
    read_json,
    read_whole,
    write_config,
    write_json,
)
from rarec.settings import typed

FORMAT = "rarec.record/2"
RECORD_NAME = "record.json"


@typed
class Record:
    """What is known of an artifact of a run, in its `record.json`."""

    format: str = FORMAT
    """Name and version of the format."""
    made_from: Mapping[str, str] = field(default_factory=dict)
    """Hash of each input by its address: the path of an artifact in the run, or `data`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the step that made it."""
    measurements: Mapping[str, Any] = field(default_factory=dict)
    """What was measured while it was made: times, sizes, counts. They are no part of the hash."""
    language_models: Mapping[str, str] = field(default_factory=dict)
    """Hash of the content of each language model that made it, by the setting that names the model.
    They are no part of the hash."""
    hash: str = ""
    """Hex sha256 of all other files and their names: equal for artifacts of equal content."""


def write_record(
    folder: Path,
    made_from: Mapping[str, str],
    settings: Mapping[str, Any],
    measurements: Mapping[str, Any] | None = None,
    language_models: Mapping[str, str] | None = None,
) -> Record:
    """Return the record of what a folder holds, and write it there.

    Args:
        folder: A temporary folder with the whole content of an artifact.
        made_from: Hash of each input by its address.
        settings: Settings of the step.
        measurements: What was measured.
        language_models: Hash of the content of each language model that made it.
    """
    if not is_artifact(folder):
        write_config(folder, "rarec.artifact/1", {})
    record = Record(
        made_from=made_from,
        settings=settings,
        measurements=measurements or {},
        language_models=language_models or {},
        hash=content_hash(folder),
    )
    write_json(folder / RECORD_NAME, asdict(record))
    return record


def read_record(folder: str | os.PathLike[str]) -> Record | None:
    """Return the record of an artifact, whose files are checked; None if there is no artifact.

    Raises:
        ValueError: If a file of the artifact is missing or damaged. The message names the file and
            says what to do.
    """
    place = Path(folder)
    if not place.is_dir() or not any(place.iterdir()):
        return None
    try:
        return read_whole(place, lambda: _read(place))
    except ValueError as error:
        raise ValueError(
            f"{error}. Remove the folder {place}, or make it again with --restart"
        ) from error


def _read(folder: Path) -> Record:
    check_folder(folder)
    file = folder / RECORD_NAME
    record = parse(Record, read_json(file), file)
    if record.format != FORMAT:
        raise ValueError(f"{file}: expected format {FORMAT!r}, got {record.format!r}")
    return record
