"""Functions that run in separate processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rarec.processes import ProcessEndedError, in_process, run_tasks
from rarec.stopping import SavingLoop

SCRIPT = """
import signal, sys
from rarec.processes import in_process, run_tasks
from rarec.stopping import stop_on_signals
import test_processes

if __name__ == "__main__":
    # a test may run where Ctrl-C is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    function, *files = sys.argv[1:]
    tasks = {file: (getattr(test_processes, function), file) for file in files}
    with stop_on_signals():
        try:
            run_tasks(tasks, jobs=2, say=print)
        except KeyboardInterrupt as stop:
            print("stopped by", stop.number)
"""


def describe_process(number: int) -> tuple[int, int, int, str | None]:
    import torch

    return number, os.getpid(), torch.get_num_threads(), os.environ.get("RAREC_NUM_THREADS")


def refuse(what: str) -> None:
    raise ValueError(f"not {what}")


def die(number: int = 9) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave(code: int) -> None:
    os._exit(code)


def squares(n: int) -> np.ndarray:
    return np.arange(n) ** 2


class TwoPartsError(ValueError):
    """Cannot be made again from its text alone, which is what pickling does."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def refuse_in_two_parts() -> None:
    raise TwoPartsError("this", "that")


def make_function():
    return lambda: None


def save_and_wait(file: str) -> None:
    """Stand for a training: steps of 0.1 seconds, whose number is saved when it is stopped."""
    with SavingLoop(save_seconds=0.0) as stopping:
        for step in range(600):
            time.sleep(0.1)
            stopping.end_step()
            if step == 2:
                Path(f"{file}.new").write_text(str(os.getpid()))
                Path(f"{file}.new").rename(file)
            if stopping.is_asked_to_stop:
                with stopping.saving():
                    Path(f"{file}.state").write_text(str(step))


def ignore_and_wait(file: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note_and_wait(file)


def note_and_wait(file: str) -> None:
    Path(f"{file}.new").write_text(str(os.getpid()))
    Path(f"{file}.new").rename(file)
    time.sleep(120)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # a process in state Z has ended, but its parent has not read its exit status
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited a minute"
        time.sleep(0.1)


def test_results_and_exceptions_come_back(monkeypatch):
    monkeypatch.delenv("RAREC_NUM_THREADS", raising=False)
    number, process, threads, variable = in_process(describe_process, 3, n_threads=1)
    assert (number, threads, variable) == (3, 1, "1")
    assert process != os.getpid()
    assert in_process(describe_process, 4)[3] is None
    with pytest.raises(ValueError, match="not that") as raised:
        in_process(refuse, "that")
    # where it was raised
    assert "in refuse" in raised.value.__notes__[0]


def test_results_may_be_large_and_exceptions_of_any_kind():
    np.testing.assert_array_equal(in_process(squares, 2_000_000), np.arange(2_000_000) ** 2)
    with pytest.raises(RuntimeError, match="TwoPartsError: this and that"):
        in_process(refuse_in_two_parts)
    with pytest.raises(RuntimeError, match="result that can be pickled"):
        in_process(make_function)


@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [
        (die, 9, r"the process was killed \(signal 9\), perhaps because the memory was full"),
        (die, 11, r"the process was killed \(signal 11\)$"),
        (die, 15, r"the process was killed \(signal 15\)$"),
        (leave, 3, "the process ended with exit code 3 and without a result"),
    ],
)
def test_a_process_that_is_killed_is_named(function, argument, message, capfd):
    # the command line shows an OSError as one line
    with pytest.raises(OSError, match=message) as raised:
        in_process(function, argument)
    assert isinstance(raised.value, ProcessEndedError)
    assert capfd.readouterr().err == ""


def test_a_task_that_is_killed_does_not_end_the_others():
    said: list[str] = []
    tasks = {"killed": (die,), "refused": (refuse, "it"), "other": (abs, -3)}
    failed = run_tasks(tasks, jobs=2, say=said.append)
    killed = "the process was killed (signal 9), perhaps because the memory was full"
    assert sorted(failed) == [f"killed: {killed}", "refused: not it"]
    assert sorted(line.partition(": ")[2] for line in said) == [
        f"killed failed: {killed}",
        "other: 3",
        "refused failed: not it",
    ]
    assert [line.split(":")[0] for line in said] == ["  1 of 3", "  2 of 3", "  3 of 3"]


def begin(tmp_path, function: str, *files: Path) -> subprocess.Popen:
    """Return a process, leader of its own group, that runs a task for each file."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, str(script), function, *map(str, files)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_process_ends_with_its_parent(tmp_path):
    noted = tmp_path / "process"
    parent = begin(tmp_path, "note_and_wait", noted)
    try:
        wait_for(noted.exists)
        process = int(noted.read_text())
        assert is_alive(process)
    finally:
        parent.kill()
        parent.communicate()
    wait_for(lambda: not is_alive(process))


@pytest.mark.skipif(sys.platform == "win32", reason="no signals for a group of processes here")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_group", [False, True])
def test_children_are_stopped_with_their_parent(tmp_path, number, is_group):
    files = [tmp_path / "one", tmp_path / "two", tmp_path / "never"]
    parent = begin(tmp_path, "save_and_wait", *files)
    try:
        wait_for(lambda: all(file.exists() for file in files[:2]))
        # Ctrl-C in a terminal reaches all processes
        (os.killpg if is_group else os.kill)(parent.pid, number)
        out, err = parent.communicate(timeout=20)
    finally:
        parent.kill()
    assert (out, err) == (f"stopped by {number.value}\n", "")
    for file in files[:2]:
        assert int((tmp_path / f"{file.name}.state").read_text()) >= 2
        assert not is_alive(int(file.read_text()))
    assert not files[2].exists()


def test_a_child_that_does_not_stop_is_killed(tmp_path):
    noted = tmp_path / "process"
    parent = begin(tmp_path, "ignore_and_wait", noted)
    try:
        wait_for(noted.exists)
        parent.send_signal(signal.SIGTERM)
        out, err = parent.communicate(timeout=20)
    finally:
        parent.kill()
    assert (out, err) == (f"stopped by {signal.SIGTERM.value}\n", "")
    assert not is_alive(int(noted.read_text()))


@pytest.mark.skipif(sys.platform == "win32", reason="no signals for a group of processes here")
@pytest.mark.parametrize("delay", [0.3, 0.6, 0.9, 1.2])
def test_a_stop_while_processes_start_is_quiet(tmp_path, delay):
    parent = begin(tmp_path, "note_and_wait", tmp_path / "one", tmp_path / "two")
    try:
        time.sleep(delay)
        os.killpg(parent.pid, signal.SIGTERM)
        out, err = parent.communicate(timeout=20)
    finally:
        parent.kill()
    # before the script has begun, the system ends it
    assert out in ("", f"stopped by {signal.SIGTERM.value}\n")
    assert err == ""
