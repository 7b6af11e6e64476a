"""Work in processes of their own."""

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

BEGINS = """
import sys, time
from rarec.processes import in_process
from test_processes import note_and_wait

if __name__ == "__main__":
    in_process(note_and_wait, sys.argv[1])
"""


def facts(number: int) -> tuple[int, int, int, str | None]:
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
    # who has ended, and has not been asked for
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited a minute"
        time.sleep(0.1)


def test_what_is_returned_and_raised_comes_back(monkeypatch):
    monkeypatch.delenv("RAREC_NUM_THREADS", raising=False)
    number, process, threads, told = in_process(facts, 3, n_threads=1)
    assert (number, threads, told) == (3, 1, "1")
    assert process != os.getpid()
    assert in_process(facts, 4)[3] is None
    with pytest.raises(ValueError, match="not that"):
        in_process(refuse, "that")


def test_a_killed_process_is_an_error():
    with pytest.raises(BrokenProcessPool):
        in_process(die)


def test_a_process_ends_with_who_began_it(tmp_path):
    script, noted = tmp_path / "begins.py", tmp_path / "process"
    script.write_text(BEGINS)
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    began = subprocess.Popen(
        [sys.executable, str(script), str(noted)], env={**os.environ, "PYTHONPATH": paths}
    )
    try:
        wait_for(noted.exists)
        process = int(noted.read_text())
        assert is_alive(process)
    finally:
        began.kill()
        began.wait()
    wait_for(lambda: not is_alive(process))
