"""Checkpoints that are whole: a file in the folder, written last, says so and lists the others.

A process can be stopped while it writes a checkpoint. A folder without that file is never read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from rarec.artifacts import flush_folder, is_temporary, read_json, write_json
from rarec.settings.declaration import CountOrZero, typed

#: The file that is written last.
WHOLE = "whole"
_FORMAT = "rarec.checkpoint/1"
# of a larger file the beginning is hashed, so that a large model need not be read twice
_LARGE = 64 * 2**20
_BEGINNING = 64 * 2**10


@typed
class CheckpointFile:
    """What is known of a file of a checkpoint."""

    size: CountOrZero
    """Number of bytes."""
    sha256: str
    """Hex sha256 of its content, or of the beginning of a large file."""


@typed
class CheckpointFiles:
    """The content of the file that is written last."""

    format: str
    """Name and version of the format."""
    files: Mapping[str, CheckpointFile]
    """The other files by their paths in the checkpoint."""


def checkpoint_folder(output: str | os.PathLike[str], step: int) -> Path:
    """Return the folder of the checkpoint after a step; it need not exist."""
    return Path(output) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def newest_checkpoint(output: str | os.PathLike[str]) -> Path | None:
    """Return the newest whole checkpoint in a folder, or None; half written ones are removed.

    Raises:
        ValueError: If a file of it is missing, or is not as it was written.
    """
    newest = None
    for folder in _checkpoints(output):
        if (folder / WHOLE).is_file():
            newest = folder
        else:
            shutil.rmtree(folder)
    if newest is not None:
        _verify(newest)
    return newest


def mark_whole(folder: Path) -> None:
    """Flush the files of a checkpoint to the disk, and then write the one that marks it."""
    flush_folder(folder)
    found = CheckpointFiles(format=_FORMAT, files=_files(folder))
    write_json(folder / WHOLE, asdict(found))  # type: ignore[call-overload]
    # the name of the checkpoint itself
    _flush(folder.parent)


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint; a process that is stopped meanwhile leaves one that is not whole."""
    if folder.exists():
        (folder / WHOLE).unlink(missing_ok=True)
        _flush(folder)
        shutil.rmtree(folder)


def remove_older(output: str | os.PathLike[str], most: int | None, keep: str | None = None) -> None:
    """Remove the oldest checkpoints of a folder.

    Args:
        output: The folder.
        most: Most checkpoints that stay. With None or 0 all stay.
        keep: A checkpoint that stays in any case, beside the newest.
    """
    if not most:
        return
    found = _checkpoints(output)
    spared = {found[-1], Path(keep)} if found and keep else set(found[-1:])
    older = [folder for folder in found if folder not in spared]
    n_removed = max(0, min(len(older), len(found) - most))
    for folder in older[:n_removed]:
        remove_checkpoint(folder)


def _checkpoints(output: str | os.PathLike[str]) -> list[Path]:
    """Return the folders of checkpoints in a folder, the newest last."""
    steps = {}
    for folder in Path(output).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdecimal() and folder.is_dir():
            steps[int(step)] = folder
    return [steps[step] for step in sorted(steps)]


def _verify(folder: Path) -> None:
    """Refuse a checkpoint whose files are not those that its last file lists."""
    marker = folder / WHOLE
    anew = "restart (--restart) begins the training again"
    try:
        stored = read_json(marker)
        files = stored.get("files")
        if isinstance(files, dict):
            stored["files"] = {
                name: CheckpointFile(**known) if isinstance(known, dict) else known
                for name, known in files.items()
            }
        whole = CheckpointFiles(**stored)
        if whole.format != _FORMAT:
            raise ValueError(f"expected format {_FORMAT!r}, got {whole.format!r}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{marker}: {error}; {anew}") from error
    for name, known in whole.files.items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{file}: expected a file of the checkpoint, got none; {anew}")
        if (size := file.stat().st_size) != known.size:
            raise ValueError(f"{file}: expected {known.size} bytes, got {size}; {anew}")
        if _sha256(file) != known.sha256:
            raise ValueError(f"{file}: expected the content as it was written; {anew}")


def _files(folder: Path) -> dict[str, CheckpointFile]:
    return {
        path.relative_to(folder).as_posix(): CheckpointFile(
            size=path.stat().st_size, sha256=_sha256(path)
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != WHOLE and not is_temporary(path)
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        if path.stat().st_size > _LARGE:
            return hashlib.sha256(file.read(_BEGINNING)).hexdigest()
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Write what the system holds of a folder to the disk."""
    if os.name == "nt":
        # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
