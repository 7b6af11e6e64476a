"""Every compiled function against a few lines of NumPy, and what it refuses."""

from __future__ import annotations

import multiprocessing
import unicodedata
from itertools import pairwise
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


WORDS = st.sampled_from(["lion", "King", "the", "été", "2001", "don't", "東", "ﬁlm"])
TITLES = st.lists(st.lists(WORDS, max_size=4).map(" ".join), max_size=8)


def word_sets(titles: list[str], stop_words: list[str]) -> list[set[str]]:
    def form(text: str) -> str:
        return unicodedata.normalize("NFKC", text).lower()

    return [{form(word) for word in title.split()} - set(stop_words) for title in titles]


@given(titles=TITLES, stop_words=st.sampled_from([[], ["the"], ["the", "lion"]]))
def test_title_words_number_the_words_by_first_occurrence(
    titles: list[str], stop_words: list[str]
) -> None:
    offsets, words = _rust.title_words(titles, stop_words)
    assert (offsets.dtype, words.dtype) == (np.int64, np.int32)
    rows = [words[start:end].tolist() for start, end in pairwise(offsets)]
    expected = word_sets(titles, stop_words)
    assert rows == [sorted(set(row)) for row in rows]
    assert [len(row) for row in rows] == [len(row) for row in expected]
    first: dict[str, int] = {}
    for title, row in zip(titles, expected, strict=True):
        for word in sorted(row, key=lambda w: unicodedata.normalize("NFKC", title).lower().find(w)):
            first.setdefault(word, len(first))
    assert [{first[word] for word in row} for row in expected] == [set(row) for row in rows]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Am\u00e9lie", "AME\u0301LIE"),
        ("don't", "Don\u2019t"),
        ("\ufb01lm", "FILM"),
        ("\uff12\uff10\uff10\uff11", "2001"),
        ("\u0130stanbul", "i\u0307stanbul"),
        ("Lion (1994)", "1994: LION"),
    ],
)
def test_forms_of_a_word_are_one_word(first: str, second: str) -> None:
    offsets, words = _rust.title_words([first, second], [])
    row = words[: offsets[1]].tolist()
    assert row == words[offsets[1] :].tolist()
    assert len(row) > 0


@given(seed=SEEDS, titles=TITLES.filter(bool))
def test_overlaps_count_the_words_a_target_shares_with_its_history(
    seed: int, titles: list[str]
) -> None:
    random = np.random.default_rng(seed)
    n_events, n_samples = 30, 40
    items = random.integers(0, len(titles), n_events).astype(np.int32)
    targets = random.integers(0, len(titles), n_samples).astype(np.int32)
    # few different starts, as prefixes of the same histories have
    starts = random.choice([0, 3, 17, n_events], n_samples).astype(np.int64)
    ends = random.integers(starts, n_events + 1).astype(np.int64)
    table = _rust.title_words(titles, ["the"])
    counts = _rust.overlaps(*table, items, starts, ends, targets, threads=1)
    assert counts.dtype == np.int32
    words = word_sets(titles, ["the"])
    for start, end, target, count in zip(starts, ends, targets, counts, strict=True):
        history = set().union(*(words[item] for item in items[start:end]))
        assert count == len(words[target] & history)
    again = _rust.overlaps(*table, items, starts, ends, targets, threads=2)
    np.testing.assert_array_equal(counts, again)


def test_overlaps_say_what_does_not_fit() -> None:
    table = _rust.title_words(["a", "b"], [])

    def run(items: list[int], starts: list[int], ends: list[int], targets: list[int]) -> Any:
        return _rust.overlaps(
            *table,
            np.array(items, np.int32),
            np.array(starts, np.int64),
            np.array(ends, np.int64),
            np.array(targets, np.int32),
        )

    assert run([0, 1], [0], [2], [1]).tolist() == [1]
    with pytest.raises(ValueError, match="items from 0 to 1, got 2"):
        run([0, 2], [0], [2], [1])
    with pytest.raises(ValueError, match="targets from 0 to 1, got -1"):
        run([0, 1], [0], [2], [-1])
    with pytest.raises(ValueError, match="0 <= start <= end <= 2 in row 0, got 1 and 3"):
        run([0, 1], [1], [3], [0])
    with pytest.raises(ValueError, match="starts of length 1, got 2"):
        run([0, 1], [0, 0], [2], [0])
    none, empty = np.zeros(0, np.int32), np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="offsets that start at 0"):
        _rust.overlaps(table[0][1:].copy(), table[1], none, empty, empty, none)


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
