"""Locks: one process makes an artifact, a second one is told who that is, or waits.

The system removes the lock of a process that ends, however it ends. Nobody needs a lock to read.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from rarec.artifacts.failures import writing_to

_FOREVER = -1


class LockedError(ValueError):
    """Another process makes the same artifact. The message says which one, and since when."""


@contextmanager
def lock(
    path: str | os.PathLike[str],
    what: str,
    *,
    wait: bool = False,
    say: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        path: The lock file. It stays when the lock is released.
        what: What is being made, for messages.
        wait: Wait until another process has released it.
        say: Function that is given the message that this process waits.

    Raises:
        LockedError: If another process holds it, and this one does not wait.
        WriteError: If the lock file cannot be written.
    """
    # through a link that leads to a folder which is not there yet
    file = Path(path).resolve()
    owner = file.with_name(f"{file.name}.owner")
    held = FileLock(file)
    with writing_to(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=0)
        except Timeout:
            message = f"{what} is being made by {_described(owner)}"
            if not wait:
                raise LockedError(f"{message}; --wait (wait=True) waits for it") from None
            if say is not None:
                say(f"{message}. This process waits for it.")
            held.acquire(timeout=_FOREVER)
    try:
        # for the message of a second process; without it the lock is as good
        with suppress(OSError):
            owner.write_text(json.dumps(_this_process()), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            owner.unlink(missing_ok=True)
        held.release()


def _this_process() -> dict[str, str | int]:
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    }


def _described(owner: Path) -> str:
    try:
        found = json.loads(owner.read_text(encoding="utf-8"))
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        # it was written a moment before or after
        return "another process"
