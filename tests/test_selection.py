from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarec.data import Histories
from rarec.selection import (
    LANGUAGES,
    Samples,
    TitleWords,
    buckets,
    denoise,
    held_out_mask,
    select,
    stop_words,
    training_samples,
    word_overlaps,
)
from rarec.settings import SelectionSettings

TITLES = ["The Lion King", "A Lion in Winter", "Heat", "The King and I", "", "Winter Heat"]
HISTORIES = Histories.from_lists([[0, 1, 2], [], [3, 0, 5, 1], [4]])
ROWS = st.lists(st.lists(st.integers(0, 5), max_size=12), min_size=1, max_size=12)


def planted(n_users: int = 200, n_items: int = 40, seed: int = 0) -> Histories:
    random = np.random.default_rng(seed)
    return Histories.from_lists(
        [random.integers(0, n_items, random.integers(1, 30)).tolist() for _ in range(n_users)]
    )


def titles_of(n_items: int) -> list[str]:
    return [f"word{item % 7} number{item}" for item in range(n_items)]


@given(rows=ROWS, min_history=st.integers(0, 3))
def test_training_samples_are_every_prefix_and_what_came_next(
    rows: list[list[int]], min_history: int
) -> None:
    samples = training_samples(Histories.from_lists(rows), min_history=min_history)
    expected = [
        (user, row[:place], row[place])
        for user, row in enumerate(rows)
        for place in range(min_history, len(row))
    ]
    assert samples.users.tolist() == [user for user, _, _ in expected]
    assert samples.targets.tolist() == [target for _, _, target in expected]
    assert samples.lengths.tolist() == [len(prefix) for _, prefix, _ in expected]
    assert (samples.users.dtype, samples.targets.dtype) == (np.int32, np.int32)
    got = [row.tolist() for row in samples.prefixes(2)]
    assert got == [prefix[-2:] for _, prefix, _ in expected]


@given(rows=ROWS)
def test_histories_as_sets_are_sorted_and_unique(rows: list[list[int]]) -> None:
    sets = Histories.from_lists(rows).sorted_unique()
    assert [row.tolist() for row in sets] == [sorted(set(row)) for row in rows]


def test_samples_are_taken_by_number_or_mask() -> None:
    samples = training_samples(HISTORIES)
    assert len(samples) == 5
    assert samples.take([4, 0]).targets.tolist() == [1, 1]
    assert samples.take(samples.users == 0).targets.tolist() == [1, 2]
    with pytest.raises(ValueError, match="n >= 1, got 0"):
        samples.prefixes(0)
    with pytest.raises(ValueError, match="positions from 0 to 7, got 8 to 8"):
        Samples(HISTORIES, np.array([8]))
    with pytest.raises(ValueError, match="min_history >= 0"):
        training_samples(HISTORIES, min_history=-1)


def test_held_out_events_are_the_targets() -> None:
    samples = training_samples(HISTORIES).take([1, 4])
    assert np.flatnonzero(held_out_mask(samples)).tolist() == [2, 6]
    none = training_samples(HISTORIES).take([])
    assert not held_out_mask(none).any()


def test_overlaps_are_shared_words_without_stop_words() -> None:
    samples = training_samples(HISTORIES)
    # shared words by history and target:
    # [0], 1: lion; [0, 1], 2: none; [3], 0: king; [3, 0], 5: none; [3, 0, 5], 1: lion, winter
    assert word_overlaps(samples, TITLES).tolist() == [1, 0, 1, 0, 2]
    assert denoise(samples, TITLES).tolist() == [True, False, True, False, True]
    assert word_overlaps(samples, TITLES, stop_words=stop_words("none")).tolist() == [1, 0, 2, 0, 2]
    assert word_overlaps(samples, TITLES, max_history=1).tolist() == [1, 0, 1, 0, 1]
    assert word_overlaps(samples, TITLES, stop_words={"LION"}).tolist() == [0, 0, 2, 0, 1]


def test_overlaps_refuse_bad_arguments() -> None:
    samples = training_samples(HISTORIES)
    with pytest.raises(ValueError, match="title for each item, got 3 for 5"):
        word_overlaps(samples, TITLES[:3])
    with pytest.raises(ValueError, match="max_history >= 1, got 0"):
        word_overlaps(samples, TITLES, max_history=0)
    with pytest.raises(ValueError, match=r"language of none, en, .*, zh, got 'english'"):
        word_overlaps(samples, TITLES, stop_words="english")
    with pytest.raises(ValueError, match="titles that are strings, got Int64"):
        TitleWords.read(pl.Series([1]))


def test_titles_are_read_once_for_several_sets_of_samples() -> None:
    samples = training_samples(HISTORIES)
    words = TitleWords.read(TITLES)
    assert len(words) == 6
    for some in (samples, samples.take([2, 4])):
        counts = word_overlaps(some, TITLES)
        np.testing.assert_array_equal(words.overlaps(some), counts)
        np.testing.assert_array_equal(words.shares_word(some, threads=1), counts > 0)
    np.testing.assert_array_equal(words.overlaps(samples, max_history=1), [1, 0, 1, 0, 1])


def test_titles_can_be_of_any_string_type() -> None:
    titles: list[str | None] = [
        *TITLES,
        None,
        "Am\u00e9lie \U0001f981 a longer one than twelve bytes",
    ]
    expected = TitleWords.read(titles, stop_words="none")
    kinds = [
        tuple(titles),
        pl.Series(titles),
        pl.Series(titles).cast(pl.Categorical),
        pl.concat([pl.Series(titles[:3]), pl.Series(titles[3:])], rechunk=False),
        pd.Series(titles, dtype="str"),
        pa.array(titles),
        pa.array(titles, pa.large_string()),
        pa.array(titles, pa.string_view()),
        pa.array([*titles, "x"])[:-1],
        pa.chunked_array([titles[:2], titles[2:]]),
        (title for title in titles),
    ]
    for kind in kinds:
        words = TitleWords.read(kind, stop_words="none")
        np.testing.assert_array_equal(words.offsets, expected.offsets)
        np.testing.assert_array_equal(words.words, expected.words)
    for empty in ([], pl.Series([], dtype=pl.String), pl.Series([])):
        assert len(TitleWords.read(empty)) == 0
    assert TitleWords.read(pl.Series([None, None])).offsets.tolist() == [0, 0, 0]


def test_stop_words_of_other_languages_are_in_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("stop_words")
    assert set(package.LANGUAGE_MAPPING) | {"none"} == set(LANGUAGES)
    assert all(stop_words(language) for language in LANGUAGES if language != "none")
    titles = ["Der L\u00f6we", "der Wald"]
    samples = training_samples(Histories.from_lists([[0, 1]]))
    assert word_overlaps(samples, titles).tolist() == [1]
    assert word_overlaps(samples, titles, stop_words="de").tolist() == [0]
    monkeypatch.setitem(sys.modules, "stop_words", None)
    with pytest.raises(ImportError, match=r'pip install "rarec\[languages\]"'):
        stop_words("de")


@given(rows=ROWS, n_length=st.integers(1, 4), n_popularity=st.integers(1, 4))
def test_buckets_order_samples_by_length_and_popularity(
    rows: list[list[int]], n_length: int, n_popularity: int
) -> None:
    histories = Histories.from_lists(rows)
    samples = training_samples(histories)
    numbers, n_buckets = buckets(samples, 6, n_length=n_length, n_popularity=n_popularity)
    assert numbers.dtype == np.int32
    assert n_buckets == n_length * n_popularity
    if not len(samples):
        return
    assert 0 <= numbers.min() <= numbers.max() < n_buckets
    popularity = histories.counts(6)[samples.targets]
    for value, part in (
        (samples.lengths, numbers // n_popularity),
        (popularity, numbers % n_popularity),
    ):
        order = np.argsort(value, kind="stable")
        assert np.all(np.diff(part[order]) >= 0)
        assert all(len(set(part[value == v].tolist())) == 1 for v in value)


def test_buckets_of_spread_values_are_about_equal() -> None:
    histories = planted(n_users=400)
    numbers, n_buckets = buckets(training_samples(histories), 40, n_length=3, n_popularity=2)
    sizes = np.bincount(numbers, minlength=n_buckets)
    assert sizes.min() > 0.6 * sizes.mean()
    with pytest.raises(ValueError, match="items below 3"):
        buckets(training_samples(histories), 3)
    with pytest.raises(ValueError, match="at least 1 quantile"):
        buckets(training_samples(histories), 40, n_length=0)


@pytest.mark.parametrize("diversify", [True, False])
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3])
def test_a_selection_keeps_its_budget_and_its_rule(fraction: float, diversify: bool) -> None:
    histories = planted()
    config = SelectionSettings(fraction=fraction, diversify=diversify, denoise=True)
    samples, report = select(histories, titles_of(40), config)
    everything = training_samples(histories)
    assert report.n_samples == len(everything)
    assert report.budget == int(fraction * len(everything))
    assert len(samples) == report.n_selected == report.budget
    assert denoise(samples, titles_of(40)).all()
    assert np.all(np.diff(samples.positions) > 0)
    again, _ = select(histories, titles_of(40), config)
    np.testing.assert_array_equal(samples.positions, again.positions)
    other = SelectionSettings(fraction=fraction, diversify=diversify, seed=1)
    assert (
        samples.positions.tolist() != select(histories, titles_of(40), other)[0].positions.tolist()
    )


def test_a_diverse_selection_is_more_even_than_chance() -> None:
    histories = planted(n_users=400)

    def spread(diversify: bool) -> float:
        config = SelectionSettings(fraction=0.1, diversify=diversify, denoise=False)
        samples, _ = select(histories, titles_of(40), config)
        numbers, n = buckets(training_samples(histories), 40)
        held = numbers[np.isin(training_samples(histories).positions, samples.positions)]
        return float(np.bincount(held, minlength=n).std())

    assert spread(True) < spread(False)


@pytest.mark.parametrize("diversify", [True, False])
def test_the_newest_of_each_bucket_can_come_first(diversify: bool) -> None:
    histories = planted(n_users=400)
    every = training_samples(histories)
    ages = histories.offsets[1:][every.users] - every.positions
    numbers, n = buckets(every, 40) if diversify else (np.zeros(len(every), np.int32), 1)
    config = SelectionSettings(fraction=0.1, diversify=diversify)
    random, _ = select(histories, titles_of(40), config)
    newest, report = select(histories, titles_of(40), replace(config, order="newest"))
    chosen = np.isin(every.positions, newest.positions)
    assert chosen.sum() == report.n_selected == len(random)
    # each bucket gives as many samples as with random order, and none is older than one left out
    drawn = np.isin(every.positions, random.positions)
    for bucket in range(n):
        inside = numbers == bucket
        assert (chosen & inside).sum() == (drawn & inside).sum()
        if (chosen & inside).any() and (~chosen & inside).any():
            assert ages[chosen & inside].max() <= ages[~chosen & inside].min()
    assert (
        select(histories, titles_of(40), replace(config, order="newest"))[0].positions.tolist()
        == newest.positions.tolist()
    )


def test_fewer_samples_than_the_budget_are_all_selected_and_the_report_says_so() -> None:
    config = SelectionSettings(fraction=0.8, denoise=True)
    samples, report = select(HISTORIES, TITLES, config)
    assert (report.budget, report.n_denoised, report.n_selected) == (4, 3, 3)
    assert samples.targets.tolist() == [1, 0, 1]
    assert "fewer samples were left than the budget allows" in report.summary()
    assert report.summary().startswith("5 samples; 3 with a target that shares a word")


def test_a_budget_is_a_share_of_all_samples_rounded_down() -> None:
    thirty = Histories.from_lists([[0] * 31])
    _, report = select(thirty, ["a"], SelectionSettings(fraction=0.1, denoise=False))
    assert (report.n_samples, report.budget, report.n_denoised) == (30, 3, None)
    twenty_nine = Histories.from_lists([[0] * 30])
    _, report = select(twenty_nine, ["a"], SelectionSettings(fraction=0.1))
    assert report.budget == 2


def test_a_selection_of_nothing_is_empty() -> None:
    samples, report = select(Histories.from_lists([[], [1]]), ["a", "b"])
    assert len(samples) == report.n_samples == report.n_selected == 0
    assert "0 samples" in report.summary()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fraction": 0.0}, "fraction to be greater than 0"),
        ({"fraction": 1.5}, "fraction to be less than or equal to 1"),
        ({"fraction": float("nan")}, "fraction to be a finite number"),
        ({"seed": -1}, "seed to be greater than or equal to 0"),
        ({"n_length": 0}, "n_length to be greater than or equal to 1"),
        ({"max_history": 0}, "max_history to be greater than or equal to 1"),
        ({"order": "oldest"}, "order to be 'newest' or 'random'"),
    ],
)
def test_a_bad_config_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectionSettings(**values)


def test_an_unknown_language_is_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match="expected a language"):
        select(HISTORIES, [], SelectionSettings(language="x"))


def test_a_selection_needs_a_title_for_each_item() -> None:
    with pytest.raises(ValueError, match="title for each item, got 2 titles"):
        select(HISTORIES, ["a", "b"])
