"""Random choices against NumPy and against their distributions, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rarec import _rust

SEEDS = st.integers(0, 2**32 - 1)
NONE_SEEN = np.empty(0, np.int32)


def csr(rows: list[Any]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
    return offsets, np.concatenate([NONE_SEEN, *rows]).astype(np.int32)


def nothing_seen(n: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    return csr([[]] * n)


@given(weights=st.lists(st.sampled_from([0.0, 1e-9, 0.5, 1.0, 7.0, 1e6]), min_size=1, max_size=40))
def test_an_alias_table_holds_its_distribution(weights: list[float]) -> None:
    table = np.array(weights)
    if not table.any():
        with pytest.raises(ValueError, match="sum above 0"):
            _rust.alias_table(table)
        return
    keep, other = _rust.alias_table(table)
    held = keep.copy()
    np.add.at(held, other, 1 - keep)
    np.testing.assert_allclose(held / len(table), table / table.sum(), atol=1e-12)
    assert not held[table == 0].any()


@given(seed=SEEDS, n_items=st.integers(2, 60), n=st.integers(0, 9), popular=st.booleans())
def test_negatives_are_unseen_items_whatever_the_threads(
    seed: int, n_items: int, n: int, popular: bool
) -> None:
    random = np.random.default_rng(seed)
    rows = [np.sort(random.permutation(n_items)[: random.integers(n_items)]) for _ in range(5)]
    users = random.integers(0, 5, 80).astype(np.int32)
    alias = _rust.alias_table(random.random(n_items) + 1e-3) if popular else None
    draws = [
        _rust.sample_negatives(
            *csr(rows), users, n, n_items, alias=alias, seed=seed, step=3, threads=threads
        )
        for threads in (1, 2)
    ]
    assert draws[0].dtype == np.int32
    assert draws[0].shape == (80, n)
    np.testing.assert_array_equal(draws[0], draws[1])
    for user, row in zip(users, draws[0], strict=True):
        assert set(row.tolist()) <= set(range(n_items)) - set(rows[user].tolist())


@pytest.mark.parametrize("popular", [False, True])
def test_negatives_have_the_distribution_of_the_unseen(popular: bool) -> None:
    n_items, n = 50, 400_000
    weights = 1.0 / np.arange(1, n_items + 1) if popular else np.ones(n_items)
    # one user who has seen little, one who has seen all but three: rejection, and the exact draw
    rows = [np.array([0, 7, 30]), np.setdiff1d(np.arange(n_items), [10, 20, 49])]
    alias = _rust.alias_table(weights) if popular else None
    users = np.array([0, 1], np.int32)
    drawn = _rust.sample_negatives(*csr(rows), users, n, n_items, alias=alias, seed=11)
    for row, seen in zip(drawn, rows, strict=True):
        share = np.where(np.isin(np.arange(n_items), seen), 0, weights)
        expected = n * share / share.sum()
        unseen = expected > 0
        counts = np.bincount(row, minlength=n_items)
        assert counts[~unseen].sum() == 0
        chi = np.sum((counts - expected)[unseen] ** 2 / expected[unseen])
        freedom = unseen.sum() - 1
        # 5 standard deviations of a chi-square
        assert chi < freedom + 5 * np.sqrt(2 * freedom)


def test_rows_and_steps_and_seeds_have_draws_of_their_own() -> None:
    seen, users = nothing_seen(1), np.zeros(4, np.int32)
    draw = _rust.sample_negatives(*seen, users, 20, 1000, seed=1, step=1)
    rows = {tuple(row) for row in draw.tolist()}
    for seed, step in [(1, 2), (2, 1)]:
        other = _rust.sample_negatives(*seen, users, 20, 1000, seed=seed, step=step)
        rows |= {tuple(row) for row in other.tolist()}
    assert len(rows) == 12
    last = _rust.sample_negatives(*seen, users[2:], 20, 1000, seed=1, step=1, first_row=2)
    np.testing.assert_array_equal(draw[2:], last)


def test_sampling_says_what_does_not_fit() -> None:
    seen, users = csr([[0, 1], [0, 1, 2]]), np.array([0, 1], np.int32)
    with pytest.raises(ValueError, match="item that user 1 has not seen, got none of 3"):
        _rust.sample_negatives(*seen, users, 1, 3)
    with pytest.raises(ValueError, match="users from 0 to 1, got 2"):
        _rust.sample_negatives(*seen, np.array([2], np.int32), 1, 4)
    with pytest.raises(ValueError, match="seen items from 0 to 0, got 1"):
        _rust.sample_negatives(*seen, users, 1, 1)
    alias = _rust.alias_table(np.ones(3))
    with pytest.raises(ValueError, match="alias table of length 4, got 3"):
        _rust.sample_negatives(*seen, users, 1, 4, alias=alias)
    bad = (np.ones(4), np.full(4, 4, np.int32))
    with pytest.raises(ValueError, match="alias items"):
        _rust.sample_negatives(*seen, users, 1, 4, alias=bad)
    for weights in ([-1.0, 2.0], [np.nan], [np.inf], []):
        with pytest.raises(ValueError, match="weights"):
            _rust.alias_table(np.array(weights))
