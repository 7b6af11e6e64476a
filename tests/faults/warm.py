"""A process that has imported rarec, and forks a child for each command that it is asked to run.

It is started as a script by the Python of the installation that is driven, with `shim.c` preloaded,
and imports nothing of this folder. It reads one JSON request in a line from standard input, and
answers in a line on standard output; see `serve`.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver, util
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
_own_get_context = multiprocessing.get_context
#: Seconds that processes of a command may live on after it.
_GRACE = 3.0


def serve(llm: str) -> None:
    """Answer each request until standard input ends.

    A request is `{"commands": [...], "timeout": seconds}`. Each command has `arguments` of `rarec`,
    a working directory `folder`, a file `output`, variables `environment`, and `has_children`. The
    first command begins at once. The second begins when the shim has stopped the first, which goes
    on when the second has ended or `pause` seconds have passed.

    The answer is a list with `status` (exit status, or the negative number of a signal; null after
    the timeout) and `seconds` of each command.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # children of a killed command become children of this process, which waits for them
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # before rarec is imported, which may ask for a context then
    multiprocessing.get_context = _forkserver_for_spawn  # type: ignore[assignment]
    _import_all(llm)
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(json.dumps(_run(**request)) + "\n")
        answers.flush()


def _forkserver_for_spawn(method: str | None = None) -> Any:
    """Return the context of `multiprocessing` whose new processes are forked, not started."""
    return _own_get_context("forkserver" if method == "spawn" else method)


def _import_all(llm: str) -> None:
    import importlib

    import torch
    import transformers

    torch.set_num_threads(1)
    for name in (
        "accelerate",
        "transformers.trainer",
        "rarec.cli",
        "rarec.recommender",
        "rarec.study",
        "rarec.compare",
        "rarec.pipeline.fit_ids",
        "rarec.cli.commands",
    ):
        # not every version has each of them
        with suppress(ImportError):
            importlib.import_module(name)
    # what transformers imports when it is first used
    transformers.AutoModel.from_pretrained(llm)
    transformers.AutoTokenizer.from_pretrained(llm)


def _run(
    commands: Sequence[Mapping[str, Any]], timeout: float, pause: float = 0.0
) -> list[dict[str, Any]]:
    begun = time.monotonic()
    found: dict[int, dict[str, Any]] = {}
    first = _begin(commands[0])
    started = {first: begun}
    waiting = list(commands[1:])
    stopped_at = None
    while len(found) < len(started) or waiting:
        process, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        now = time.monotonic()
        if process == first and os.WIFSTOPPED(status):
            stopped_at = now
            for command in waiting:
                started[_begin(command)] = now
            waiting = []
        elif process in started:
            code = os.waitstatus_to_exitcode(status)
            found[process] = {"status": code, "seconds": now - started[process]}
            if process == first:
                # it was never stopped
                waiting = []
        if now - begun > timeout:
            for missing in started.keys() - found.keys():
                found[missing] = {"status": None, "seconds": now - started[missing]}
            break
        if stopped_at is not None and (len(found) == len(started) - 1 or now - stopped_at > pause):
            os.killpg(first, signal.SIGCONT)
            stopped_at = None
        if not process:
            time.sleep(0.002)
    _end_all(started, 0.0 if None in [one["status"] for one in found.values()] else _GRACE)
    return [found[process] for process in started]


def _end_all(groups: Mapping[int, float], grace: float) -> None:
    """Wait for all processes that the commands have left; kill them after a while."""
    until = time.monotonic() + grace
    while True:
        try:
            process, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if time.monotonic() > until:
            for group in groups:
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
        if not process:
            time.sleep(0.002)


def _begin(command: Mapping[str, Any]) -> int:
    """Return the process of a command that has begun; it leads a process group of its own."""
    process = os.fork()
    if process:
        # both do it, so that it is done for whoever goes on first
        with suppress(PermissionError, ProcessLookupError):
            os.setpgid(process, process)
        return process
    code = 1
    try:
        code = _be_the_command(command)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _be_the_command(command: Mapping[str, Any]) -> int:
    os.setpgid(0, 0)
    output = os.open(command["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    empty = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, empty), (1, output), (2, output)):
        os.dup2(source, target)
    os.closerange(3, 1024)
    os.chdir(command["folder"])
    os.environ.update(command["environment"])
    if command["has_children"]:
        _fork_children_from_here()
    ctypes.CDLL(None).faults_arm()
    sys.argv = ["rarec", *command["arguments"]]
    from rarec.cli import main

    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, int) or end.code is None:
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


def _fork_children_from_here() -> None:
    """Let `multiprocessing` fork new processes from this state, in place of starting Python anew.

    Its fork server is a copy of this process, made while that has no threads.
    """
    # the main module of a command has nothing that its children need
    vars(sys.modules["__main__"]).pop("__file__", None)
    start = util.spawnv_passfds

    def fork(path: Any, arguments: Sequence[Any], files: Sequence[int]) -> int:
        if not any("forkserver" in str(argument) for argument in arguments):
            return start(path, arguments, files)
        process = os.fork()
        if process:
            return process
        # the server ends when a pipe is closed, of which it must hold no copy
        for number in set(range(3, 1024)).difference(files):
            with suppress(OSError):
                os.close(number)
        # it lives as long as the command, and its children take signals as new processes do
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.register_at_fork(
            after_in_child=lambda: [signal.signal(*item) for item in handlers.items()]
        )
        ctypes.CDLL(None).faults_arm()
        try:
            exec(arguments[-1], {})
        finally:
            # whatever happens, it is not to go on as a copy of the command
            os._exit(0)

    util.spawnv_passfds = fork
    forkserver.ensure_running()
    util.spawnv_passfds = start


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))
    serve(sys.argv[1])
