"""Runs functions in separate processes, which free their memory and end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import connection as connections
from multiprocessing import reduction
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from rarec.progress import quiet_libraries
from rarec.stopping import Stopped, held_back, stop_on_signals

_PROCESSES = multiprocessing.get_context("spawn")
# what a process that has been asked to stop is given before it is killed
_SECONDS_TO_STOP = 5.0
# signals of a terminal go to all processes in it; the parent decides what its children do
_OF_TERMINAL = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)
)


class ProcessEndedError(ChildProcessError):
    """A process that ended without a result, for example because it was killed."""


def in_process(function: Callable[..., Any], *arguments: Any, n_threads: int | None = None) -> Any:
    """Return the result of a function that runs in a new process.

    A script that calls this needs the usual `if __name__ == "__main__":`. When this process is
    stopped, the new one is stopped first.

    Args:
        function: The function. It must be defined at the top level of a module, and its arguments
            and result must be picklable.
        arguments: Arguments of the function.
        n_threads: Largest number of threads of torch and of the Rust extension in the new process;
            None leaves the defaults.

    Raises:
        ProcessEndedError: If the process is killed.
        Exception: If the function raises an exception; it is raised here again. One that cannot be
            pickled becomes a `RuntimeError` that says the same.
    """
    tasks = {function.__qualname__: (function, *arguments)}
    with closing(_run(tasks, jobs=1, n_threads=n_threads)) as ended:
        return next(ended).result()


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
    with closing(_run(tasks, jobs=jobs, n_threads=n_threads)) as all_ended:
        for number, ended in enumerate(all_ended, start=1):
            where = f"  {number} of {len(tasks)}: {ended.name}"
            try:
                result = ended.result()
            # of any kind: hours of other tasks may be left
            except Exception as error:
                failed.append(f"{ended.name}: {_in_one_line(error)}")
                say(f"{where} failed: {_in_one_line(error)}")
            else:
                say(f"{where}{f': {result}' if result else ''}")
    return failed


@dataclass(frozen=True)
class _Ended:
    """A task that has ended, with its result or the exception that it raised."""

    name: str
    value: Any = None
    error: BaseException | None = None

    def result(self) -> Any:
        """Return the result, or raise the exception."""
        if self.error is not None:
            raise self.error
        return self.value


def _run(
    tasks: Mapping[str, Sequence[Any]], *, jobs: int, n_threads: int | None
) -> Generator[_Ended, None, None]:
    """Yield each task when its process has ended; when closed, stop those that are running."""
    waiting = list(tasks.items())[::-1]
    running: dict[Connection, tuple[str, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name, task = waiting.pop()
                with held_back():
                    connection, process = _start(n_threads)
                    running[connection] = name, process
                _send(connection, task)
            for connection in connections.wait(list(running)):
                assert isinstance(connection, Connection)
                name, process = running[connection]
                ended = _ended(name, process, connection)
                with held_back():
                    del running[connection]
                    connection.close()
                yield ended
    finally:
        _stop([process for _, process in running.values()])


def _start(n_threads: int | None) -> tuple[Connection, BaseProcess]:
    """Return a new process that waits for a task, and the connection to it."""
    # imported here: multiprocessing has none on Windows
    if os.name != "nt":
        from multiprocessing import resource_tracker

        # it would start with the process, and unblock signals
        resource_tracker.ensure_running()
    ours, theirs = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=_serve, args=(theirs, n_threads))
    with _blocked_signals():
        process.start()
    # the end of the process is seen when nobody else holds its end of the pipe
    theirs.close()
    return ours, process


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block signals in this thread, so that a process that is started here begins with that."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_OF_TERMINAL, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send(connection: Connection, task: Sequence[Any]) -> None:
    try:
        connection.send(tuple(task))
    except ConnectionError:
        # the process has ended, which is seen when its result is read
        return


def _ended(name: str, process: BaseProcess, connection: Connection) -> _Ended:
    """Return what a process has sent, or how it ended without that."""
    try:
        value, error, trace = connection.recv()
    except (EOFError, ConnectionResetError):
        process.join(_SECONDS_TO_STOP)
        return _Ended(name, error=ProcessEndedError(_how_it_ended(process.exitcode)))
    except Exception as unreadable:
        value, error, trace = None, unreadable, ""
    _stop([process], is_asked=False)
    if error is not None and trace:
        error.add_note(f"In the process:\n{trace}")
    return _Ended(name, value, error)


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "the process closed its connection without a result"
    # a process that a signal has stopped ends itself, with 128 more
    number = -code if code < 0 else code - 128
    if number == getattr(signal, "SIGKILL", None):
        return f"the process was killed (signal {number}), perhaps because the memory was full"
    if number > 0:
        return f"the process was killed (signal {number})"
    return f"the process ended with exit code {code} and without a result"


def _stop(processes: Iterable[BaseProcess], *, is_asked: bool = True) -> None:
    """Wait until processes have ended; kill those that take too long.

    Args:
        processes: The processes.
        is_asked: Ask them to stop first.
    """
    try:
        if is_asked:
            for process in processes:
                process.terminate()
        end = time.monotonic() + _SECONDS_TO_STOP
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
    finally:
        # also when a second signal ends the waiting
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()


def _in_one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _serve(connection: Connection, n_threads: int | None) -> None:
    """Run the task that comes through a connection, and send back what came of it."""
    for number in _OF_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    with stop_on_signals([signal.SIGTERM]) as watch:
        try:
            if hasattr(signal, "pthread_sigmask"):
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_OF_TERMINAL, signal.SIGTERM})
            threading.Thread(target=_exit_with_parent, daemon=True).start()
            outcome = _outcome(connection, n_threads)
            if watch.number is None:
                _reply(connection, outcome)
        except Stopped:
            # the state is saved, and the parent waits for the end
            pass
        finally:
            watch.end_at_once()
    if watch.number is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(watch.exit_code)


def _outcome(
    connection: Connection, n_threads: int | None
) -> tuple[Any, BaseException | None, str]:
    """Return the result of a task; or the exception, and the text of its traceback."""
    try:
        # it may import torch
        function, *arguments = connection.recv()
        _set_up(n_threads)
        return function(*arguments), None, ""
    except BaseException as error:
        return None, _portable(error), traceback.format_exc()


def _reply(connection: Connection, outcome: tuple[Any, BaseException | None, str]) -> None:
    try:
        connection.send(outcome)
    except OSError:
        # the parent is gone
        return
    except Exception as error:
        lost = RuntimeError(f"expected a result that can be pickled ({error})")
        connection.send((None, lost, traceback.format_exc()))


def _portable(error: BaseException) -> BaseException:
    """Return an exception as it is if it survives pickling, else one that says the same."""
    try:
        sent = reduction.ForkingPickler.dumps(error)
        copy = reduction.ForkingPickler.loads(sent)  # pyright: ignore[reportAttributeAccessIssue]
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    except Exception:
        # of any kind, from the exception's own code
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


def _set_up(n_threads: int | None) -> None:
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
