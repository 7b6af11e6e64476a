"""Words and overlaps against a few lines of Python, and what they refuse."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rarec import _rust
from rarec.data import Histories
from rarec.selection import TitleWords, training_samples

SEEDS = st.integers(0, 2**32 - 1)
SOME = st.sampled_from(
    ["lion", "King", "the", "\u00e9t\u00e9", "2001", "don't", "\u6771", "\ufb01lm", "a" * 30]
)
TITLES = st.lists(st.lists(SOME, max_size=4).map(" ".join), max_size=8)
ASCII = st.text(st.characters(max_codepoint=127), max_size=30)
# whatever is written, and what the rules are about
ANY = st.text(
    st.one_of(
        st.sampled_from("aB1_.,:' \u00df\u0130\u2019\u0301\u30a2"), st.characters(codec="utf-8")
    )
)
# UAX 29 for letters and digits that form words, as most of the languages in titles have them
WORD = re.compile(r"(?:\w|(?<=[^\W\d_])[.':\u00b7](?=[^\W\d_])|(?<=[0-9])[.,;'](?=[0-9]))+")


def form(text: str) -> str:
    """Return the text folded, for texts without ignorable characters."""
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFD", text).casefold())
    return unicodedata.normalize("NFKC", text.casefold()).replace("\u2019", "'")


def words_of(text: str) -> list[str]:
    return [word for word in WORD.findall(form(text)) if word.strip("_.,;:'")]


def read(titles: list[Any], stop_words: list[str] | None = None) -> list[list[int]]:
    offsets, words = _rust.title_words(titles, stop_words or [], threads=1)
    assert (offsets.dtype, words.dtype) == (np.int64, np.int32)
    return [words[start:end].tolist() for start, end in pairwise(offsets)]


def numbered(titles: list[list[str]]) -> list[list[int]]:
    first: dict[str, int] = {}
    return [sorted({first.setdefault(word, len(first)) for word in title}) for title in titles]


def utf8(titles: list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    encoded = [title.encode() for title in titles]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


@given(titles=TITLES, stop_words=st.sampled_from([[], ["the"], ["THE", "lion", "a" * 30]]))
def test_title_words_number_the_words_by_first_occurrence(
    titles: list[str], stop_words: list[str]
) -> None:
    left_out = set(map(form, stop_words))
    expected = [[word for word in words_of(title) if word not in left_out] for title in titles]
    assert read(titles, stop_words) == numbered(expected)


@given(titles=st.lists(ASCII, max_size=6))
def test_words_of_ascii_are_those_of_a_pattern(titles: list[str]) -> None:
    assert read(titles) == numbered([words_of(title) for title in titles])


@given(titles=st.lists(ANY, max_size=6))
def test_a_form_does_not_depend_on_case_or_composition(titles: list[str]) -> None:
    rows = read(titles)
    for other in (
        [unicodedata.normalize("NFD", title) for title in titles],
        [unicodedata.normalize("NFKC", title) for title in titles],
        [form(title) for title in titles],
    ):
        # both kinds in one call, so that the numbers are the same
        assert read([*titles, *other])[len(titles) :] == rows


@given(titles=st.lists(ANY, max_size=6))
def test_utf8_and_lists_and_any_threads_give_the_same(titles: list[str]) -> None:
    expected = _rust.title_words([*titles, None], [])
    for got in (
        _rust.utf8_title_words(*utf8([*titles, ""]), [], threads=2),
        _rust.title_words([*titles, ""], [], threads=2),
    ):
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])


def test_many_titles_are_read_by_several_threads_alike() -> None:
    random = np.random.default_rng(0)
    titles = [" ".join(map(str, row)) for row in random.integers(0, 3000, (20_000, 3)).tolist()]
    one, two = (_rust.title_words(titles, ["7"], threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])


@pytest.mark.parametrize(
    "forms",
    [
        ["Am\u00e9lie", "AME\u0301LIE", "am\u00ad\u00e9lie"],
        ["don't", "Don\u2019t", "DON\uff07T"],
        ["\ufb01lm", "FILM", "\uff46\uff49\uff4c\uff4d"],
        ["\uff12\uff10\uff10\uff11", "2001"],
        ["\u0130stanbul", "i\u0307stanbul"],
        ["Stra\u00dfe", "STRASSE", "STRA\u1e9eE"],
        ["\u039f\u0394\u039f\u03a3", "\u03bf\u03b4\u03bf\u03c2", "\u03bf\u03b4\u03bf\u03c3"],
        ["Lion \U0001f981 (1994)", "1994: LION"],
        ["\u6771\u4eac", "\u4eac \u6771"],
    ],
)
def test_forms_of_a_word_are_one_word(forms: list[str]) -> None:
    rows = read(forms)
    assert len(rows[0]) > 0
    assert all(row == rows[0] for row in rows)


def test_words_that_differ_stay_apart() -> None:
    assert read(["\u0130stanbul", "istanbul", "\u0131stanbul"]) == [[0], [1], [2]]
    assert read(["a\u200bb", "ab"]) == [[0, 1], [2]]


def test_ignored_characters_are_those_of_unicode() -> None:
    regex = pytest.importorskip("regex")
    ignorable = regex.compile(r"\p{Default_Ignorable_Code_Point}")
    codes = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    titles = [f"a{c}b" for c in codes]
    ignored = {c for c, row in zip(codes, read(["ab", *titles])[1:], strict=True) if row == [0]}
    assert ignored == {c for c in codes if ignorable.match(c)} - {"\u200b"}


@given(seed=SEEDS, titles=TITLES.filter(bool), one_start=st.booleans())
def test_overlaps_count_the_words_a_target_shares_with_its_history(
    seed: int, titles: list[str], one_start: bool
) -> None:
    random = np.random.default_rng(seed)
    n_events, n_samples = 30, 40
    items = random.integers(0, len(titles), n_events).astype(np.int32)
    targets = random.integers(0, len(titles), n_samples).astype(np.int32)
    # few different starts, as prefixes of the same histories have, or many
    choices = [0, 3, 17, n_events] if one_start else range(n_events + 1)
    starts = random.choice(choices, n_samples).astype(np.int64)
    ends = random.integers(starts, n_events + 1).astype(np.int64)
    table = _rust.title_words(titles, ["the"])
    counts, shared = (
        function(*table, items, starts, ends, targets, threads=1)
        for function in (_rust.overlaps, _rust.shares_word)
    )
    assert (counts.dtype, shared.dtype) == (np.int32, np.bool_)
    words = [set(words_of(title)) - {"the"} for title in titles]
    for start, end, target, count in zip(starts, ends, targets, counts, strict=True):
        history = set().union(*(words[item] for item in items[start:end]))
        assert count == len(words[target] & history)
    np.testing.assert_array_equal(shared, counts > 0)
    again = _rust.overlaps(*table, items, starts, ends, targets, threads=2)
    np.testing.assert_array_equal(counts, again)


@pytest.mark.parametrize("name", ["ml-100k", "amazon-beauty-2014", "movietweetings-100k"])
def test_overlaps_of_real_titles_are_those_of_sets(shared_data: Path, name: str) -> None:
    items = pl.read_csv(shared_data / name / "items.csv.gz", infer_schema=False)
    titles = items["title"].fill_null("").to_list()
    numbers = items.select("item_id", number=pl.int_range(pl.len(), dtype=pl.Int32))
    events = pl.read_csv(shared_data / name / "interactions.csv.gz", infer_schema=False)
    events = events.join(numbers, on="item_id", maintain_order="left")
    rows = events.group_by("user_id", maintain_order=True).agg("number")["number"].to_list()
    samples = training_samples(Histories.from_lists(rows))
    samples = samples.take(np.random.default_rng(0).permutation(len(samples))[:2000])
    words = [set(words_of(title)) for title in titles]
    assert sum(map(len, words)) > len(titles)
    expected = [
        len(words[target] & set().union(*(words[item] for item in samples.histories.items[a:b])))
        for target, a, b in zip(samples.targets, samples.starts, samples.ends, strict=True)
    ]
    table = TitleWords.read(pl.Series(titles), stop_words="none")
    assert table.overlaps(samples).tolist() == expected
    assert table.shares_word(samples).tolist() == [count > 0 for count in expected]


@pytest.mark.parametrize("function", [_rust.overlaps, _rust.shares_word])
def test_overlaps_say_what_does_not_fit(function: Callable[..., Any]) -> None:
    table = _rust.title_words(["a", "b"], [])

    def run(items: list[int], starts: list[int], ends: list[int], targets: list[int]) -> Any:
        return function(
            *table,
            np.array(items, np.int32),
            np.array(starts, np.int64),
            np.array(ends, np.int64),
            np.array(targets, np.int32),
        )

    assert run([0, 1], [0], [2], [1]).tolist() == [1]
    with pytest.raises(ValueError, match="items from 0 to 1, got 2"):
        run([0, 2], [0], [2], [1])
    with pytest.raises(ValueError, match=r"items from 0 to 1, got -3 \(row 5000\)"):
        run([0] * 5000 + [-3], [0], [2], [1])
    with pytest.raises(ValueError, match="targets from 0 to 1, got -1"):
        run([0, 1], [0], [2], [-1])
    with pytest.raises(ValueError, match="0 <= start <= end <= 2 in row 0, got 1 and 3"):
        run([0, 1], [1], [3], [0])
    with pytest.raises(ValueError, match="starts of length 1, got 2"):
        run([0, 1], [0, 0], [2], [0])
    none, empty = np.zeros(0, np.int32), np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="offsets that start at 0"):
        function(table[0][1:].copy(), table[1], none, empty, empty, none)
    with pytest.raises(ValueError, match="words of title 0 sorted"):
        function(np.array([0, 2]), np.array([1, 1], np.int32), none, empty, empty, none)


def test_titles_say_what_does_not_fit() -> None:
    titles: list[Any] = ["a", 3]
    with pytest.raises(ValueError, match=r"titles of str .* in row 1, got 3"):
        _rust.title_words(titles, [])
    with pytest.raises(ValueError, match=r"titles of str .* in row 0, got '\\ud800'"):
        _rust.title_words(["\ud800"], [])
    with pytest.raises(ValueError, match="threads from 1"):
        _rust.title_words([], [], threads=0)
    text = np.frombuffer("a\u00e9".encode(), np.uint8)
    with pytest.raises(ValueError, match="UTF-8 in row 0 of titles"):
        _rust.utf8_title_words(text, np.array([0, 2, 3]), [])
    for offsets in ([0, 2], [0, 4, 3], [1, 3], []):
        with pytest.raises(ValueError, match="offsets that start at 0"):
            _rust.utf8_title_words(text, np.array(offsets, np.int64), [])
