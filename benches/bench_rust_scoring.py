"""Exact best items and exact ranks on a CPU, against what else a user would take.

480 queries with 40 items to leave out each, Gaussian vectors, one thread. The peer of the best
items is faiss with its BLAS path switched on for any number of queries (by default it waits for far
more), asked for as many more places as are left out; what is left out is then sorted to the end.
The peers of the ranks are a product of torch counted by numpy in blocks that fit the caches, and
the usual code: a product of whole rows and a comparison, in torch.

Rows without a suffix are the best exact mode of ours: items screened by integer codes, which are
made once. `_f32` scores every item in float32. `_codes` is what making the codes takes, against a
search of all queries without them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from rarec import _rust

N_QUERIES, N_SEEN = 480, 40
Pair = tuple[Any, Any]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    faiss.cvar.distance_compute_blas_threshold = 20
    yield
    torch.set_num_threads(before)


class Job:
    """Queries, items, what to leave out, and a target for each query."""

    def __init__(self, n_items: int, dim: int) -> None:
        random = np.random.default_rng(n_items + dim)
        self.items = random.standard_normal((n_items, dim), dtype=np.float32)
        self.queries = random.standard_normal((N_QUERIES, dim), dtype=np.float32)
        seen = [np.sort(random.choice(n_items, N_SEEN, replace=False)) for _ in range(N_QUERIES)]
        self.seen = np.stack(seen).astype(np.int32)
        self.csr = np.arange(N_QUERIES + 1, dtype=np.int64) * N_SEEN, self.seen.reshape(-1)
        # targets as a good model ranks them: half among the first hundredth
        bars = random.uniform(0, [0.01, 1], (N_QUERIES // 2, 2)).reshape(-1)
        order = np.argsort(-(self.queries @ self.items[:10_000].T), axis=1)
        self.targets = order[np.arange(N_QUERIES), (bars * 10_000).astype(int)].astype(np.int32)


@lru_cache(maxsize=1)
def job_of(n_items: int, dim: int) -> Job:
    return Job(n_items, dim)


def ours(job: Job, k: int, screen: Any, threads: int = 1) -> Callable[[], Pair]:
    catalogue = _rust.Catalogue(job.items, screen=screen)
    return lambda: catalogue.top_k(job.queries[:, None], job.csr, k, threads=threads)


def by_faiss(job: Job, k: int) -> Callable[[], Pair]:
    index = faiss.IndexFlatIP(job.items.shape[1])
    index.add(job.items)
    n_items = len(job.items)
    keys = (np.arange(N_QUERIES)[:, None] * n_items + job.seen).reshape(-1)

    def run() -> Pair:
        scores, numbers = index.search(job.queries, k + N_SEEN)
        asked = np.arange(N_QUERIES)[:, None] * n_items + numbers
        place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
        kept = np.argsort(keys[place] == asked, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(numbers, kept, 1), np.take_along_axis(scores, kept, 1)

    return run


def check_same(found: Pair, expected: Pair) -> None:
    # sums in another order: the last digits differ, and with them a few neighbours
    assert np.mean(found[0] == expected[0]) > 0.99
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4)


CASES = [
    ("topk100_1m_d64", 1_000_000, 64, 100),
    ("topk100_1m_d128", 1_000_000, 128, 100),
    ("topk100_100k_d384", 100_000, 384, 100),
    ("topk1000_100k_d128", 100_000, 128, 1000),
]


@pytest.mark.parametrize(("name", "n_items", "dim", "k"), CASES, ids=[case[0] for case in CASES])
def test_best_items(race: Callable[..., None], name: str, n_items: int, dim: int, k: int) -> None:
    job = job_of(n_items, dim)
    plain, peer = ours(job, k, None), by_faiss(job, k)
    best = {screen: ours(job, k, screen) for screen in ("bytes", "shorts")}
    check_same(plain(), peer())
    for run in best.values():
        for found, expected in zip(run(), plain(), strict=True):
            np.testing.assert_array_equal(found, expected)
    race(name, best["bytes"], {"faiss": peer}, rounds=5)
    race(f"{name}_f32", plain, {"faiss": peer}, rounds=5)
    race(f"{name}_shorts", best["shorts"], {"faiss": peer}, rounds=3)
    one = {"one_thread": best["bytes"]}
    race(name, ours(job, k, "bytes", threads=2), one, rounds=9, clock=time.perf_counter)


def test_making_codes(race: Callable[..., None]) -> None:
    job = job_of(1_000_000, 128)

    def make() -> object:
        return _rust.Catalogue(job.items, screen="bytes", threads=1)

    race("topk100_1m_d128_codes", make, {"480_queries_f32": ours(job, 100, None)}, rounds=3)


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from rarec import _rust

def status(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if name in line)
    return int(line.split()[1]) / 1024

random = np.random.default_rng(0)
items = random.standard_normal((1_000_000, 128), dtype=np.float32)
queries = random.standard_normal((480, 1, 128), dtype=np.float32)
nothing = np.zeros(481, np.int64), np.empty(0, np.int32)
catalogue = _rust.Catalogue(items)
catalogue.top_k(queries[:1], (nothing[0][:2], nothing[1]), 100, threads=1)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
catalogue.top_k(queries, nothing, 100, threads=2)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_beside_items_and_results(benchmark, rows: list[dict[str, object]]) -> None:
    def measure() -> float:
        run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, check=True)
        return float(run.stdout)

    extra = benchmark.pedantic(measure, rounds=1)
    row = {"job": "topk100_1m_d128_memory", "peer": "budget", "ratio": round(16 / extra, 3)}
    rows.append({**row, "ours": round(extra, 2), "theirs": 16, "unit": "MB"})


def ranks(job: Job, screen: Any, threads: int = 1) -> Callable[[], Any]:
    catalogue = _rust.Catalogue(job.items, screen=screen)
    queries = job.queries[:, None]
    return lambda: catalogue.ranks(queries, job.targets, job.csr, threads=threads)[0]


def by_torch(job: Job, count: Callable[[Any, Any], Any], n_rows: int, n_columns: int) -> Any:
    queries, items = torch.from_numpy(job.queries), torch.from_numpy(job.items)
    bars = (queries * items[job.targets.astype(np.int64)]).sum(1)
    # the targets' own scores by the same product, or rounding would count them
    seen = torch.einsum("qd,qsd->qs", queries, items[torch.from_numpy(job.seen).long()])

    def run() -> Any:
        greater = -(seen > bars[:, None]).sum(1).numpy()
        for row in range(0, len(queries), n_rows):
            rows = slice(row, row + n_rows)
            for column in range(0, len(items), n_columns):
                scores = queries[rows] @ items[column : column + n_columns].T
                greater[rows] += count(scores, bars[rows, None])
        return greater

    return run


def by_numpy_count(scores: torch.Tensor, bars: torch.Tensor) -> Any:
    return np.count_nonzero(scores.numpy() > bars.numpy(), axis=1)


def by_torch_sum(scores: torch.Tensor, bars: torch.Tensor) -> Any:
    return (scores > bars).sum(1).numpy()


def test_ranks(race: Callable[..., None]) -> None:
    job = job_of(1_000_000, 128)
    best, plain = ranks(job, "shorts"), ranks(job, None)
    # the best of several block sizes
    blocks = by_torch(job, by_numpy_count, 120, 4096)
    whole_rows = by_torch(job, by_torch_sum, 32, len(job.items))
    np.testing.assert_array_equal(best(), plain())
    # the peers score the target by another sum than the others: up to a few places off
    for peer in (blocks, whole_rows):
        assert np.abs(peer() - plain()).max() <= 5
    race("ranks_1m_d128", best, {"numpy": blocks}, rounds=5)
    race("ranks_1m_d128", best, {"torch": whole_rows}, rounds=3)
    race("ranks_1m_d128_f32", plain, {"numpy": blocks}, rounds=3)
    one = {"one_thread": best}
    race("ranks_1m_d128", ranks(job, "shorts", threads=2), one, rounds=5, clock=time.perf_counter)
