"""Reading of JSON files and of the configs of artifacts: each checked, and each value typed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rarec.artifacts.contents import FILES_NAME, Files, check_files, text_hash

CONFIG_NAME = "config.json"
FORMAT_PREFIX = "rarec."
FILES_FORMAT = "rarec.files/1"
#: Key of the hash of all other values in a file that nothing else checks.
SEAL = "sha256"
# a folder is replaced once in minutes, so a second attempt reads one folder
_ATTEMPTS = 3

Declared = TypeVar("Declared")
Value = TypeVar("Value")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ValueError: If the file is missing, cannot be read or holds something else. The message
            names the file.
    """
    file = Path(path)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    # RecursionError: thousands of brackets
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected a JSON object ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file}: expected a JSON object, got {type(found).__name__}")
    return found


def read_sealed(path: str | os.PathLike[str], format: str) -> dict[str, Any]:  # noqa: A002
    """Return the values that `write_sealed` wrote, without their format and their hash.

    Args:
        path: The file.
        format: The format that the caller can read.

    Raises:
        ValueError: If the file is missing, has another format, or was changed.
    """
    found = read_json(path)
    if found.get("format") != format:
        raise ValueError(f"{path}: expected format {format!r}, got {found.get('format')!r}")
    seal = found.pop(SEAL, None)
    if seal != text_hash(found):
        raise ValueError(
            f"{path}: expected the values that were written; the file was changed or damaged later"
        )
    del found["format"]
    return found


def parse(
    declared: type[Declared], values: Mapping[str, Any], file: str | os.PathLike[str]
) -> Declared:
    """Return values from a file as a typed object.

    Args:
        declared: A class that `rarec.settings.typed` made.
        values: The values by the name of the field.
        file: The file, for messages.

    Raises:
        ValueError: If a value is missing, unknown or of another type. The message names the file
            and the field.
    """
    try:
        return declared(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(file)}: {error}") from error


def read_config(
    folder: str | os.PathLike[str],
    format: str,  # noqa: A002
    declared: type[Declared],
) -> Declared:
    """Return what the `config.json` of an artifact says; all files of the artifact are checked.

    Args:
        folder: Folder of the artifact.
        format: The format that the caller can read.
        declared: A class that `rarec.settings.typed` made, with a field for each value.

    Raises:
        ValueError: If there is no such folder or config, if it holds another format, or if a file
            was changed or damaged after it was written. The message names the file.
    """
    file = Path(folder) / CONFIG_NAME
    if not file.is_file() and not (Path(folder) / FILES_NAME).is_file():
        raise ValueError(f"expected a folder with {format!r}, got {folder} (no {CONFIG_NAME})")
    if (Path(folder) / FILES_NAME).is_file():
        check_folder(folder)
    found = read_json(file)
    stored = found.pop("format", None)
    if stored != format:
        raise ValueError(f"expected format {format!r} in {file}, got {stored!r}")
    # after the format: a folder of an older version has no list of its files
    check_folder(folder)
    return parse(declared, found, file)


def check_folder(folder: str | os.PathLike[str], *, whole: bool = False) -> Files:
    """Return what is known of the files of an artifact, when none has changed since.

    Args:
        folder: Folder of the artifact.
        whole: Read large files to their end, too.

    Raises:
        ValueError: If a file is missing, or was changed or damaged after it was written. The
            message names the file.
    """
    file = Path(folder) / FILES_NAME
    files = parse(Files, read_sealed(file, FILES_FORMAT), file)
    check_files(Path(folder), files, whole=whole)
    return files


def is_artifact(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds an artifact of rarec, of any kind and version."""
    try:
        found = read_json(Path(folder) / CONFIG_NAME)
    except ValueError:
        return False
    return str(found.get("format", "")).startswith(FORMAT_PREFIX)


def read_whole(folder: str | os.PathLike[str], read: Callable[[], Value]) -> Value:
    """Return what a function reads from a folder, of one state of it.

    While the files are read one after the other, another process may replace the folder. Then they
    are read again.

    Args:
        folder: The folder.
        read: Reads it.
    """
    for _ in range(_ATTEMPTS - 1):
        before = _state(folder)
        try:
            value = read()
        except (OSError, ValueError):
            if _state(folder) == before:
                raise
        else:
            if _state(folder) == before:
                return value
    return read()


def _state(folder: str | os.PathLike[str]) -> tuple[int, ...] | None:
    try:
        status = Path(folder).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
