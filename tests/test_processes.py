"""Functions that run in separate processes."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from rarec.processes import in_process

SCRIPT = """
import sys, time
from rarec.processes import in_process
from test_processes import note_and_wait

if __name__ == "__main__":
    in_process(note_and_wait, sys.argv[1])
"""


def describe_process(number: int) -> tuple[int, int, int, str | None]:
    return number, os.getpid(), torch.get_num_threads(), os.environ.get("RAREC_NUM_THREADS")


def refuse(what: str) -> None:
    raise ValueError(f"not {what}")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


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
    with pytest.raises(ValueError, match="not that"):
        in_process(refuse, "that")


def test_a_killed_process_is_an_error():
    with pytest.raises(BrokenProcessPool):
        in_process(die)


def test_a_process_ends_with_its_parent(tmp_path):
    script, noted = tmp_path / "script.py", tmp_path / "process"
    script.write_text(SCRIPT)
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    parent = subprocess.Popen(
        [sys.executable, str(script), str(noted)], env={**os.environ, "PYTHONPATH": paths}
    )
    try:
        wait_for(noted.exists)
        process = int(noted.read_text())
        assert is_alive(process)
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not is_alive(process))
