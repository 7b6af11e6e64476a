"""Denoising: a sample is kept if the title of its target shares a word with those of its history.

This is the data construction of Yu et al. 2024 (arXiv:2402.04527). Axes: S samples, N items,
W words.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rarec import _rust
from rarec.selection.samples import Samples
from rarec.selection.stop_words import as_words

# titles that are joined at once: a single string in polars cannot have 4 GiB
_TITLES_PER_PART = 1 << 20


class ArrowStrings(Protocol):
    """Strings that export the Arrow interface, such as a polars series or a pyarrow array."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the strings as a capsule of the Arrow C stream interface."""
        ...


@dataclass(frozen=True, eq=False)
class TitleWords:
    """The words of N titles as numbers, which can be compared for any number of samples.

    A word is a Unicode word (UAX 29) that has a letter or a digit. Two words are equal if they are
    a compatibility caseless match (Unicode 3.13, D146). So "Stra\u00dfe" equals "STRASSE", a final
    sigma equals a sigma, and "\u0130" equals "i" with a dot above. Characters that `NFKC_Casefold`
    ignores, such as soft hyphens and joiners, are ignored. U+200B is not ignored; it separates
    words. Single curly quotes are read as apostrophes. In scripts without spaces (Chinese, Thai,
    hiragana) each character is a word.

    Attributes:
        offsets: `[N + 1]` int64 positions in `words` where the words of each title start.
        words: `[W]` int32 word numbers, sorted and distinct inside a title. Words are numbered in
            the order of their first occurrence.
    """

    offsets: NDArray[np.int64]
    words: NDArray[np.int32]

    @classmethod
    def read(
        cls,
        titles: Iterable[str | None] | ArrowStrings,
        *,
        stop_words: str | Collection[str] = "en",
        threads: int | None = None,
    ) -> TitleWords:
        """Return the words of titles.

        Args:
            titles: `[N]` strings. A list and a type that exports Arrow strings are the fastest.
                None and null have no words.
            stop_words: Words that are left out: one of `LANGUAGES`, or the words themselves.
            threads: Number of threads; None takes `RAREC_NUM_THREADS`, or all processors if that
                is not set.

        Raises:
            ValueError: If a title is not a string, or if the language has no stop words.

        Example:
            >>> TitleWords.read(["The Lion King", "LION"]).words.tolist()
            [0, 1, 0]
        """
        leave_out = as_words(stop_words)
        if hasattr(titles, "__arrow_c_stream__") or hasattr(titles, "__arrow_c_array__"):
            text, ends = _utf8(titles)
            return cls(*_rust.utf8_title_words(text, ends, leave_out, threads=threads))
        return cls(
            *_rust.title_words(
                list(cast("Iterable[str | None]", titles)), leave_out, threads=threads
            )
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def overlaps(
        self, samples: Samples, *, max_history: int | None = None, threads: int | None = None
    ) -> NDArray[np.int32]:
        """Return `[S]` int32: how many words of the target's title occur in titles of its history.

        Args:
            samples: The samples; their item numbers are places in the list of titles.
            max_history: Number of newest events before the target whose titles are compared; None
                takes all.
            threads: Number of threads, as in `read`.

        Raises:
            ValueError: If an item has no title, or `max_history < 1`.
        """
        return _rust.overlaps(*self._arguments(samples, max_history), threads=threads)

    def shares_word(
        self, samples: Samples, *, max_history: int | None = None, threads: int | None = None
    ) -> NDArray[np.bool_]:
        """Return `[S]` bool: True where `overlaps` is not 0; faster, because it does not count.

        Args:
            samples: The samples, as in `overlaps`.
            max_history: Number of newest events that are compared, as in `overlaps`.
            threads: Number of threads, as in `read`.

        Raises:
            ValueError: If an item has no title, or `max_history < 1`.
        """
        return _rust.shares_word(*self._arguments(samples, max_history), threads=threads)

    def _arguments(self, samples: Samples, max_history: int | None) -> tuple[Any, ...]:
        if max_history is not None and max_history < 1:
            raise ValueError(f"expected max_history >= 1, got {max_history}")
        items = samples.histories.items
        if len(items) and items.max() >= len(self):
            raise ValueError(f"expected a title for each item, got {len(self)} for {items.max()}")
        starts, ends = samples.starts, samples.ends
        if max_history is not None:
            starts = np.maximum(starts, ends - max_history)
        return self.offsets, self.words, items, starts, ends, samples.targets


def _utf8(titles: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the UTF-8 bytes of all titles, and the positions where each title starts."""
    series = pl.Series(titles)
    if series.dtype in (pl.Categorical, pl.Enum, pl.Null):
        series = series.cast(pl.String)
    if series.dtype != pl.String:
        raise ValueError(f"expected titles that are strings, got {series.dtype}")
    series = series.fill_null("")
    # joined, because polars does not store the bytes of its strings one after another
    starts = range(0, len(series), _TITLES_PER_PART)
    slices = (series.slice(start, _TITLES_PER_PART) for start in starts)
    parts = [part.str.join("").cast(pl.Binary).item() for part in slices]
    offsets = np.zeros(len(series) + 1, dtype=np.int64)
    np.cumsum(series.str.len_bytes().to_numpy(), out=offsets[1:])
    return np.frombuffer(b"".join(parts), dtype=np.uint8), offsets


def word_overlaps(
    samples: Samples,
    titles: Iterable[str | None] | ArrowStrings,
    *,
    stop_words: str | Collection[str] = "en",
    max_history: int | None = None,
    threads: int | None = None,
) -> NDArray[np.int32]:
    """Return `[S]` int32: how many words of the target's title occur in titles of its history.

    To compare several sets of samples, call `TitleWords.read` once and then its methods.

    Args:
        samples: The samples.
        titles: `[N]` titles, as in `TitleWords.read`.
        stop_words: Words that are left out, as in `TitleWords.read`.
        max_history: Number of newest events that are compared, as in `TitleWords.overlaps`.
        threads: Number of threads, as in `TitleWords.read`.

    Raises:
        ValueError: If `TitleWords.read` or `TitleWords.overlaps` refuses an argument.
    """
    words = TitleWords.read(titles, stop_words=stop_words, threads=threads)
    return words.overlaps(samples, max_history=max_history, threads=threads)


def denoise(
    samples: Samples,
    titles: Iterable[str | None] | ArrowStrings,
    *,
    stop_words: str | Collection[str] = "en",
    max_history: int | None = None,
    threads: int | None = None,
) -> NDArray[np.bool_]:
    """Return `[S]` bool: True where the target's title shares a word with titles of its history.

    Args:
        samples: The samples.
        titles: `[N]` titles, as in `TitleWords.read`.
        stop_words: Words that are left out, as in `TitleWords.read`.
        max_history: Number of newest events that are compared, as in `TitleWords.overlaps`.
        threads: Number of threads, as in `TitleWords.read`.

    Raises:
        ValueError: If `TitleWords.read` or `TitleWords.shares_word` refuses an argument.
    """
    words = TitleWords.read(titles, stop_words=stop_words, threads=threads)
    return words.shares_word(samples, max_history=max_history, threads=threads)
