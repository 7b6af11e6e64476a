"""What an asset is, and whether the files in a folder are those it should have."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


class AssetError(ValueError):
    """An asset that cannot be had, or a file that is not what it should be."""


@dataclass(frozen=True)
class Source:
    """One place an asset comes from.

    Attributes:
        label: How messages name it.
        place: Puts the asset's files into a folder; raises `OSError` or `AssetError` if it cannot.
    """

    label: str
    place: Callable[[Path], None]


@dataclass(frozen=True)
class Asset:
    """A named set of files.

    Attributes:
        name: Its name and that of its folder in the cache.
        files: sha256 of each file, by file name.
        sources: Where it comes from; the first that works is taken.
    """

    name: str
    files: Mapping[str, str]
    sources: tuple[Source, ...]


def sha256(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_fault(asset: Asset, folder: Path) -> str | None:
    """Return what is wrong with the files in a folder, or None."""
    for name, expected in asset.files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        got = sha256(file)
        if got != expected:
            return f"{name}: expected sha256 {expected}, got {got}"
    return None


def check(file: Path, expected: str) -> None:
    """Raise `AssetError` unless a file has this sha256."""
    got = sha256(file)
    if got != expected:
        raise AssetError(f"{file.name}: expected sha256 {expected}, got {got}")
