"""Names under which something is written, what a killed process left, and how a folder is replaced.

A temporary name holds the host and the process that writes, so that what a killed process left is
recognised and removed by the next writer.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import socket
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

_TEMPORARY = ".rarec-tmp"
# a folder with the one that was moved aside while another took its place
_REPLACED = ".rarec-old"
_EXCHANGE = 2
_AT_FDCWD = -100


def is_temporary(path: Path) -> bool:
    """Return whether a name is one of those under which files and folders are written."""
    return path.name.startswith((f"{_TEMPORARY}.", f"{_REPLACED}."))


def beside(target: Path) -> Path:
    """Return a new temporary path in the folder of the target, which is made when it is absent."""
    target.parent.mkdir(parents=True, exist_ok=True)
    tidy(target.parent)
    # a long name of the target would not fit
    return target.parent / f"{_TEMPORARY}.{_owner()}.{secrets.token_hex(4)}.{target.name[:40]}"


def tidy(folder: Path) -> None:
    """Remove what processes of this host that are gone have left in a folder.

    A folder that such a process had moved aside, and whose place is empty, is moved back.

    Args:
        folder: The folder; nothing happens if it is absent.
    """
    try:
        left = [path for path in folder.iterdir() if is_temporary(path) and _is_abandoned(path)]
    except OSError:
        return
    for path in left:
        # another process may tidy up at the same time, and a folder may be read-only
        with suppress(OSError):
            if path.name.startswith(_REPLACED):
                _move_back(path)
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder with all in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def replace_folder(temporary: Path, target: Path) -> None:
    """Give a folder the place of another one, which is removed.

    Where the system can exchange two folders in one step, there is no moment without one.
    Elsewhere (some network file systems) the old one is moved aside first, and `tidy` moves it back
    if the process is killed before the new one is in its place.

    Args:
        temporary: The new folder, beside the target.
        target: The place. It may be absent, or a folder.
    """
    if not target.exists() or not any(target.iterdir()):
        # an empty folder is replaced by the rename
        if os.name == "nt" and target.exists():
            target.rmdir()
        temporary.rename(target)
        return
    if _exchange(temporary, target):
        remove(temporary)
        return
    aside = target.parent / f"{_REPLACED}.{_owner()}.{secrets.token_hex(4)}"
    aside.mkdir()
    try:
        target.rename(aside / target.name)
        temporary.rename(target)
    except BaseException:
        _move_back(aside)
        raise
    finally:
        remove(aside)


def _move_back(aside: Path) -> None:
    """Move a folder back into its place, if nothing has taken it."""
    for old in aside.iterdir():
        target = aside.parent / old.name
        if not target.exists():
            old.rename(target)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; return False where the system cannot."""
    names = os.fsencode(one), os.fsencode(other)
    library = _c_library()
    if library is None:
        return False
    if sys.platform == "darwin":
        failed = library.renamex_np(*names, _EXCHANGE)
    else:
        failed = library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE)
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), str(other))


@cache
def _c_library() -> ctypes.CDLL | None:
    """Return the C library if it can exchange two paths; Linux and macOS have that."""
    if os.name != "posix":
        return None
    library = ctypes.CDLL(None, use_errno=True)
    name = "renamex_np" if sys.platform == "darwin" else "renameat2"
    return library if hasattr(library, name) else None


def _owner() -> str:
    return f"{_host()}.{os.getpid()}"


@cache
def _host() -> str:
    """Return the name of the host, and of the process numbers that are valid on it.

    Two containers may have the same name, and each has a process 7.
    """
    try:
        numbers = f"-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        numbers = ""
    return f"{socket.gethostname()}{numbers}"


def _is_abandoned(path: Path) -> bool:
    for kind in (_TEMPORARY, _REPLACED):
        rest = path.name.removeprefix(f"{kind}.{_host()}.")
        process = rest.split(".")[0]
        if rest != path.name and process.isdecimal():
            return not is_running(int(process))
    return False


def is_running(process: int) -> bool:
    """Return whether this host has a process of this number."""
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
