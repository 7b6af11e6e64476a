"""Whether a step has been done before: with the same settings, with others, or not at all."""

from __future__ import annotations

from typing import TypeVar

from rarec.run.folder import RunFolder
from rarec.run.freshness import fresh_record
from rarec.run.records import Record
from rarec.settings import differences, from_dict

Settings = TypeVar("Settings")


def finished_record(
    run: RunFolder, address: str, settings: Settings, *, restart: bool = False
) -> Record | None:
    """Return the record of an artifact that is fresh and was made with these settings.

    None means that it has to be made: it is absent, out of date, or is to be made again.

    Args:
        run: The run.
        address: Path of the artifact in the run.
        settings: Settings of this call.
        restart: Make it again in any case.

    Raises:
        ValueError: If it was made with other settings, and is not to be made again.
    """
    record = None if restart else fresh_record(run, address)
    if record is None:
        return None
    stored = from_dict(type(settings), record.settings)
    if stored == settings:
        return record
    raise ValueError(
        f"{run.path}: {address} was made with other settings: "
        f"{'; '.join(differences(settings, stored))}; restart (--restart) makes it again"
    )
