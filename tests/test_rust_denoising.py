"""Words and overlaps against a few lines of Python, and what they refuse."""

from __future__ import annotations

import unicodedata
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rarec import _rust

SEEDS = st.integers(0, 2**32 - 1)
NONE_SEEN = np.empty(0, np.int32)
WORDS = st.sampled_from(["lion", "King", "the", "été", "2001", "don't", "東", "ﬁlm"])
TITLES = st.lists(st.lists(WORDS, max_size=4).map(" ".join), max_size=8)


def csr(rows: list[Any]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
    return offsets, np.concatenate([NONE_SEEN, *rows]).astype(np.int32)


def nothing_seen(n: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    return csr([[]] * n)


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
