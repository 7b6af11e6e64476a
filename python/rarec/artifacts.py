"""Artifact folders: written whole or not at all, and recognised when they are read.

An artifact is a folder with a `config.json` whose key `format` names what it holds, for example
`rarec.index/1`. Only such a folder is ever replaced.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONFIG_NAME = "config.json"
FORMAT_PREFIX = "rarec"


@contextmanager
def write_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty temporary folder that takes the place of `path` when the block succeeds.

    The temporary folder lies beside `path`, so that taking its place is a rename. If the block
    raises, the temporary folder is removed and `path` stays as it was.

    Args:
        path: The folder to write. It may be absent, empty, or an artifact of ours, which is
            replaced as a whole.

    Yields:
        The temporary folder to write into. The block must leave a `config.json` of ours in it
        (see `write_config`).

    Raises:
        ValueError: If `path` is a file, or a folder with content that is not an artifact of
            ours, or if the block leaves no `config.json` of ours.

    Example:
        >>> with tempfile.TemporaryDirectory() as root:
        ...     with write_folder(f"{root}/thing") as folder:
        ...         write_config(folder, "rarec.thing/1", {"size": 3})
        ...     read_config(f"{root}/thing", "rarec.thing/1")["size"]
        3
    """
    target = Path(path).absolute()
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        if not _is_ours(temporary):
            raise ValueError(
                f"expected the writer of {target} to leave a {CONFIG_NAME} whose format starts "
                f"with {FORMAT_PREFIX!r}, got none"
            )
        # mkdtemp makes folders that nobody else can read
        temporary.chmod(_default_mode())
        _replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_config(folder: Path, format: str, values: Mapping[str, Any]) -> None:  # noqa: A002
    """Write `folder/config.json`: `format`, then the values.

    Args:
        folder: An existing folder, usually the one `write_folder` gives.
        format: Name and version of what the folder holds; starts with `rarec`.
        values: What `json` can write; NaN is refused.

    Raises:
        ValueError: If `format` does not start with `rarec`, or `values` holds that key too.
    """
    if not format.startswith(FORMAT_PREFIX) or "format" in values:
        raise ValueError(
            f"expected a format that starts with {FORMAT_PREFIX!r} and values without the key "
            f"'format', got {format!r} and {sorted(values)}"
        )
    text = json.dumps({"format": format, **values}, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")


def read_config(folder: str | os.PathLike[str], format: str) -> dict[str, Any]:  # noqa: A002
    """Return what `folder/config.json` says, with its key `format`.

    Args:
        folder: The artifact's folder.
        format: The format the caller can read.

    Raises:
        ValueError: If there is no such folder, no readable `config.json` in it, or it holds
            another format.
    """
    file = Path(folder) / CONFIG_NAME
    if not file.is_file():
        raise ValueError(f"expected a folder with {format!r}, got {folder} (no {CONFIG_NAME})")
    found = _parse(file)
    if found is None:
        raise ValueError(f"expected a JSON object in {file}, got something else")
    if found.get("format") != format:
        raise ValueError(f"expected format {format!r} in {file}, got {found.get('format')!r}")
    return found


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all: to a temporary file beside it, then renamed.

    Args:
        path: The file; its folder is made when it is absent.
        text: The content, written as UTF-8.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        temporary.chmod(_default_mode() & 0o666)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def write_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file that takes the place of `path` when the block succeeds.

    The temporary file lies beside `path`. It is flushed to the disk before it takes the place. If
    the block raises, it is removed and `path` stays as it was.

    Args:
        path: The file; its folder is made if it is absent.

    Yields:
        The temporary file to write, which is empty.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(_default_mode() & 0o666)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


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
    found = _parse(folder / CONFIG_NAME)
    return found is not None and str(found.get("format", "")).startswith(FORMAT_PREFIX)


def _parse(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _replace(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    # a folder cannot be renamed onto one with content: move the old one aside, and back if the
    # second rename fails
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    old = aside / target.name
    target.rename(old)
    try:
        temporary.rename(target)
    except BaseException:
        old.rename(target)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def _default_mode() -> int:
    # the only way to read the umask is to set it
    mask = os.umask(0o022)
    os.umask(mask)
    return 0o777 & ~mask
