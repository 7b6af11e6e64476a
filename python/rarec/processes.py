"""Work in a process of its own: its memory ends with it, and it ends with who began it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from rarec.progress import quiet_libraries


def in_process(function: Callable[..., Any], *arguments: Any, n_threads: int | None = None) -> Any:
    """Return what a function returns in a new process.

    Scripts that come here need the usual `if __name__ == "__main__":`.

    Args:
        function: Found there by its name, as what it takes and returns must be.
        arguments: For it.
        n_threads: Threads of torch and the Rust extension there, at most; None leaves them alone.

    Raises:
        BrokenProcessPool: If the process is killed.
        Exception: What the function raises.
    """
    with ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(n_threads,),
    ) as process:
        return process.submit(function, *arguments).result()


def _begin(n_threads: int | None) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet_libraries()
    if n_threads is not None:
        # imported here: it takes seconds
        import torch

        # never more than OMP_NUM_THREADS, where somebody has set it
        n_threads = min(n_threads, torch.get_num_threads())
        torch.set_num_threads(n_threads)
        os.environ["RAREC_NUM_THREADS"] = str(n_threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    # nothing half written stays: files appear whole
    os._exit(1)
