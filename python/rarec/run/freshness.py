"""Whether an artifact is fresh: made from what is in the run now. It is computed, never remembered.

    data -> samples -> ids -> models -> indexes, weights -> results

The record of each artifact holds the hash of every input. An artifact is fresh if each of these
inputs is there, is fresh itself, and has that hash.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rarec.run.folder import DATA, RunFolder
from rarec.run.records import Record, read_record

Value = TypeVar("Value")


def fresh_record(run: RunFolder, address: str) -> Record | None:
    """Return the record of an artifact that is fresh; None if it is absent or out of date.

    Args:
        run: The run.
        address: Path of the artifact in the run.
    """
    return None if why_not_fresh(run, address) else read_record(run.folder(address))


def fresh_hash(run: RunFolder, address: str) -> str | None:
    """Return the hash of an input that is fresh; None if it is absent or out of date.

    Args:
        run: The run.
        address: `data`, or the path of an artifact in the run.
    """
    if address == DATA:
        return run.data_hash
    record = fresh_record(run, address)
    return None if record is None else record.hash


def why_not_fresh(run: RunFolder, address: str) -> str | None:
    """Return in words why an artifact cannot be used; None if it is fresh.

    Args:
        run: The run.
        address: Path of the artifact in the run.
    """
    record = read_record(run.folder(address))
    if record is None:
        return f"{address} is not there"
    for made_from, stored in record.made_from.items():
        if fresh_hash(run, made_from) != stored:
            return f"{address} is out of date: {made_from} has changed since it was made"
    return None


def read_fresh(run: RunFolder, address: str, read: Callable[[], Value]) -> tuple[str, Value]:
    """Return the hash of an artifact, and what a function reads from it.

    Args:
        run: The run.
        address: Path of the artifact in the run.
        read: Reads the artifact.

    Raises:
        ValueError: If the artifact is not fresh. The message says why.
    """
    while True:
        before = require_inputs(run, [address])[address]
        value = read()
        # else another process has made it again meanwhile
        if fresh_hash(run, address) == before:
            return before, value


def require_inputs(run: RunFolder, addresses: list[str]) -> dict[str, str]:
    """Return the hash of each input of a step.

    Raises:
        ValueError: If an input is not fresh. The message says why.
    """
    found = {}
    for address in addresses:
        value = fresh_hash(run, address)
        if value is None:
            raise ValueError(f"{run.path}: {why_not_fresh(run, address)}")
        found[address] = value
    return found
