"""Writing an artifact of a run: whole, with its record, and from inputs that are still the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rarec.artifacts import write_folder
from rarec.run.folder import RunFolder
from rarec.run.freshness import fresh_hash
from rarec.run.records import write_record

# name of the short lock under which an artifact takes its place
_COMMIT = "commit"


@contextmanager
def write_artifact(
    run: RunFolder,
    address: str,
    *,
    made_from: Mapping[str, str],
    settings: Mapping[str, Any],
    measurements: dict[str, Any] | None = None,
    language_models: Mapping[str, str] | None = None,
) -> Iterator[Path]:
    """Yield a temporary folder that becomes the artifact, with its record, when the block succeeds.

    Args:
        run: The run.
        address: Path of the artifact in the run. What is there is replaced as a whole.
        made_from: Hash of each input by its address.
        settings: Settings of the step, as JSON can hold them.
        measurements: What was measured. The block may add to it.
        language_models: Hash of the content of each language model that makes it.

    Yields:
        The folder to write the content into.

    Raises:
        ValueError: If another process has changed an input meanwhile.
        WriteError: If it cannot be written, for example because the disk is full.
    """
    with write_folder(run.folder(address), commit=committing(run, address, made_from)) as folder:
        yield folder
        write_record(folder, made_from, settings, measurements, language_models)


@contextmanager
def committing(run: RunFolder, address: str, made_from: Mapping[str, str]) -> Iterator[None]:
    """Hold the lock under which artifacts take their places, one after the other.

    Args:
        run: The run.
        address: Path of the artifact in the run.
        made_from: Hash of each input by its address.

    Raises:
        ValueError: If an input is not what the artifact was made from.
    """
    with run.lock(_COMMIT, wait=True):
        for name, stored in made_from.items():
            if fresh_hash(run, name) != stored:
                raise ValueError(
                    f"{run.path}: {name} was changed by another process while {address} was made; "
                    f"the same command makes it again"
                )
        yield
