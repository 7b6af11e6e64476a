"""Checkpoints that are whole: a file in the folder, written last, says so.

A process can be stopped while it writes a checkpoint. A folder without that file is never read.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

#: The file that is written last.
WHOLE = "whole"


def checkpoint_folder(output: str | os.PathLike[str], step: int) -> Path:
    """Return the folder of the checkpoint after a step; it need not exist."""
    return Path(output) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def newest_checkpoint(output: str | os.PathLike[str]) -> Path | None:
    """Return the newest whole checkpoint in a folder, or None; half written ones are removed."""
    newest = None
    for folder in _checkpoints(output):
        if (folder / WHOLE).is_file():
            newest = folder
        else:
            shutil.rmtree(folder)
    return newest


def mark_whole(folder: Path) -> None:
    """Flush the files of a checkpoint to the disk, and then write the one that marks it."""
    for path in folder.rglob("*"):
        if path.is_file():
            _flush(path)
    _flush(folder)
    (folder / WHOLE).touch()
    _flush(folder)
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


def _flush(path: Path) -> None:
    """Write what the system holds of a file or folder to the disk."""
    if path.is_dir() and os.name == "nt":
        # Windows cannot open a folder
        return
    # Windows flushes only files that are open for writing
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
