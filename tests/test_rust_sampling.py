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


def probabilities(table: _rust.AliasTable) -> NDArray[np.float64]:
    """Return the probability of each item, as the table's columns give it."""
    columns = table.__reduce__()[1][0]
    own, other = (columns >> 32) / 2**32, (columns & (2**32 - 1)).astype(np.int64)
    np.add.at(own, other, 1 - own)
    return own / len(own)


@given(weights=st.lists(st.sampled_from([0.0, 1e-99, 0.5, 1.0, 7.0, 1e6]), min_size=1, max_size=40))
def test_an_alias_table_holds_its_distribution(weights: list[float]) -> None:
    wanted = np.array(weights)
    if not wanted.any():
        with pytest.raises(ValueError, match="sum above 0"):
            _rust.AliasTable(wanted)
        return
    table = _rust.AliasTable(wanted)
    held = probabilities(table)
    np.testing.assert_allclose(held, wanted / wanted.sum(), atol=1e-8)
    # a weight however small can be drawn, and none cannot
    np.testing.assert_array_equal(held > 0, wanted > 0)
    log_q = _rust.log_probability(
        *nothing_seen(1),
        np.zeros(1, np.int32),
        np.arange(len(wanted), dtype=np.int32)[None],
        len(wanted),
        alias=table,
    )
    np.testing.assert_allclose(np.exp(log_q[0]), held, rtol=1e-9)


@given(
    seed=SEEDS,
    n_items=st.integers(8, 200),
    n=st.integers(0, 40),
    popular=st.booleans(),
    kind=st.sampled_from([np.int32, np.int64]),
)
def test_draws_are_those_a_row_may_get_with_their_log_q(
    seed: int, n_items: int, n: int, popular: bool, kind: type
) -> None:
    random = np.random.default_rng(seed)
    rows = [np.sort(random.permutation(n_items)[: random.integers(n_items - 5)]) for _ in range(5)]
    users = random.integers(0, 5, 80).astype(np.int32)
    exclude = random.integers(0, n_items, 2).astype(np.int32)
    own = random.integers(-1, n_items, (80, 2)).astype(np.int32)
    weights = random.random(n_items) + 1e-3 if popular else np.ones(n_items)
    alias = _rust.AliasTable(weights) if popular else None
    options = {"alias": alias, "exclude": exclude, "exclude_by_row": own}
    draws, log_qs = [], []
    for threads in (1, 2):
        out, log_q = np.full((80, n), -1, kind), np.full((80, n), np.nan, np.float32)
        drawn = _rust.sample_negatives(
            *csr(rows),
            users,
            n,
            n_items,
            **options,
            seed=seed,
            out=out,
            log_q=log_q,
            threads=threads,
        )
        assert drawn is out
        draws.append(drawn)
        log_qs.append(log_q)
    np.testing.assert_array_equal(*draws)
    np.testing.assert_array_equal(*log_qs)
    # neither the kind of the numbers nor log Q changes what is drawn
    plain = _rust.sample_negatives(*csr(rows), users, n, n_items, **options, seed=seed)
    assert plain.dtype == np.int32
    np.testing.assert_array_equal(plain, draws[0])

    everything = np.arange(n_items, dtype=np.int32)
    exact = _rust.log_probability(
        *csr(rows), users, np.tile(everything, (80, 1)), n_items, **options
    )
    for row, user in enumerate(users):
        left = np.setdiff1d(everything, [*rows[user], *exclude, *own[row]])
        assert set(draws[0][row].tolist()) <= set(left.tolist())
        share = np.zeros(n_items)
        share[left] = weights[left] / weights[left].sum()
        np.testing.assert_allclose(np.exp(exact[row]), share, atol=1e-7)
        np.testing.assert_allclose(log_qs[0][row], exact[row, draws[0][row]], rtol=1e-6)


@pytest.mark.parametrize("popular", [False, True])
def test_negatives_have_the_distribution_of_the_unseen(popular: bool) -> None:
    n_items, n = 50, 400_000
    weights = 1.0 / np.arange(1, n_items + 1) if popular else np.ones(n_items)
    # one user who has seen little, one who has seen all but three: rejection, and the exact draw
    rows = [np.array([0, 7, 30]), np.setdiff1d(np.arange(n_items), [10, 20, 49])]
    alias = _rust.AliasTable(weights) if popular else None
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
    with pytest.raises(ValueError, match=r"user 1 has not seen .* got none of 3 \(row 1\)"):
        _rust.sample_negatives(*seen, users, 1, 3)
    with pytest.raises(ValueError, match="users from 0 to 1, got 2"):
        _rust.sample_negatives(*seen, np.array([2], np.int32), 1, 4)
    with pytest.raises(ValueError, match="seen items from 0 to 0, got 1"):
        _rust.sample_negatives(*seen, users, 1, 1)
    with pytest.raises(ValueError, match="alias table of length 4, got 3"):
        _rust.sample_negatives(*seen, users, 1, 4, alias=_rust.AliasTable(np.ones(3)))
    with pytest.raises(ValueError, match="alias items"):
        _rust.AliasTable.from_columns(np.full(4, 4, np.uint64))
    for weights in ([-1.0, 2.0], [np.nan], [np.inf], []):
        with pytest.raises(ValueError, match="weights"):
            _rust.AliasTable(np.array(weights))
    with pytest.raises(ValueError, match="excluded items from 0 to 3, got 4"):
        _rust.sample_negatives(*seen, users, 1, 4, exclude=np.array([4], np.int32))
    with pytest.raises(ValueError, match="exclude_by_row of length 2, got 1"):
        _rust.sample_negatives(*seen, users, 1, 4, exclude_by_row=np.ones((1, 1), np.int32))
    for n_items in (0, 2**31):
        with pytest.raises(ValueError, match="n_items from 1"):
            _rust.sample_negatives(*nothing_seen(2), users, 1, n_items)


def test_a_buffer_that_does_not_fit_is_refused() -> None:
    seen, users = nothing_seen(2), np.array([0, 1], np.int32)
    read_only = np.zeros((2, 3), np.int32)
    read_only.flags.writeable = False
    for out in (
        np.zeros((2, 4), np.int32),
        np.zeros(6, np.int32),
        np.zeros((2, 3), np.float32),
        np.zeros((3, 2), np.int64).T,
        np.zeros((2, 6), np.int64)[:, ::2],
        read_only,
        [[0] * 3] * 2,
    ):
        with pytest.raises(ValueError, match="expected out"):
            _rust.sample_negatives(*seen, users, 3, 9, out=out)  # pyright: ignore[reportArgumentType]
    # a buffer that holds an input would change it while it is read
    with pytest.raises(ValueError, match="out that can be written to"):
        _rust.sample_negatives(*seen, users, 1, 9, out=users[:, None])


def test_a_seen_share_of_nearly_all_neither_hangs_nor_biases() -> None:
    n_items, n_users = 100_000, 300
    left = np.array([3, 50_000, 99_999])
    rows = [np.setdiff1d(np.arange(n_items), left)]
    weights = np.full(n_items, 1e6)
    weights[left] = [1, 2, 3]
    users = np.zeros(n_users, np.int32)
    drawn = _rust.sample_negatives(
        *csr(rows), users, 200, n_items, alias=_rust.AliasTable(weights), threads=1
    )
    counts = np.bincount(drawn.ravel(), minlength=n_items)[left]
    assert counts.sum() == drawn.size
    np.testing.assert_allclose(counts / drawn.size, np.array([1, 2, 3]) / 6, atol=0.01)
    log_q = _rust.log_probability(
        *csr(rows),
        users[:1],
        left.astype(np.int32)[None],
        n_items,
        alias=_rust.AliasTable(weights),
    )
    # summed in whole units, so the digits of the little that is left are all there; what remains
    # is the rounding of a weight a millionth of the mean to one of 2**32 units
    np.testing.assert_allclose(np.exp(log_q[0]), np.array([1, 2, 3]) / 6, rtol=5e-4)
    assert np.exp(log_q).sum() == pytest.approx(1, abs=1e-12)


def test_the_largest_catalogue_is_drawn_evenly() -> None:
    # the size at which rounding and overflow would show
    n_items = 2**31 - 1
    drawn = _rust.sample_negatives(
        *nothing_seen(1), np.zeros(40, np.int32), 10_000, n_items, seed=4, threads=1
    )
    assert drawn.min() >= 0
    shares = [np.mean(drawn % 2), np.mean(drawn < n_items // 2)]
    # 5 standard deviations of a share of 400 thousand draws
    np.testing.assert_allclose(shares, 0.5, atol=5 * 0.5 / np.sqrt(drawn.size))


@given(seed=SEEDS, n_items=st.integers(1, 50), n_columns=st.integers(0, 30))
def test_collisions_are_the_places_of_a_dense_mask(seed: int, n_items: int, n_columns: int) -> None:
    random = np.random.default_rng(seed)
    rows = [np.flatnonzero(random.random(n_items) < 0.3) for _ in range(6)]
    users = random.integers(0, 6, 20).astype(np.int32)
    items = random.integers(0, n_items, n_columns).astype(np.int32)
    for threads in (1, 2):
        pairs = _rust.collisions(*csr(rows), users, items, n_items, threads=threads)
        assert pairs.dtype == np.int64
        mask = np.array([np.isin(items, rows[user]) for user in users]).reshape(20, n_columns)
        np.testing.assert_array_equal(pairs, np.argwhere(mask))
