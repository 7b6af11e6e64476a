"""Samples spread over buckets against what evenness means, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarec import _rust


@given(
    buckets=st.lists(st.integers(0, 5), max_size=200), share=st.floats(0, 1), seed=st.integers(0, 9)
)
def test_a_stratified_sample_is_as_even_as_its_buckets_allow(
    buckets: list[int], share: float, seed: int
) -> None:
    numbers = np.array(buckets, dtype=np.int32)
    budget = int(share * len(numbers))
    chosen = _rust.stratified_sample(numbers, 7, budget, seed)
    assert chosen.dtype == np.int64
    assert len(chosen) == budget
    assert np.all(np.diff(chosen) > 0)
    sizes = np.bincount(numbers, minlength=7)
    taken = np.bincount(numbers[chosen], minlength=7)
    # whoever could give more gives at least as much as anyone else, up to the remainder
    if (taken < sizes).any():
        assert taken.max() - taken[taken < sizes].min() <= 1
    np.testing.assert_array_equal(chosen, _rust.stratified_sample(numbers, 7, budget, seed))


def test_every_sample_of_a_bucket_is_as_likely() -> None:
    buckets = np.array([0] * 30 + [1] * 10, dtype=np.int32)
    counts = np.zeros(40)
    for seed in range(4000):
        counts[_rust.stratified_sample(buckets, 2, 8, seed)] += 1
    expected = np.where(buckets == 0, 4000 * 4 / 30, 4000 * 4 / 10)
    # without replacement counts spread less than a binomial, so the bound is on the safe side
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


def test_stratified_sample_says_what_does_not_fit() -> None:
    buckets = np.array([0, 1, 2], np.int32)
    with pytest.raises(ValueError, match="at most 3 samples, got 4"):
        _rust.stratified_sample(buckets, 3, 4, 0)
    with pytest.raises(ValueError, match="buckets from 0 to 1, got 2"):
        _rust.stratified_sample(buckets, 2, 1, 0)
    with pytest.raises(ValueError, match="got -1"):
        _rust.stratified_sample(-buckets, 3, 1, 0)
