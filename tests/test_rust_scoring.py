"""Best items and ranks against a few lines of NumPy, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
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


class Case:
    """Small whole numbers as vectors: exact sums in any order, and many ties."""

    def __init__(self, seed: int, n_queries: int, n_vectors: int, n_items: int, dim: int) -> None:
        random = np.random.default_rng(seed)
        self.queries = random.integers(-2, 3, (n_queries, n_vectors, dim)).astype(np.float32)
        self.items = random.integers(-2, 3, (n_items, dim)).astype(np.float32)
        sizes = random.integers(0, n_items + 1, n_queries)
        self.rows = [np.sort(random.permutation(n_items)[:size]) for size in sizes]
        self.seen = csr(self.rows)
        self.targets = random.integers(0, n_items, n_queries).astype(np.int32)
        self.scores = np.einsum("qkd,nd->qkn", self.queries, self.items).max(axis=1)


CASES = st.builds(
    Case,
    SEEDS,
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 70),
    st.integers(1, 9),
)


@given(case=CASES, k=st.integers(1, 80))
def test_top_k_is_the_sorted_list_without_the_seen(case: Case, k: int) -> None:
    numbers, scores = _rust.top_k(case.queries, case.items, *case.seen, k, threads=1)
    assert (numbers.dtype, scores.dtype) == (np.int32, np.float32)
    for query, seen in enumerate(case.rows):
        row = case.scores[query].copy()
        row[seen] = -np.inf
        best = np.lexsort((np.arange(len(row)), -row))[: min(k, len(row) - len(seen))]
        assert numbers[query].tolist() == best.tolist() + [-1] * (k - len(best))
        assert scores[query].tolist() == row[best].tolist() + [-np.inf] * (k - len(best))
    again = _rust.top_k(case.queries, case.items, *case.seen, k, threads=2)
    np.testing.assert_array_equal(numbers, again[0])
    np.testing.assert_array_equal(scores, again[1])


@given(case=CASES)
def test_ranks_count_the_unseen_above_and_level_with_the_target(case: Case) -> None:
    greater, equal, candidates = _rust.ranks(
        case.queries, case.items, case.targets, *case.seen, threads=1
    )
    for query, (seen, target) in enumerate(zip(case.rows, case.targets, strict=True)):
        others = np.setdiff1d(np.arange(len(case.items)), np.append(seen, target))
        row = case.scores[query]
        assert greater[query] == np.sum(row[others] > row[target])
        assert equal[query] == np.sum(row[others] == row[target])
        assert candidates[query] == len(others)
    again = _rust.ranks(case.queries, case.items, case.targets, *case.seen, threads=2)
    for first, second in zip((greater, equal, candidates), again, strict=True):
        np.testing.assert_array_equal(first, second)


@settings(max_examples=20)
@given(seed=SEEDS, n_queries=st.sampled_from([1, 3, 130]), dim=st.sampled_from([3, 64, 100]))
def test_scores_and_ranks_agree_to_the_bit_at_any_size(seed: int, n_queries: int, dim: int) -> None:
    random = np.random.default_rng(seed)
    n_items = 1500
    queries = random.standard_normal((n_queries, 2, dim), dtype=np.float32)
    items = random.standard_normal((n_items, dim), dtype=np.float32)
    targets = random.integers(0, n_items, n_queries).astype(np.int32)
    seen = nothing_seen(n_queries)
    numbers, scores = _rust.top_k(queries, items, *seen, n_items)
    exact = np.einsum("qkd,nd->qkn", queries, items, dtype=np.float64).max(axis=1)
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1), atol=1e-4)
    greater, equal, _ = _rust.ranks(queries, items, targets, *seen)
    for query in range(n_queries):
        score = scores[query][numbers[query] == targets[query]]
        assert greater[query] == np.sum(scores[query] > score)
        assert equal[query] == np.sum(scores[query] == score) - 1
    # a query scored alone, and by other numbers of threads, has the same bits
    alone = _rust.top_k(queries[:1], items, *nothing_seen(1), n_items, threads=3)
    np.testing.assert_array_equal(alone[0][0], numbers[0])
    np.testing.assert_array_equal(alone[1][0], scores[0])


def test_a_catalogue_of_equals_gives_no_hit_for_free() -> None:
    queries, items = np.ones((2, 1, 4), np.float32), np.ones((1000, 4), np.float32)
    numbers, _ = _rust.top_k(queries, items, *nothing_seen(2), 3)
    assert numbers.tolist() == [[0, 1, 2]] * 2
    greater, equal, candidates = _rust.ranks(
        queries, items, np.array([0, 999], np.int32), *nothing_seen(2)
    )
    assert greater.tolist() == [0, 0]
    assert equal.tolist() == candidates.tolist() == [999, 999]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_named_by_row(bad: float) -> None:
    queries, items = np.ones((3, 2, 4), np.float32), np.ones((5, 4), np.float32)
    queries[2, 1, 3] = bad
    with pytest.raises(ValueError, match=r"expected finite queries, got .* in row 2"):
        _rust.top_k(queries, items, *nothing_seen(3), 1)
    queries[2, 1, 3], items[4, 0] = 1, bad
    with pytest.raises(ValueError, match=r"expected finite items, got .* in row 4"):
        _rust.ranks(queries, items, np.zeros(3, np.int32), *nothing_seen(3))


def test_scores_that_could_pass_float32_are_refused() -> None:
    huge = np.full((1, 1, 4), 1e25, np.float32)
    with pytest.raises(ValueError, match="inner products fit float32"):
        _rust.top_k(huge, huge[0], *nothing_seen(1), 1)


def test_scoring_says_what_does_not_fit() -> None:
    queries, items = np.ones((2, 1, 4), np.float32), np.ones((5, 4), np.float32)
    seen = nothing_seen(2)
    with pytest.raises(ValueError, match="k >= 1, got 0"):
        _rust.top_k(queries, items, *seen, 0)
    with pytest.raises(ValueError, match="width"):
        _rust.top_k(queries, items[:, :3].copy(), *seen, 1)
    with pytest.raises(ValueError, match="length 2, got 1"):
        _rust.top_k(queries, items, *nothing_seen(1), 1)
    with pytest.raises(ValueError, match="targets from 0 to 4, got 5"):
        _rust.ranks(queries, items, np.array([0, 5], np.int32), *seen)
    with pytest.raises(ValueError, match="targets of length 2, got 1"):
        _rust.ranks(queries, items, np.array([0], np.int32), *seen)
    for row, message in [([0, 5], "from 0 to 4, got 5"), ([1, 1], "sorted"), ([2, 1], "sorted")]:
        with pytest.raises(ValueError, match=message):
            _rust.top_k(queries, items, *csr([[], row]), 1)
    with pytest.raises(ValueError, match="C-contiguous"):
        _rust.top_k(queries, np.asfortranarray(items), *seen, 1)
    with pytest.raises(TypeError):
        _rust.top_k(queries.astype(np.float64), items, *seen, 1)  # pyright: ignore[reportArgumentType]
