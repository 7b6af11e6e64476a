"""The definition of an asset, and the check of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


class AssetError(ValueError):
    """The error for an asset that cannot be fetched, or for a file with a wrong sha256."""


@dataclass(frozen=True)
class Source:
    """One place from which an asset can be fetched.

    Attributes:
        label: Name of the source in messages.
        place: Function that puts the files of the asset into a folder. It raises `OSError` or
            `AssetError` if it cannot.
    """

    label: str
    place: Callable[[Path], None]


@dataclass(frozen=True)
class Asset:
    """A named set of files.

    Attributes:
        name: Name of the asset and of its folder in the cache.
        files: The sha256 of each file, by file name.
        sources: Sources in the order in which they are tried; the first that works is taken.
    """

    name: str
    files: Mapping[str, str]
    sources: tuple[Source, ...]


def sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_fault(asset: Asset, folder: Path) -> str | None:
    """Return what is wrong with the files of an asset in a folder; None if all are right."""
    for name, expected in asset.files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        got = sha256(file)
        if got != expected:
            return f"{name}: expected sha256 {expected}, got {got}"
    return None


def check_sha256(file: Path, expected: str) -> None:
    """Raise `AssetError` unless a file has the expected sha256."""
    got = sha256(file)
    if got != expected:
        raise AssetError(f"{file.name}: expected sha256 {expected}, got {got}")
