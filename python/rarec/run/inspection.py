"""What is in a run, and whether each part is whole: every file is read to its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rarec.artifacts import CONFIG_NAME, check_folder, is_temporary
from rarec.run.folder import DATASET, NOT_ARTIFACTS, RunFolder
from rarec.run.freshness import why_not_fresh
from rarec.run.records import RECORD_NAME


@dataclass(frozen=True)
class Inspected:
    """What was found of one part of a run.

    Attributes:
        address: The path of the part in the run.
        damage: What is damaged, in one line; None if nothing is.
        remark: In words: whether it is fresh, or why not.
    """

    address: str
    damage: str | None
    remark: str


def inspect_run(run: RunFolder) -> Iterator[Inspected]:
    """Yield what is found of each part of a run; large files are read whole, too.

    Args:
        run: The run.
    """
    for address in _addresses(run):
        try:
            check_folder(run.folder(address), whole=True)
            reason = None if address == DATASET else why_not_fresh(run, address)
            if address == DATASET:
                # the ids and titles fit the histories
                _ = run.dataset
        except ValueError as error:
            yield Inspected(address, str(error), "damaged")
        else:
            yield Inspected(address, None, reason or "whole and fresh")
    for path in sorted(run.path.rglob("*")):
        # those of processes of this host that have ended are removed when a run is opened
        if is_temporary(path):
            place = path.relative_to(run.path).as_posix()
            yield Inspected(place, None, "is being written, or was left by a process elsewhere")


def _addresses(run: RunFolder) -> list[str]:
    """Return the addresses of all artifacts that are there, whole or not."""
    found = {DATASET}
    for name in (RECORD_NAME, CONFIG_NAME):
        for file in run.path.rglob(name):
            place = file.parent.relative_to(run.path)
            if place.parts[0] not in NOT_ARTIFACTS and not any(map(is_temporary, _above(place))):
                found.add(place.as_posix())
    # a folder inside an artifact is checked with it, apart from the parts of an ID model
    return sorted(
        address
        for address in found
        if not any(parent.as_posix() in found for parent in _above(Path(address))[1:])
        or address.startswith("ids/")
    )


def _above(place: Path) -> list[Path]:
    """Return a path and all folders above it, within the run."""
    return [place, *list(place.parents)[:-1]]
