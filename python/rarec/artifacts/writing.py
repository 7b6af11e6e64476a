"""Writing: a file or a folder appears whole or not at all.

Everything is written beside its place under a temporary name, flushed to disk, and renamed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rarec.artifacts.contents import FILES_NAME, describe_files, text_hash
from rarec.artifacts.failures import writing_to
from rarec.artifacts.places import beside, is_temporary, remove, replace_folder
from rarec.artifacts.reading import (
    CONFIG_NAME,
    FILES_FORMAT,
    FORMAT_PREFIX,
    SEAL,
    is_artifact,
)


@contextmanager
def write_folder(
    path: str | os.PathLike[str], *, commit: AbstractContextManager[Any] | None = None
) -> Iterator[Path]:
    """Yield an empty temporary folder that takes the place of `path` when the block succeeds.

    If the block raises, the temporary folder is removed and `path` stays as it was. A file
    `files.json` with the size and the hash of each file is added.

    Args:
        path: The folder to write. It may be absent, empty, or an artifact of rarec, which is
            replaced as a whole. If it is a link, the folder that it leads to is replaced.
        commit: Is entered before the folder takes its place, and left after it.

    Yields:
        The temporary folder to write into. The block must leave a `config.json` of rarec in it
        (see `write_config`).

    Raises:
        ValueError: If `path` is a file or a folder with other content, or if the block leaves no
            `config.json` of rarec.
        WriteError: If it cannot be written, for example because the disk is full.

    Example:
        >>> import tempfile
        >>> from rarec.artifacts import read_json
        >>> with tempfile.TemporaryDirectory() as root:
        ...     with write_folder(f"{root}/thing") as folder:
        ...         write_config(folder, "rarec.thing/1", {"size": 3})
        ...     read_json(f"{root}/thing/config.json")["size"]
        3
    """
    target = Path(path).resolve()
    _check_replaceable(target)
    # a folder inside one that is being written appears with it
    is_inner = any(is_temporary(parent) for parent in target.parents)
    temporary = target
    with writing_to(path, written=lambda: size_of(temporary)):
        temporary = beside(target)
        try:
            temporary.mkdir()
            yield temporary
            if not is_artifact(temporary):
                raise ValueError(
                    f"expected the writer of {target} to leave a {CONFIG_NAME} whose format starts "
                    f"with {FORMAT_PREFIX!r}, got none"
                )
            files = asdict(describe_files(temporary))
            _write(temporary / FILES_NAME, _sealed(FILES_FORMAT, files))
            if not is_inner:
                flush_folder(temporary)
            with commit or nullcontext():
                replace_folder(temporary, target)
                if not is_inner:
                    _flush(target.parent)
        except BaseException:
            remove(temporary)
            raise


@contextmanager
def write_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that takes the place of the file `path` when the block succeeds.

    Args:
        path: The file to write. Its folder is made when it is absent. If it is a link, the file
            that it leads to is replaced; a device or a pipe is written directly.

    Yields:
        The path to write to, in the same folder. The block must make the file.

    Raises:
        WriteError: If it cannot be written, for example because the disk is full.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file() and not target.is_dir():
        with writing_to(path):
            yield target
        return
    temporary = target
    with writing_to(path, written=lambda: size_of(temporary)):
        temporary = beside(target)
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(target)
            _flush(target.parent)
        except BaseException:
            remove(temporary)
            raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all.

    Args:
        path: The file. Its folder is made when it is absent.
        text: The content, written as UTF-8.
    """
    with write_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], values: Any) -> None:
    """Write values as a JSON file whole or not at all.

    Args:
        path: The file. Its folder is made when it is absent.
        values: What `json` can write; NaN is refused.

    Raises:
        ValueError: If a value is one that JSON does not have.
    """
    write_text(path, _as_json(path, values))


def write_sealed(path: str | os.PathLike[str], format: str, values: Mapping[str, Any]) -> None:  # noqa: A002
    """Write values with a hash by which `read_sealed` finds any change.

    Args:
        path: The file. Its folder is made when it is absent.
        format: Name and version of what the file holds: `rarec.KIND/VERSION`.
        values: What `json` can write; NaN is refused.
    """
    write_json(path, _sealed(format, values))


def write_config(folder: Path, format: str, values: Mapping[str, Any]) -> None:  # noqa: A002
    """Write `folder/config.json`: `format`, then the values.

    Args:
        folder: The folder that `write_folder` gives.
        format: Name and version of what the folder holds: `rarec.KIND/VERSION`.
        values: What `json` can write; NaN is refused.

    Raises:
        ValueError: If `format` does not start with `rarec.`, or `values` has that key too.
    """
    if not format.startswith(FORMAT_PREFIX) or "format" in values:
        raise ValueError(
            f"expected a format that starts with {FORMAT_PREFIX!r} and values without the key "
            f"'format', got {format!r} and {sorted(values)}"
        )
    _write(folder / CONFIG_NAME, {"format": format, **values})


def _sealed(format: str, values: Mapping[str, Any]) -> dict[str, Any]:  # noqa: A002
    # as they will be read: JSON has no tuples, and only texts as keys
    sealed = json.loads(json.dumps({"format": format, **values}))
    return {**sealed, SEAL: text_hash(sealed)}


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file inside a temporary folder, which is flushed as a whole."""
    path.write_text(_as_json(path, values), encoding="utf-8")


def _as_json(path: str | os.PathLike[str], values: Any) -> str:
    try:
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
        if not _is_unicode(text):
            # a file name that is no text has characters that UTF-8 cannot hold
            text = json.dumps(values, indent=2, ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected values that JSON has, got: {error}") from error
    return text + "\n"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_replaceable(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"expected a folder to write, got the file {target}")
    if any(target.iterdir()) and not _is_ours(target):
        raise ValueError(
            f"expected a new or empty folder or one that rarec wrote, got {target} "
            f"with other content, which stays as it is"
        )


def _is_ours(folder: Path) -> bool:
    """Return whether rarec wrote a folder, which may be damaged since."""
    if is_artifact(folder):
        return True
    # without a config or with a damaged one, the list of the files still says so
    stored = folder / FILES_NAME
    return stored.is_file() and FILES_FORMAT in stored.read_text(encoding="utf-8", errors="replace")


def size_of(path: Path) -> int:
    """Return the bytes of a file or of all files of a folder, as far as they can be read."""
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    try:
        return sum(file.stat().st_size for file in files)
    except OSError:
        return 0


def flush_folder(folder: Path) -> None:
    """Wait until a folder and all in it are on disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            _flush(Path(root, name))
        _flush(Path(root))


def _flush(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    if path.is_dir() and os.name == "nt":
        # there a folder cannot be opened
        return
    # Windows flushes only files that are open for writing
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
