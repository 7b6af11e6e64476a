r"""Words of titles and overlaps, one thread each, and on two threads against one.

1,000,000 titles of 12 words on average, out of 100,000 words whose frequency falls as a power of
their rank; about half the titles are not ASCII. Samples have histories of 10 to 70 titles (40 on
average), drawn evenly, with starts of their own; about a fifth share no word with theirs. Peers
that would take minutes for a million samples race on part of them, named in the job's docstring,
and ours on the same part. The words are such that `[\p{L}\p{N}_]+` finds the same as UAX 29.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from rarec import _rust

N_TITLES, N_WORDS, N_TEXT = 1_000_000, 100_000, 50_000
WORD = r"[\p{L}\p{N}_]+"

Table = tuple[NDArray[np.int64], NDArray[np.int32]]
Samples = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]


def offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)])


@cache
def titles() -> list[str]:
    random = np.random.default_rng(0)
    alphabets = [
        list("abcdefghijklmnopqrstuvwxyz"),
        list("aéèöüçñåøbdfglmnrst"),
        list("абвгдежзик"),
    ]
    # every 18th word: with 12 of them, about half the titles
    kinds = np.where(random.random(N_WORDS) < 1 / 18, random.integers(1, 3, N_WORDS), 0)
    words = np.array(
        [
            "".join(random.choice(alphabets[kind], length))
            for kind, length in zip(kinds, random.integers(2, 11, N_WORDS), strict=True)
        ],
        dtype=object,
    )
    capital = random.random(N_WORDS) < 0.4
    words[capital] = [word.capitalize() for word in words[capital]]
    shares = np.arange(1.0, N_WORDS + 1) ** -0.78
    ends = offsets(1 + random.poisson(11, N_TITLES))
    drawn = words[random.choice(N_WORDS, ends[-1], p=shares / shares.sum())].tolist()
    return [" ".join(drawn[start:end]) for start, end in pairwise(ends.tolist())]


@cache
def table() -> Table:
    return _rust.title_words(titles(), [], threads=1)


@cache
def samples(n: int, n_titles: int = N_TITLES) -> Samples:
    """Return items, starts, ends and targets of `n` samples."""
    random = np.random.default_rng(1)
    ends = offsets(random.integers(10, 71, n))
    items = random.integers(0, n_titles, ends[-1]).astype(np.int32)
    targets = random.integers(0, n_titles, n).astype(np.int32)
    return items, ends[:-1].copy(), ends[1:].copy(), targets


def ours(function: Callable[..., object], data: Samples, threads: int) -> Callable[[], object]:
    words = table()
    return lambda: function(*words, *data, threads=threads)


def race_threads(race: Callable[..., None], job: str, run: Callable[[int], object]) -> None:
    one = {"one_thread": lambda: run(1)}
    race(job, lambda: run(2), one, rounds=5, clock=time.perf_counter)


def polars_words(texts: pl.Series) -> pl.Series:
    return texts.str.to_lowercase().str.extract_all(WORD)


def test_tokenise(race: Callable[..., None]) -> None:
    """All titles; the peer makes lists of strings, ours sorted numbers of different words."""
    texts, strings = titles(), pl.Series(titles())
    counts = polars_words(strings[:50_000]).list.n_unique().to_numpy()
    np.testing.assert_array_equal(np.diff(table()[0][:50_001]), counts)

    def run() -> object:
        return _rust.title_words(texts, [], threads=1)

    race("tokenise_1m", run, {"polars": lambda: polars_words(strings)}, rounds=3)


def test_tokenise_threads(race: Callable[..., None]) -> None:
    texts = titles()
    race_threads(race, "tokenise_1m", lambda n: _rust.title_words(texts, [], threads=n))


def scipy_counts(words: Any, data: Samples, block: int = 25_000) -> NDArray[np.int64]:
    """Return how many of a target's words have a count above 0 in the sum over its history."""
    items, starts, ends, targets = data
    counts = []
    for first in range(0, len(targets), block):
        last = min(first + block, len(targets))
        part = items[starts[first] : ends[last - 1]]
        rows = offsets(ends[first:last] - starts[first:last])
        shape = (last - first, words.shape[0])
        history: Any = csr_array((np.ones(len(part), np.int32), part, rows), shape=shape)
        shared: Any = (history @ words).multiply(words[targets[first:last]])
        counts.append(shared.count_nonzero(axis=1))
    return np.concatenate(counts)


def test_overlap_count(race: Callable[..., None]) -> None:
    """The peer race is on 250,000 of the 1,000,000 samples, over all titles."""
    ends, numbers = table()
    shape = (N_TITLES, int(numbers.max()) + 1)
    words = csr_array((np.ones(len(numbers), np.int32), numbers, ends), shape=shape)
    data = samples(250_000)
    expected = scipy_counts(words, data)
    np.testing.assert_array_equal(_rust.overlaps(*table(), *data, threads=1), expected)
    assert 0.15 < np.mean(expected == 0) < 0.3
    peers = {"scipy": lambda: scipy_counts(words, data)}
    race("overlap_count_1m", ours(_rust.overlaps, data, 1), peers, rounds=3)


def test_overlap_count_threads(race: Callable[..., None]) -> None:
    everything = samples(1_000_000)
    race_threads(race, "overlap_count_1m", lambda n: ours(_rust.overlaps, everything, n)())


def test_overlap_any(race: Callable[..., None]) -> None:
    """The peer race is on 500,000 of the 1,000,000 samples, over all titles, sets made before."""
    ends, numbers = (array.tolist() for array in table())
    sets = [frozenset(numbers[start:end]) for start, end in pairwise(ends)]
    data = samples(500_000)
    items, starts, stops, targets = (array.tolist() for array in data)

    def peer() -> list[bool]:
        shared = []
        for start, stop, target in zip(starts, stops, targets, strict=True):
            apart = sets[target].isdisjoint
            shared.append(not all(apart(sets[item]) for item in items[start:stop]))
        return shared

    np.testing.assert_array_equal(_rust.shares_word(*table(), *data, threads=1), peer())
    race("overlap_any_1m", ours(_rust.shares_word, data, 1), {"sets": peer}, rounds=3)


def test_overlap_any_threads(race: Callable[..., None]) -> None:
    everything = samples(1_000_000)
    race_threads(race, "overlap_any_1m", lambda n: ours(_rust.shares_word, everything, n)())


def text_overlaps(threads: int) -> NDArray[np.int32]:
    words = _rust.title_words(titles()[:N_TEXT], [], threads=threads)
    return _rust.overlaps(*words, *samples(N_TEXT, N_TEXT), threads=threads)


def test_overlap_text(race: Callable[..., None]) -> None:
    """From text to counts, both on 50,000 titles and 50,000 samples: the peer works per sample."""
    n = N_TEXT
    strings = pl.Series(titles()[:n])
    items, starts, stops, targets = samples(n, n)

    def peer() -> NDArray[np.uint32]:
        rows = np.repeat(np.arange(n), stops - starts)
        frame = pl.DataFrame({"sample": rows, "title": strings.gather(items)})
        history = frame.group_by("sample", maintain_order=True).agg(pl.col("title").str.join(" "))
        words = {
            "target": polars_words(strings.gather(targets)),
            "history": polars_words(history["title"]),
        }
        shared = pl.col("target").list.set_intersection("history").list.len()
        return pl.DataFrame(words).select(shared).to_series().to_numpy()

    np.testing.assert_array_equal(text_overlaps(1), peer())
    race("overlap_text", lambda: text_overlaps(1), {"polars": peer}, rounds=3)


def test_overlap_text_threads(race: Callable[..., None]) -> None:
    race_threads(race, "overlap_text", text_overlaps)


def test_stratified(race: Callable[..., None]) -> None:
    random = np.random.default_rng(2)
    buckets = random.integers(0, 60, 1_000_000).astype(np.int32)
    frame = pd.DataFrame({"bucket": buckets})

    def run() -> NDArray[np.int64]:
        return _rust.stratified_sample(buckets, 60, 60 * 2000, 0)

    def peer() -> Any:
        return frame.groupby("bucket").sample(2000, random_state=0)

    assert np.all(np.bincount(buckets[run()], minlength=60) == 2000)
    assert np.all(peer()["bucket"].value_counts() == 2000)
    race("stratified_60x2000", run, {"pandas": peer})
