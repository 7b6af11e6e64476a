"""Negative sampling of 100 thousand users and a million items, about 39 seen each (Zipf .9).

Axes: B rows of a batch, n items for each, N items, U users. A job is `distribution_Bxn`. Ours and
the peers fill int64 buffers they were given, where the peer's functions take some.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rarec import _rust
from rarec.data import Histories
from rarec.selection import NegativeSampler, collisions

N_USERS, N_ITEMS, N_SEEN, ALPHA = 100_000, 1_000_000, 40, 0.75
Draws = NDArray[np.int32] | NDArray[np.int64]
Race = Callable[..., None]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@lru_cache
def histories() -> Histories:
    """Return distinct seen items, popular ones at random places of the catalogue."""
    generator = np.random.default_rng(0)
    sums = np.cumsum(np.arange(1, N_ITEMS + 1) ** -0.9)
    ranks = np.searchsorted(sums, generator.random(N_USERS * N_SEEN) * sums[-1])
    offsets = np.arange(N_USERS + 1) * N_SEEN
    items = generator.permutation(N_ITEMS)[ranks].astype(np.int32)
    return Histories(offsets, items).sorted_unique()


@lru_cache
def sampler(alpha: float = 0.0, threads: int = 1) -> NegativeSampler:
    return NegativeSampler(histories(), N_ITEMS, alpha=alpha, seed=1, threads=threads)


@lru_cache
def users_of(n_rows: int) -> NDArray[np.int64]:
    return np.random.default_rng(n_rows).integers(0, N_USERS, n_rows)


@lru_cache
def keys() -> NDArray[np.int64]:
    """Return a sorted number for each pair of user and seen item, and one above them all."""
    seen = histories()
    return np.append(seen.rows * N_ITEMS + seen.items, np.iinfo(np.int64).max)


@lru_cache
def weights() -> NDArray[np.float64]:
    return np.maximum(histories().counts(N_ITEMS), 1) ** ALPHA


def ours(n_rows: int, n: int, alpha: float = 0.0, threads: int = 1) -> Callable[[], Draws]:
    users, out = users_of(n_rows).astype(np.int32), np.empty((n_rows, n), np.int64)
    # every call another step: no cache may hold what the last one read
    steps = iter(range(10**9))
    draw = sampler(alpha, threads).sample
    return lambda: draw(users, n, step=next(steps), out=out)


def torch_unseen(n_rows: int, n: int, draw: Callable[[Tensor], object]) -> Callable[[], Draws]:
    """Return draws of torch; those that hit a seen item are drawn again."""
    first, table = torch.from_numpy(users_of(n_rows) * N_ITEMS)[:, None], torch.from_numpy(keys())
    items, asked, place, found = torch.empty((4, n_rows, n), dtype=torch.int64)

    def run() -> Draws:
        draw(items)
        torch.add(items, first, out=asked)
        torch.searchsorted(table, asked, out=place)
        torch.take(table, place, out=found)
        rows, columns = (found == asked).nonzero(as_tuple=True)
        while len(rows):
            again = torch.empty(len(rows), dtype=torch.int64)
            draw(again)
            items[rows, columns] = again
            wanted = first[rows, 0] + again
            left = table[torch.searchsorted(table, wanted)] == wanted
            rows, columns = rows[left], columns[left]
        return items.numpy()

    return run


def torch_even(out: Tensor) -> Tensor:
    return torch.randint(N_ITEMS, out.shape, out=out)


def torch_popular() -> Callable[[Tensor], object]:
    # as it is mostly called: float64 would be slower
    table = torch.from_numpy(weights()).float()
    return lambda out: out.view(-1).copy_(torch.multinomial(table, out.numel(), replacement=True))


def numpy_alias(n_rows: int, n: int) -> Callable[[], Draws]:
    """Return draws from an alias table held in arrays, those of seen items drawn again."""
    # what pickle keeps of ours, so that both draw from the same table
    columns = np.asarray(_rust.AliasTable(weights()).__reduce__()[1][0], np.uint64)
    keep, other = (columns >> 32) / 2**32, (columns & (2**32 - 1)).astype(np.int64)
    table, first = keys(), users_of(n_rows)[:, None] * N_ITEMS
    generator = np.random.Generator(np.random.SFC64(0))

    def draw(shape: tuple[int, ...]) -> Draws:
        column = generator.integers(0, N_ITEMS, shape)
        return np.where(generator.random(shape) < keep[column], column, other[column])

    def run() -> Draws:
        items = draw((n_rows, n))
        asked = items + first
        rows, columns = np.nonzero(table[np.searchsorted(table, asked)] == asked)
        while len(rows):
            again = draw((len(rows),))
            items[rows, columns] = again
            wanted = first[rows, 0] + again
            left = table[np.searchsorted(table, wanted)] == wanted
            rows, columns = rows[left], columns[left]
        return items

    return run


def recbole_module() -> ModuleType:
    """Return RecBole's file of samplers; the package itself would ask for a dozen others."""
    package = importlib.util.find_spec("recbole")
    if package is None or package.origin is None:
        pytest.skip("needs RecBole: pip install --no-deps recbole==1.2.1")
    path = Path(package.origin).parent / "sampler" / "sampler.py"
    spec = importlib.util.spec_from_file_location("recbole_sampler", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recbole(n_rows: int, n: int) -> Callable[[], Draws]:
    seen = histories()
    events = {"user": torch.from_numpy(seen.rows), "item": torch.from_numpy(seen.items) + 1}
    # its item 0 is padding, so all of ours stand one higher
    dataset = SimpleNamespace(
        uid_field="user",
        iid_field="item",
        user_num=N_USERS,
        item_num=N_ITEMS + 1,
        inter_feat=events,
    )
    peer = recbole_module().Sampler("train", dataset).set_phase("train")
    users = users_of(n_rows)
    return lambda: peer.sample_by_key_ids(users, n).numpy().reshape(n, n_rows).T - 1


def check(drawn: Draws, n_rows: int, n: int, mean: float, deviations: float = 5) -> None:
    """Refuse draws of another shape, of seen items, or of another mean of the item numbers."""
    assert drawn.shape == (n_rows, n)
    assert 0 <= drawn.min() <= drawn.max() < N_ITEMS
    asked = users_of(n_rows)[:, None] * N_ITEMS + drawn
    assert not (keys()[np.searchsorted(keys(), asked)] == asked).any()
    # the standard deviation of even draws is N / sqrt(12)
    assert abs(drawn.mean() - mean) < deviations * N_ITEMS / np.sqrt(12 * drawn.size)


def mean_item(alpha: float) -> float:
    """Return the mean item number of the draws of all users together."""
    share = weights() / weights().sum() if alpha else np.full(N_ITEMS, 1 / N_ITEMS)
    numbers, seen = np.arange(N_ITEMS), histories()
    left = 1 - np.bincount(seen.rows, share[seen.items])
    moment = share @ numbers - np.bincount(seen.rows, (share * numbers)[seen.items])
    return float((moment / left).mean())


JOBS = {
    "uniform_65536x1": (65536, 1, 0.0, 15),
    "uniform_8192x100": (8192, 100, 0.0, 9),
    "uniform_65536x100": (65536, 100, 0.0, 5),
    "popularity_65536x100": (65536, 100, ALPHA, 3),
}


def peers_of(job: str) -> dict[str, Callable[[], Draws]]:
    n_rows, n, alpha, _ = JOBS[job]
    if not alpha:
        return {"torch": torch_unseen(n_rows, n, torch_even)}
    peer = torch_unseen(n_rows, n, torch_popular())
    return {"torch": peer, "numpy_alias": numpy_alias(n_rows, n)}


@pytest.mark.parametrize("job", JOBS)
def test_sampling(race: Race, job: str) -> None:
    n_rows, n, alpha, rounds = JOBS[job]
    mine, peers, mean = ours(n_rows, n, alpha), peers_of(job), mean_item(alpha)
    check(mine(), n_rows, n, mean)
    for name, run in peers.items():
        # torch.multinomial sums a million float32 shares, and is off by a thousandth
        check(run(), n_rows, n, mean, 20 if alpha and name == "torch" else 5)
    if job == "uniform_8192x100":
        # the numbers alone, seen or not: what leaving out costs
        buffer = torch.empty((n_rows, n), dtype=torch.int64)
        peers["torch_no_exclusion"] = lambda: torch_even(buffer).numpy()
    race(job, mine, peers, rounds=rounds)


def test_sampling_against_recbole(race: Race) -> None:
    n_rows, n = 8192, 100
    mine, peer = ours(n_rows, n), recbole(n_rows, n)
    for run in (mine, peer):
        check(run(), n_rows, n, mean_item(0.0))
    race("uniform_8192x100", mine, {"recbole": peer}, rounds=5)


@pytest.mark.parametrize("job", JOBS)
def test_sampling_on_two_threads(race: Race, job: str) -> None:
    n_rows, n, alpha, _ = JOBS[job]
    two, one = ours(n_rows, n, alpha, threads=2), ours(n_rows, n, alpha)
    np.testing.assert_array_equal(two(), one())
    race(job, two, {"one_thread": one}, clock=time.perf_counter)


def collisions_of(n_rows: int, threads: int) -> Callable[[], Draws]:
    seen, users = histories(), users_of(n_rows)
    items = seen.items[seen.offsets[users]]
    return lambda: collisions(seen, users, items, threads=threads)


def test_collisions(race: Race) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    seen, users = histories(), users_of(4096)
    items = seen.items[seen.offsets[users]]
    ones = np.ones(len(seen.items), np.int8)
    table = sparse.csr_array((ones, seen.items, seen.offsets), shape=(N_USERS, N_ITEMS))
    mine = collisions_of(4096, 1)

    def peer() -> Draws:
        return np.stack(table[users][:, items].nonzero(), axis=1)

    pairs = peer()
    np.testing.assert_array_equal(mine(), pairs[np.lexsort(pairs.T[::-1])])
    race("collisions_4096", mine, {"scipy": peer})


def test_collisions_on_two_threads(race: Race) -> None:
    two, one = collisions_of(4096, 2), collisions_of(4096, 1)
    np.testing.assert_array_equal(two(), one())
    race("collisions_4096", two, {"one_thread": one}, clock=time.perf_counter)
