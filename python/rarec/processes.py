"""Runs a function in a separate process, which frees its memory and ends with its parent."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from rarec.progress import quiet_libraries


def in_process(function: Callable[..., Any], *arguments: Any, n_threads: int | None = None) -> Any:
    """Return the result of a function that runs in a new process.

    A script that calls this needs the usual `if __name__ == "__main__":`.

    Args:
        function: The function. It must be defined at the top level of a module, and its arguments
            and result must be picklable.
        arguments: Arguments of the function.
        n_threads: Largest number of threads of torch and of the Rust extension in the new process;
            None leaves the defaults.

    Raises:
        BrokenProcessPool: If the process is killed.
        Exception: If the function raises an exception; it is raised here again.
    """
    with ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_initialise,
        initargs=(n_threads,),
    ) as process:
        return process.submit(function, *arguments).result()


def _initialise(n_threads: int | None) -> None:
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    quiet_libraries()
    if n_threads is not None:
        # imported here because the import takes seconds
        import torch

        # not more than OMP_NUM_THREADS, which torch has read if it is set
        n_threads = min(n_threads, torch.get_num_threads())
        torch.set_num_threads(n_threads)
        os.environ["RAREC_NUM_THREADS"] = str(n_threads)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    # no incomplete file is left, because artifacts are renamed into place when complete
    os._exit(1)
