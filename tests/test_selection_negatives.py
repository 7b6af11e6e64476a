"""Negative samples: their distribution, their random keys, excluded items and bad arguments."""

from __future__ import annotations

import multiprocessing
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from rarec.data import Histories, read_dataset
from rarec.selection import NegativeSampler, collisions


def random_histories() -> Histories:
    random = np.random.default_rng(0)
    return Histories.from_lists(
        [random.integers(0, 40, random.integers(1, 30)).tolist() for _ in range(200)]
    )


@pytest.mark.parametrize("alpha", [0.0, 0.75])
def test_negatives_follow_the_exact_distribution(alpha: float) -> None:
    histories = Histories.from_lists([[0, 0, 0, 1, 5], [2, 2, 3], []])
    sampler = NegativeSampler(histories, 6, alpha=alpha, seed=3, threads=1)
    users, n = np.array([0, 1, 2]), 100_000
    drawn = sampler.sample(users, n, step=0)
    assert (drawn.dtype, drawn.shape) == (np.int32, (3, n))
    items = np.tile(np.arange(6), (3, 1))
    exact = np.exp(sampler.log_probability(items, users=users))
    np.testing.assert_allclose(exact.sum(axis=1), 1)
    for row, seen in zip(exact, histories, strict=True):
        assert not row[seen].any()
    counts = np.stack([np.bincount(row, minlength=6) for row in drawn]) / n
    np.testing.assert_allclose(counts, exact, atol=5 * np.sqrt(0.25 / n))


def test_log_probability_is_that_of_counts_to_the_power() -> None:
    histories = Histories.from_lists([[0, 0, 0, 1], [1]])
    sampler = NegativeSampler(histories, 3, alpha=0.5)
    weights = np.array([3, 2, 1]) ** 0.5
    q = sampler.log_probability([2, 1, 0])
    assert q.dtype == np.float64
    np.testing.assert_allclose(np.exp(q), (weights / weights.sum())[::-1])
    # without a user, the value differs from the exact one by a constant of the user
    exact = sampler.log_probability([[0, 2]], users=[1])
    assert np.ptp(exact - sampler.log_probability([[0, 2]])) < 1e-12
    assert sampler.log_probability([1], users=[1]).tolist() == [-np.inf]
    full = NegativeSampler(Histories.from_lists([[0, 1]]), 2)
    assert full.log_probability([0, 1], users=[0, 0]).tolist() == [-np.inf] * 2


def test_a_large_power_of_large_counts_stays_finite() -> None:
    sampler = NegativeSampler(Histories.from_lists([[0] * 1000 + [1]]), 3, alpha=400)
    assert np.isfinite(sampler.log_probability([0, 1, 2])).all()


def test_draws_depend_only_on_step_and_row() -> None:
    histories = random_histories()
    users = np.arange(50)
    first = NegativeSampler(histories, 40, alpha=0.75, threads=1).sample(users, 4, step=7)
    second = NegativeSampler(histories, 40, alpha=0.75, threads=2)
    np.testing.assert_array_equal(first, second.sample(users, 4, step=7))
    np.testing.assert_array_equal(first[20:], second.sample(users[20:], 4, step=7, first_row=20))
    assert not np.array_equal(first, second.sample(users, 4, step=8))


@pytest.mark.parametrize("alpha", [0.0, 0.75])
def test_what_a_call_excludes_is_not_drawn_and_counts_in_log_q(alpha: float) -> None:
    histories = Histories.from_lists([[0, 0, 0, 1, 5], [2, 2, 3], []])
    sampler = NegativeSampler(histories, 8, alpha=alpha, seed=3, threads=1)
    users, targets = np.array([0, 1, 2]), np.array([2, 2, 7])
    excluded = {"exclude": [6], "exclude_by_row": targets}
    out = np.empty((3, 5000), np.int64)
    drawn, log_q = sampler.sample_with_log_q(users, 5000, step=0, out=out, **excluded)
    assert drawn is out
    assert log_q.dtype == np.float32
    np.testing.assert_array_equal(drawn, sampler.sample(users, 5000, step=0, **excluded))
    exact = sampler.log_probability(np.tile(np.arange(8), (3, 1)), users=users, **excluded)
    np.testing.assert_allclose(np.exp(exact).sum(axis=1), 1)
    for row, (seen, target) in enumerate(zip(histories, targets, strict=True)):
        left = np.setdiff1d(np.arange(8), [*seen, target, 6])
        np.testing.assert_array_equal(np.unique(drawn[row]), left)
        np.testing.assert_array_equal(np.flatnonzero(np.isfinite(exact[row])), left)
    np.testing.assert_allclose(log_q, np.take_along_axis(exact, drawn, 1), rtol=1e-6)
    # the same excluded items as a table with padding
    padded = np.array([[2, -1], [-1, 2], [7, 7]])
    again = sampler.sample(users, 5000, step=0, exclude=[6], exclude_by_row=padded)
    np.testing.assert_array_equal(drawn, again)


@pytest.mark.parametrize("alpha", [0.0, 0.75])
def test_worker_processes_draw_different_items_by_step_and_row(alpha: float) -> None:
    sampler = NegativeSampler(random_histories(), 40, alpha=alpha, seed=5, threads=1)
    keys = [{"step": step, "first_row": row} for step in range(4) for row in (0, 10, 20)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        # two processes with unknown random states draw the parts in turn
        parts = [pool.apply_async(sampler.sample, (np.arange(10), 3), key) for key in keys]
        apart = [part.get(timeout=60) for part in parts]
    whole = [sampler.sample(np.tile(np.arange(10), 3), 3, step=step) for step in range(4)]
    np.testing.assert_array_equal(np.concatenate(apart), np.concatenate(whole))
    assert len({part.tobytes() for part in apart}) == len(apart)


def test_even_draws_from_a_large_catalogue_need_no_table() -> None:
    histories = Histories.from_lists([[5, 99_999_999], []])
    tracemalloc.start()
    sampler = NegativeSampler(histories, 100_000_000, seed=1, threads=1)
    drawn, log_q = sampler.sample_with_log_q([0, 1], 1000, step=0, exclude=[7])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert drawn.max() > 90_000_000
    np.testing.assert_allclose(log_q, -np.log(1e8 - np.array([[3], [1]])) * np.ones((1, 1000)))
    assert sampler.log_probability([5]).tolist() == [-np.log(1e8)]


@pytest.mark.parametrize("alpha", [0.0, 0.75])
def test_negatives_of_real_histories_are_unseen(shared_data: Path, alpha: float) -> None:
    dataset = read_dataset(shared_data / "ml-100k")
    histories, n_items = dataset.histories, dataset.n_items
    users = np.random.default_rng(0).integers(0, len(histories), 2000)
    targets = histories.last(1).items[users]
    draws = []
    for threads in (1, 2):
        sampler = NegativeSampler(histories, n_items, alpha=alpha, threads=threads)
        draws.append(sampler.sample(users, 50, step=1, exclude_by_row=targets))
    np.testing.assert_array_equal(*draws)
    seen = histories.sorted_unique()
    for user, row in zip(users, draws[0], strict=True):
        assert not np.isin(row, seen[user]).any()
    pairs = collisions(seen, users, targets)
    mask = np.array([np.isin(targets, seen[user]) for user in users])
    np.testing.assert_array_equal(pairs, np.argwhere(mask))


def test_a_sampler_refuses_bad_arguments() -> None:
    histories = Histories.from_lists([[0, 1], [2]])
    for arguments, message in [
        ({"n_items": 2}, "items below 2, got 2"),
        ({"n_items": 3, "alpha": -1.0}, "alpha >= 0"),
        ({"n_items": 3, "alpha": float("nan")}, "alpha >= 0"),
        ({"n_items": 3, "seed": -1}, "seed from 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            NegativeSampler(histories, **arguments)
    sampler = NegativeSampler(histories, 3)
    with pytest.raises(ValueError, match="users from 0 to 1, got 2 to 2"):
        sampler.sample([2], 1, step=0)
    with pytest.raises(ValueError, match="step >= 0, got -1"):
        sampler.sample([0], 1, step=-1)
    with pytest.raises(ValueError, match="whole numbers as users"):
        sampler.sample([0.5], 1, step=0)
    with pytest.raises(ValueError, match="items from 0 to 2, got 3"):
        sampler.log_probability([3])
    with pytest.raises(ValueError, match=r"users \[B\]"):
        sampler.log_probability([[0, 1]], users=[0, 1])
    with pytest.raises(ValueError, match="user 0 has not seen"):
        NegativeSampler(Histories.from_lists([[0, 1, 1, 0]]), 2).sample([0], 1, step=0)
    for arguments, message in [
        ({"exclude": [3]}, "items to exclude from 0 to 2, got 3 to 3"),
        ({"exclude": [[0]]}, r"items to exclude \[E\]"),
        ({"exclude_by_row": [1, 2]}, r"by row \[1\] or \[1, M\], got \[2\]"),
        ({"exclude_by_row": [[-2]]}, "by row from -1 to 2, got -2"),
        ({"out": np.empty((1, 2), np.int32)}, r"out as int32 or int64 \[1, 1\], got int32"),
        ({"out": np.empty((1, 1))}, "got float64"),
        ({"exclude": [2], "exclude_by_row": [-1]}, "user 0 has not seen and that is not excluded"),
    ]:
        with pytest.raises(ValueError, match=message):
            sampler.sample([0], 1, step=0, **arguments)
    with pytest.raises(ValueError, match="users for the items to exclude"):
        sampler.log_probability([0], exclude=[1])
    with pytest.raises(ValueError, match=r"n_items from 1 to 2\*\*31 - 1"):
        NegativeSampler(histories, 2**31)
