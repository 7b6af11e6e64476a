"""Best items and ranks against a few lines of NumPy, and what they refuse."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import product
from typing import Any, Literal

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


def available() -> list[str]:
    """Return the names of the instructions this processor has."""
    names = []
    for name in ("portable", "neon", "avx2", "avx512"):
        with contextlib.suppress(ValueError):
            names.append(with_instructions(name, np.ones((1, 1), np.float32)).instructions)
    return names


def with_instructions(
    name: str, items: NDArray[Any], screen: Literal["bytes", "shorts"] | None = None
) -> _rust.Catalogue:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAREC_SIMD", name)
        return _rust.Catalogue(items, screen=screen)


Make = Callable[[NDArray[Any]], _rust.Catalogue]


def way(instructions: str, screen: Any, dtype: type) -> Make:
    def make(items: NDArray[Any]) -> _rust.Catalogue:
        return with_instructions(instructions, items.astype(dtype), screen)

    return make


WAYS = [
    way(*parts)
    for parts in product(available(), [None, "bytes", "shorts"], [np.float32, np.float16])
]


@given(case=CASES, k=st.integers(1, 80), make=st.sampled_from(WAYS))
def test_top_k_is_the_sorted_list_without_the_seen(case: Case, k: int, make: Make) -> None:
    catalogue = make(case.items)
    numbers, scores = catalogue.top_k(case.queries, case.seen, k, threads=1)
    assert (numbers.dtype, scores.dtype) == (np.int32, np.float32)
    for query, seen in enumerate(case.rows):
        row = case.scores[query].copy()
        row[seen] = -np.inf
        expected = np.argsort(-row, kind="stable")[: len(row) - len(seen)][:k]
        assert numbers[query, : len(expected)].tolist() == expected.tolist()
        np.testing.assert_array_equal(scores[query, : len(expected)], row[expected])
        assert np.all(numbers[query, len(expected) :] == -1)
        assert np.all(scores[query, len(expected) :] == -np.inf)
    again = catalogue.top_k(case.queries, case.seen, k, threads=2)
    for first, second in zip((numbers, scores), again, strict=True):
        np.testing.assert_array_equal(first, second)


@given(case=CASES, make=st.sampled_from(WAYS))
def test_ranks_count_the_unseen_above_and_level_with_the_target(case: Case, make: Make) -> None:
    catalogue = make(case.items)
    counts = catalogue.ranks(case.queries, case.targets, case.seen, threads=1)
    for query, target in enumerate(case.targets):
        others = np.ones(len(case.items), bool)
        others[[target, *case.rows[query]]] = False
        row, bar = case.scores[query][others], case.scores[query][target]
        assert [count[query] for count in counts] == [
            np.sum(row > bar),
            np.sum(row == bar),
            np.sum(others),
        ]
    again = catalogue.ranks(case.queries, case.targets, case.seen, threads=2)
    for first, second in zip(counts, again, strict=True):
        np.testing.assert_array_equal(first, second)


@given(case=CASES, seed=SEEDS, k=st.integers(1, 80), make=st.sampled_from(WAYS))
def test_candidates_take_the_place_of_all_items(case: Case, seed: int, k: int, make: Make) -> None:
    random = np.random.default_rng(seed)
    n_items = len(case.items)
    mask = random.random((len(case.queries), n_items)) < 0.4
    among = csr([np.flatnonzero(row) for row in mask])
    catalogue = make(case.items)
    numbers, scores = catalogue.top_k(case.queries, case.seen, k, among=among)
    greater, equal, candidates = catalogue.ranks(case.queries, case.targets, case.seen, among=among)
    for query, seen in enumerate(case.rows):
        mask[query, seen] = False
        row = np.where(mask[query], case.scores[query], -np.inf)
        expected = np.argsort(-row, kind="stable")[: mask[query].sum()][:k]
        assert numbers[query, : len(expected)].tolist() == expected.tolist()
        np.testing.assert_array_equal(scores[query, : len(expected)], row[expected])
        assert np.all(numbers[query, len(expected) :] == -1)
        mask[query, case.targets[query]] = False
        row, bar = case.scores[query][mask[query]], case.scores[query][case.targets[query]]
        assert (greater[query], equal[query]) == (np.sum(row > bar), np.sum(row == bar))
        assert candidates[query] == mask[query].sum()


@settings(max_examples=6, deadline=None)
@given(seed=SEEDS, n_queries=st.sampled_from([1, 3, 30]), dim=st.sampled_from([3, 64, 100]))
def test_scores_and_ranks_agree_to_the_bit_in_every_way(
    seed: int, n_queries: int, dim: int
) -> None:
    random = np.random.default_rng(seed)
    n_items = 700
    queries = random.standard_normal((n_queries, 2, dim), dtype=np.float32)
    # all sizes, as items of all popularities have
    sizes = random.lognormal(size=(n_items, 1)).astype(np.float32)
    items = random.standard_normal((n_items, dim), dtype=np.float32) * sizes
    items = items.astype(np.float16).astype(np.float32)
    targets = random.integers(0, n_items, n_queries).astype(np.int32)
    seen = nothing_seen(n_queries)
    numbers, scores = WAYS[0](items).top_k(queries, seen, n_items)
    exact = np.einsum("qkd,nd->qkn", queries, items, dtype=np.float64).max(axis=1)
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1), rtol=1e-4, atol=1e-4)
    greater, equal, _ = WAYS[0](items).ranks(queries, targets, seen)
    for query in range(n_queries):
        score = scores[query][numbers[query] == targets[query]]
        assert greater[query] == np.sum(scores[query] > score)
        assert equal[query] == np.sum(scores[query] == score) - 1
    for make in WAYS:
        catalogue = make(items)
        # alone, in a batch, with few places and many, by other numbers of threads
        for rows, k, threads in [(1, n_items, 3), (n_queries, 20, 2), (n_queries, n_items, 1)]:
            found = catalogue.top_k(queries[:rows], nothing_seen(rows), k, threads=threads)
            np.testing.assert_array_equal(found[0], numbers[:rows, :k])
            np.testing.assert_array_equal(found[1], scores[:rows, :k])
        counts = catalogue.ranks(queries, targets, seen)
        np.testing.assert_array_equal(counts[0], greater)
        np.testing.assert_array_equal(counts[1], equal)


def test_a_catalogue_of_equals_gives_no_hit_for_free() -> None:
    queries, items = np.ones((2, 1, 4), np.float32), np.ones((1000, 4), np.float32)
    numbers, _ = _rust.Catalogue(items).top_k(queries, nothing_seen(2), 3)
    assert numbers.tolist() == [[0, 1, 2]] * 2
    greater, equal, candidates = _rust.Catalogue(items).ranks(
        queries, np.array([0, 999], np.int32), nothing_seen(2)
    )
    assert greater.tolist() == [0, 0]
    assert equal.tolist() == candidates.tolist() == [999, 999]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_named_by_row(bad: float) -> None:
    queries, items = np.ones((3, 2, 4), np.float32), np.ones((5, 4), np.float32)
    queries[2, 1, 3] = bad
    with pytest.raises(ValueError, match=r"expected finite queries, got .* in row 2"):
        _rust.Catalogue(items).top_k(queries, nothing_seen(3), 1)
    queries[2, 1, 3], items[4, 0] = 1, bad
    with pytest.raises(ValueError, match=r"expected finite items, got .* in row 4"):
        _rust.Catalogue(items)


def test_scores_that_could_pass_float32_are_refused() -> None:
    huge = np.full((1, 1, 4), 1e25, np.float32)
    with pytest.raises(ValueError, match="inner products fit float32"):
        _rust.Catalogue(huge[0]).top_k(huge, nothing_seen(1), 1)


def test_scoring_says_what_does_not_fit() -> None:
    queries, items = np.ones((2, 1, 4), np.float32), np.ones((5, 4), np.float32)
    seen = nothing_seen(2)
    catalogue = _rust.Catalogue(items)
    with pytest.raises(ValueError, match="k >= 1, got 0"):
        catalogue.top_k(queries, seen, 0)
    with pytest.raises(ValueError, match="width"):
        catalogue.top_k(queries[:, :, :3].copy(), seen, 1)
    with pytest.raises(ValueError, match="length 2, got 1"):
        catalogue.top_k(queries, nothing_seen(1), 1)
    with pytest.raises(ValueError, match=r"candidate offsets .* length 2, got 1"):
        catalogue.top_k(queries, seen, 1, among=nothing_seen(1))
    with pytest.raises(ValueError, match="targets from 0 to 4, got 5"):
        catalogue.ranks(queries, np.array([0, 5], np.int32), seen)
    with pytest.raises(ValueError, match="targets of length 2, got 1"):
        catalogue.ranks(queries, np.array([0], np.int32), seen)
    for row, message in [([0, 5], "from 0 to 4, got 5"), ([1, 1], "sorted"), ([2, 1], "sorted")]:
        with pytest.raises(ValueError, match=message):
            catalogue.top_k(queries, csr([[], row]), 1)
        with pytest.raises(ValueError, match=message):
            catalogue.ranks(queries, np.zeros(2, np.int32), seen, among=csr([[], row]))
    with pytest.raises(ValueError, match="C-contiguous"):
        _rust.Catalogue(np.asfortranarray(items))
    for wrong in (items.astype(np.float64), items[0], [[1.0]]):
        with pytest.raises(ValueError, match="float32 or float16"):
            _rust.Catalogue(wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="bytes or shorts, got words"):
        _rust.Catalogue(items, screen="words")  # pyright: ignore[reportArgumentType]


def test_the_instructions_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    items = np.ones((5, 4), np.float32)
    for name in available():
        assert with_instructions(name, items).instructions == name
    monkeypatch.delenv("RAREC_SIMD", raising=False)
    assert _rust.Catalogue(items).instructions == available()[-1]
    with pytest.raises(ValueError, match=r"\"portable\".*, got \"mmx\""):
        with_instructions("mmx", items)


def test_items_left_out_do_not_come_back_where_places_are_left_over() -> None:
    items = np.arange(40, dtype=np.float32)[:, None]
    seen = csr([range(5, 40)])
    for make in WAYS:
        numbers, scores = make(items).top_k(np.ones((1, 1, 1), np.float32), seen, 8)
        assert numbers.tolist() == [[4, 3, 2, 1, 0, -1, -1, -1]]
        assert scores[0, 5:].tolist() == [-np.inf] * 3
