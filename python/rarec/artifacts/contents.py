"""What a folder holds: the size and the hash of each file, by which damage is found.

Files of up to 64 MB are read whole whenever a folder is opened. Of a larger one the size and the
beginning are compared, where safetensors keeps names, types and shapes; `rarec doctor RUN` reads it
whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rarec.settings import typed

#: Name of the file with the sizes and hashes.
FILES_NAME = "files.json"
#: Files that are larger are not read whole when a folder is opened.
LARGE = 64 * 2**20
_BEGINNING = 2**20


@typed
class Files:
    """The files of a folder by their paths in it."""

    sizes: Mapping[str, int] = field(default_factory=dict)
    """Size in bytes of each file."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Hex sha256 of each file."""
    beginnings: Mapping[str, str] = field(default_factory=dict)
    """Hex sha256 of the beginning of each large file."""

    def __post_init__(self) -> None:
        large = {name for name, size in self.sizes.items() if size > LARGE}
        if self.sizes.keys() != self.hashes.keys() or large != set(self.beginnings):
            raise ValueError("expected a size and a hash of each file")


def describe_files(folder: Path) -> Files:
    """Return what is known of the files of a folder; `files.json` is left out."""
    names = [
        path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()
    ]
    sizes = {name: (folder / name).stat().st_size for name in names if name != FILES_NAME}
    return Files(
        sizes=sizes,
        hashes={name: file_hash(folder / name) for name in sizes},
        beginnings={
            name: file_hash(folder / name, _BEGINNING)
            for name, size in sizes.items()
            if size > LARGE
        },
    )


def check_files(folder: Path, files: Files, *, whole: bool = False) -> None:
    """Raise an error if a file of a folder is not as it was written.

    Args:
        folder: The folder.
        files: What `describe_files` said when it was written.
        whole: Read large files to their end, too.

    Raises:
        ValueError: If a file is missing or has changed. The message names the first one.
    """
    for name, size in files.sizes.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path}: expected the file that was written here, got none")
        found = path.stat().st_size
        if found != size:
            raise ValueError(f"{path}: expected {size} bytes, got {found}; {_CHANGED}")
        most = None if whole or size <= LARGE else _BEGINNING
        wanted = files.hashes[name] if most is None else files.beginnings[name]
        if file_hash(path, most) != wanted:
            raise ValueError(f"{path}: expected the content that was written; {_CHANGED}")


def content_hash(folder: Path) -> str:
    """Return the hex sha256 of the files of a folder and their names."""
    return text_hash(sorted(describe_files(folder).hashes.items()))


_CHANGED = "the file was changed or damaged later"


def text_hash(values: Any) -> str:
    """Return the hex sha256 of values as JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def file_hash(path: str | os.PathLike[str], most: int | None = None) -> str:
    """Return the hex sha256 of a file; one that has not changed is read once in a process.

    Args:
        path: The file.
        most: Read this many bytes from the beginning; None for all.

    Raises:
        OSError: If it cannot be read.
    """
    status = Path(path).stat()
    changed = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return _file_hash(os.fspath(path), most, changed)


@lru_cache(maxsize=4096)
def _file_hash(path: str, most: int | None, changed: tuple[int, ...]) -> str:  # noqa: ARG001
    with Path(path).open("rb") as file:
        if most is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(file.read(most)).hexdigest()
