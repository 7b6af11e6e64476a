"""The one way to write: a file or a folder appears whole or not at all.

Everything is written beside its place under a temporary name, flushed to disk, and renamed. The
temporary name holds the host and the process, so that what a killed process left is recognised and
removed by the next writer.

An artifact is a folder with a `config.json` whose key `format` names what it holds and the version
of it: `rarec.KIND/VERSION`, for example `rarec.index/1`. Only such a folder is ever replaced.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONFIG_NAME = "config.json"
FORMAT_PREFIX = "rarec."
_TEMPORARY = ".rarec-tmp"


@contextmanager
def write_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty temporary folder that takes the place of `path` when the block succeeds.

    If the block raises, the temporary folder is removed and `path` stays as it was.

    Args:
        path: The folder to write. It may be absent, empty, or an artifact of rarec, which is
            replaced as a whole.

    Yields:
        The temporary folder to write into. The block must leave a `config.json` of rarec in it
        (see `write_config`).

    Raises:
        ValueError: If `path` is a file or a folder with other content, or if the block leaves no
            `config.json` of rarec.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     with write_folder(f"{root}/thing") as folder:
        ...         write_config(folder, "rarec.thing/1", {"size": 3})
        ...     read_config(f"{root}/thing", "rarec.thing/1")["size"]
        3
    """
    target = Path(path).absolute()
    _check_replaceable(target)
    temporary = _beside(target)
    temporary.mkdir()
    try:
        yield temporary
        if not is_artifact(temporary):
            raise ValueError(
                f"expected the writer of {target} to leave a {CONFIG_NAME} whose format starts "
                f"with {FORMAT_PREFIX!r}, got none"
            )
        flush_folder(temporary)
        _replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def write_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that takes the place of the file `path` when the block succeeds.

    Args:
        path: The file to write. Its folder is made when it is absent.

    Yields:
        The path to write to, in the same folder. The block must make the file.
    """
    target = Path(path).absolute()
    temporary = _beside(target)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        _flush(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
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
    try:
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"{path}: expected values that JSON has, got: {error}") from error
    write_text(path, text + "\n")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ValueError: If the file is missing, cannot be read or holds something else. The message
            names the file.
    """
    file = Path(path)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: expected a JSON object ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file}: expected a JSON object, got {type(found).__name__}")
    return found


def write_config(folder: Path, format: str, values: Mapping[str, Any]) -> None:  # noqa: A002
    """Write `folder/config.json`: `format`, then the values.

    Args:
        folder: An existing folder, usually the one that `write_folder` gives.
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
    write_json(folder / CONFIG_NAME, {"format": format, **values})


def read_config(folder: str | os.PathLike[str], format: str) -> dict[str, Any]:  # noqa: A002
    """Return what `folder/config.json` says, with its key `format`.

    Args:
        folder: Folder of the artifact.
        format: The format that the caller can read.

    Raises:
        ValueError: If there is no such folder, no readable `config.json` in it, or it holds
            another format.
    """
    file = Path(folder) / CONFIG_NAME
    if not file.is_file():
        raise ValueError(f"expected a folder with {format!r}, got {folder} (no {CONFIG_NAME})")
    found = read_json(file)
    if found.get("format") != format:
        raise ValueError(f"expected format {format!r} in {file}, got {found.get('format')!r}")
    return found


def is_artifact(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds an artifact of rarec, of any kind and version."""
    try:
        found = read_json(Path(folder) / CONFIG_NAME)
    except ValueError:
        return False
    return str(found.get("format", "")).startswith(FORMAT_PREFIX)


def is_temporary(path: Path) -> bool:
    """Return whether a name is one of those under which files and folders are written."""
    return path.name.startswith(f"{_TEMPORARY}.")


def _check_replaceable(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"expected a folder to write, got the file {target}")
    if any(target.iterdir()) and not is_artifact(target):
        raise ValueError(
            f"expected a new or empty folder or one that rarec wrote, got {target} "
            f"with other content, which stays as it is"
        )


def _beside(target: Path) -> Path:
    """Return a new temporary path in the folder of the target, which is made when it is absent."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target.parent)
    # a long name of the target would not fit
    owner = f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
    return target.parent / f"{_TEMPORARY}.{owner}.{target.name[:40]}"


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes of this host that are gone have left in a folder."""
    for path in folder.iterdir():
        if not is_temporary(path):
            continue
        owner = path.name.removeprefix(f"{_TEMPORARY}.{socket.gethostname()}.")
        process = owner.split(".")[0]
        if owner == path.name or not process.isdecimal() or _is_running(int(process)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name == "nt":
        # signal 0 would end the process there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _replace(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
    else:
        # a folder cannot be renamed onto one with content: the old one is moved aside, and back if
        # the second rename fails
        old = _beside(target)
        target.rename(old)
        try:
            temporary.rename(target)
        except BaseException:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _flush(target.parent)


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
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
