"""Runs functions in separate processes, which free their memory and end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
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


def run_tasks(
    tasks: Mapping[str, Sequence[Any]], *, jobs: int, say: Callable[[str], None]
) -> list[str]:
    """Return one line for each task that failed; each task runs in a new process.

    A task that fails, or whose process is killed, does not end the others.

    Args:
        tasks: Function and arguments of each task by its name, see `in_process`. A function may
            return a text about what it did, or None.
        jobs: Number of processes at once, at least 1. The processors are shared among them.
        say: Function that is given a line for each task that ends.
    """
    n_threads = max(1, (os.cpu_count() or 1) // jobs)
    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        begun = {
            pool.submit(in_process, *task, n_threads=n_threads): name
            for name, task in tasks.items()
        }
        try:
            for number, task in enumerate(as_completed(begun), start=1):
                where = f"  {number} of {len(begun)}: {begun[task]}"
                try:
                    result = task.result()
                # of any kind: hours of other tasks may be left
                except Exception as error:
                    failed.append(f"{begun[task]}: {_in_one_line(error)}")
                    say(f"{where} failed: {_in_one_line(error)}")
                else:
                    say(f"{where}{f': {result}' if result else ''}")
        finally:
            for task in begun:
                task.cancel()
    return failed


def _in_one_line(error: Exception) -> str:
    if isinstance(error, BrokenProcessPool):
        return "the process was killed, perhaps because the memory was full"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


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
