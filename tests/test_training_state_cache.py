"""The folder of states: whole files, a limit, and several processes."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from rarec.training import StateCache
from rarec.training.state_cache import LIMIT

A, B, C, D = (letter * 32 for letter in "abcd")


def content(byte: int, n_bytes: int = 100):
    """Return a function that gives the parts of a file, the last part first."""
    half = n_bytes // 2
    data = np.full(n_bytes, byte, np.uint8)
    return lambda: [(half, data[half:]), (0, data[:half])]


def fail():
    raise AssertionError("computed again")


def ask(cache: StateCache, name: str, byte: int = 1, n_bytes: int = 100) -> bytes:
    with cache.open(name, n_bytes, content(byte, n_bytes)) as file:
        return file.read()


def names(cache: StateCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()}


def age(cache: StateCache, name: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(cache.folder / name, (then, then))


def test_a_file_is_computed_once(tmp_path):
    cache = StateCache(tmp_path / "states")
    assert ask(cache, A, byte=7) == bytes([7]) * 100
    with StateCache(tmp_path / "states").open(A, 100, fail) as file:
        assert file.read() == bytes([7]) * 100
    assert names(cache) == {A}


def test_its_place_is_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RAREC_CACHE", str(tmp_path))
    assert StateCache().folder == tmp_path / "states"
    assert StateCache().limit == LIMIT == 8 * 2**30


def test_the_least_recently_used_files_are_removed(tmp_path):
    cache = StateCache(tmp_path, limit=300)
    for place, name in enumerate((A, B, C)):
        ask(cache, name)
        age(cache, name, 100 - place)
    # a file that is read again is used
    ask(cache, A)
    ask(cache, D)
    assert names(cache) == {A, C, D}
    ask(cache, B, n_bytes=200)
    assert names(cache) == {B, D}


def test_the_file_that_is_asked_for_stays_however_large(tmp_path):
    cache = StateCache(tmp_path, limit=300)
    ask(cache, A)
    assert len(ask(cache, B, n_bytes=1000)) == 1000
    assert names(cache) == {B}
    with cache.open(B, 1000, fail) as file:
        assert len(file.read()) == 1000


def test_files_of_others_stay(tmp_path):
    cache = StateCache(tmp_path, limit=100)
    (tmp_path / "notes.txt").write_bytes(b"x" * 1000)
    (tmp_path / ("e" * 31)).write_bytes(b"x" * 1000)
    ask(cache, A)
    age(cache, A, 10)
    ask(cache, B)
    assert names(cache) == {"notes.txt", "e" * 31, B}


def test_nothing_half_written_stays(tmp_path):
    cache = StateCache(tmp_path)

    def broken():
        yield 0, np.zeros(10, np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.open(A, 100, broken)
    assert not names(cache)
    with pytest.raises(ValueError, match="expected 100 bytes of states, got 10"):
        cache.open(A, 100, content(1, 10))
    assert not names(cache)


def test_a_file_of_another_size_is_made_again(tmp_path):
    cache = StateCache(tmp_path)
    ask(cache, A, byte=1)
    (tmp_path / A).write_bytes(b"short")
    assert ask(cache, A, byte=2) == bytes([2]) * 100


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path):
    cache = StateCache(tmp_path)
    old, new = f".{A}.{B}", f".{A}.{C}"
    for name in (old, new):
        (tmp_path / name).write_bytes(b"half")
    age(cache, old, 25 * 3600)
    ask(cache, D)
    # another process may be writing the newer one
    assert names(cache) == {new, D}


@pytest.mark.skipif(os.name == "nt", reason="Windows does not remove open files")
def test_an_open_file_that_is_removed_stays_readable(tmp_path):
    cache = StateCache(tmp_path, limit=100)
    with cache.open(A, 100, content(7)) as file:
        age(cache, A, 10)
        ask(cache, B)
        assert names(cache) == {B}
        assert file.read() == bytes([7]) * 100
    # and one that vanished is made again
    assert ask(cache, A, byte=7) == bytes([7]) * 100


def test_a_file_that_vanishes_before_it_is_opened_is_made_again(tmp_path):
    cache = StateCache(tmp_path)
    n_made = 0

    class Hasty(StateCache):
        def _write(self, path, n_bytes, parts):
            nonlocal n_made
            super()._write(path, n_bytes, parts)
            n_made += 1
            if n_made == 1:
                path.unlink()

    assert ask(Hasty(cache.folder), A, byte=3) == bytes([3]) * 100
    assert n_made == 2


def test_a_name_that_is_no_hash_is_refused(tmp_path):
    for name in ("../" + A, A.upper(), "a", A + "\n"):
        with pytest.raises(ValueError, match="expected a name of 32 hexadecimal digits, got"):
            StateCache(tmp_path / "states").open(name, 100, fail)


SCRIPT = """
import sys
import numpy as np
from rarec.training import StateCache

cache = StateCache(sys.argv[1], limit=250)
for turn in range(200):
    byte = turn % 5
    data = np.full(100, byte, np.uint8)
    with cache.open(str(byte) * 32, 100, lambda: [(0, data)]) as file:
        assert file.read() == data.tobytes()
"""


def test_two_processes_use_one_folder(tmp_path):
    running = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    cache = StateCache(tmp_path)
    assert all(len(name) == 32 for name in names(cache))
