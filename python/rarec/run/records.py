"""The record of an artifact: what it was made from, with which settings, and what was measured."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

from rarec.artifacts import is_artifact, read_json, write_config, write_folder, write_json
from rarec.settings import typed

FORMAT = "rarec.record/1"
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
    files: Mapping[str, str] = field(default_factory=dict)
    """Hex sha256 of each file by its path in the artifact."""

    @property
    def hash(self) -> str:
        """Hex sha256 of the files and their names: equal for artifacts of equal content."""
        text = json.dumps(sorted(self.files.items()), ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


@contextmanager
def write_artifact(
    path: str | os.PathLike[str],
    *,
    made_from: Mapping[str, str],
    settings: Mapping[str, Any],
    measurements: dict[str, Any] | None = None,
    language_models: Mapping[str, str] | None = None,
) -> Iterator[Path]:
    """Yield a temporary folder that becomes the artifact, with its record, when the block succeeds.

    Args:
        path: Folder of the artifact, which is replaced as a whole.
        made_from: Hash of each input by its address.
        settings: Settings of the step, as JSON can hold them.
        measurements: What was measured. The block may add to it.
        language_models: Hash of the content of each language model that makes it.

    Yields:
        The folder to write the content into.
    """
    with write_folder(path) as folder:
        yield folder
        if not is_artifact(folder):
            write_config(folder, "rarec.artifact/1", {})
        record = Record(
            made_from=made_from,
            settings=settings,
            measurements=measurements or {},
            language_models=language_models or {},
            files=_hashes(folder),
        )
        write_json(folder / RECORD_NAME, asdict(record))


def read_record(folder: str | os.PathLike[str]) -> Record | None:
    """Return the record of an artifact; None if there is no artifact.

    Raises:
        ValueError: If the record is damaged. The message names the file and the field.
    """
    file = Path(folder) / RECORD_NAME
    if not file.is_file():
        return None
    try:
        record = Record(**read_json(file))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
    if record.format != FORMAT:
        raise ValueError(f"{file}: expected format {FORMAT!r}, got {record.format!r}")
    return record


def _hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != RECORD_NAME
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
