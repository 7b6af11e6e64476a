"""The threads of the compiled part."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from rarec import _rust


def nothing_seen(n_rows: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    return np.zeros(n_rows + 1, np.int64), np.empty(0, np.int32)


def test_the_number_of_threads_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (*nothing_seen(1), np.zeros(1, np.int32), 2, 9)
    for threads in (-1, 0, 1025):
        with pytest.raises(ValueError, match="threads from 1 to 1024"):
            _rust.sample_negatives(*arguments, threads=threads)
    for text in ("0", "two", ""):
        monkeypatch.setenv("RAREC_NUM_THREADS", text)
        with pytest.raises(ValueError, match="RAREC_NUM_THREADS from 1 to 1024"):
            _rust.sample_negatives(*arguments)
        # an argument goes before the variable
        _rust.sample_negatives(*arguments, threads=1)


def _draw() -> list[list[int]]:
    users = np.zeros(100, np.int32)
    return _rust.sample_negatives(*nothing_seen(1), users, 2, 9, threads=2).tolist()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_gets_threads_of_its_own() -> None:
    expected = _draw()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_draw).get(timeout=20) == expected


# each of them would take more than 20 seconds
LONG_CALLS = {
    "top_k": """
items = np.ones((200_000, 256), np.float32)
queries = np.ones((100_000, 1, 256), np.float32)
search = _rust.Catalogue(items).top_k
nothing_seen = np.zeros(100_001, np.int64), np.empty(0, np.int32)
call = lambda: search(queries, nothing_seen, 10)
""",
    "title_words": """
titles = [" ".join(f"word{number}" for number in range(20_000))] * 80_000
call = lambda: _rust.title_words(titles, [])
""",
    "overlaps": """
words = np.arange(2_001, dtype=np.int64) * 1_000, np.tile(np.arange(1_000, dtype=np.int32), 2_000)
items, targets = np.arange(2_000_000, dtype=np.int32) % 2_000, np.zeros(20_000, np.int32)
starts = np.arange(20_000, dtype=np.int64)
call = lambda: _rust.overlaps(*words, items, starts, starts + 1_980_000, targets)
""",
}
LONG_CALL = """
import numpy as np
from rarec import _rust
{job}
print("ready", flush=True)
try:
    call()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process here")
@pytest.mark.parametrize("job", LONG_CALLS)
def test_ctrl_c_ends_a_long_call(job: str) -> None:
    code = LONG_CALL.format(job=LONG_CALLS[job])
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        output, _ = process.communicate(timeout=60)
    assert output == "interrupted\n"
    # not after the call's own end
    assert time.monotonic() - begin < 20


def test_other_threads_of_python_run_during_a_call() -> None:
    items, queries = np.ones((100_000, 64), np.float32), np.ones((2000, 1, 64), np.float32)
    search = _rust.Catalogue(items).top_k
    call = threading.Thread(target=search, args=(queries, nothing_seen(2000), 10))
    call.start()
    ticks = 0
    while call.is_alive():
        time.sleep(0.001)
        ticks += 1
    assert ticks > 10
