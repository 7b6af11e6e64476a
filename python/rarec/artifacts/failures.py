"""Failures of writing: a full disk, no permission, a missing mount. Each becomes one clear line."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# how libraries without an error number say it: Rust, Python
_NUMBER = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")
# torch says of any failure of its writer just where it was
_TORCH = ("inline_container", "PytorchStreamWriter", "basic_ios::clear", "iostream error")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_KEPT = "What was there before remains, and the same command goes on when"


class WriteError(OSError):
    """Something could not be written. The message is one line with the path and the reason."""


@contextmanager
def writing_to(
    path: str | os.PathLike[str], written: Callable[[], int] = lambda: 0
) -> Iterator[None]:
    """Turn each failure of the disk inside the block into one clear line.

    Args:
        path: What is written, for the message.
        written: Returns the bytes that were needed until the failure.

    Raises:
        WriteError: If the block fails because something cannot be written. All other errors go
            through unchanged.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        number = _error_number(error)
        if number is None:
            raise
        raise _failure(Path(path), number, written()) from error


def require_space(path: str | os.PathLike[str], n_bytes: int) -> None:
    """Raise an error if a disk has no space for what will be written; called before long work.

    Args:
        path: What will be written.
        n_bytes: Its size, with what is written beside it at the same time.

    Raises:
        WriteError: If the disk has less space.
    """
    if _free(Path(path)) < n_bytes:
        raise _failure(Path(path), errno.ENOSPC, n_bytes)


def readable_size(n_bytes: float) -> str:
    """Return a number of bytes for people.

    Example:
        >>> readable_size(3_400_000)
        '3.4 MB'
    """
    for unit in ("bytes", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "bytes" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"


def _error_number(error: BaseException | None) -> int | None:
    """Return the system's number of a failed write; None if an error has another reason."""
    while error is not None:
        text = str(error)
        if isinstance(error, OSError) and error.errno:
            return error.errno
        found = _NUMBER.search(text)
        if found is not None:
            return int(found[1] or found[2])
        if "No space left" in text:
            return errno.ENOSPC
        if any(sign in text for sign in _TORCH):
            return errno.EIO
        error = error.__cause__ or error.__context__
    return None


def _failure(path: Path, number: int, needed: int) -> WriteError:
    if number in _FULL:
        free = _free(path)
        size = f"{readable_size(needed)} or more are needed, " if needed else ""
        text = (
            f"{path}: there is no space left on the disk ({size}{readable_size(free)} are free). "
            f"{_KEPT} there is space."
        )
    else:
        text = f"{path}: cannot be written ({os.strerror(number)}). {_KEPT} it can be written."
    failed = WriteError(text)
    failed.errno = number
    return failed


def _free(path: Path) -> int:
    """Return the free bytes of the disk on which a path is, or will be."""
    for folder in (path, *path.absolute().parents):
        if folder.exists():
            return shutil.disk_usage(folder).free
    return 0
