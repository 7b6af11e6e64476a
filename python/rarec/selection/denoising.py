"""Denoising: a sample is kept if its target's title shares a word with its history's titles.

Yu et al. 2024 (arXiv:2402.04527), data construction. Axes: S samples, N items, W words.
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

# polars holds no string of 4 GiB: titles are put together a part at a time
_PART = 1 << 20


class ArrowStrings(Protocol):
    """Strings that others can read without a copy: a series of polars or pandas, pyarrow's."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the strings as a capsule of the Arrow C stream interface."""
        ...


@dataclass(frozen=True, eq=False)
class TitleWords:
    """The words of N titles as numbers, read once and compared as often as needed.

    A word is what Unicode calls one (UAX 29) if it holds a letter or a digit. Words are compared in
    normal form: equal exactly where they are a compatibility caseless match (Unicode 3.13, D146:
    full case folding between NFD and NFKD, so that "Stra\u00dfe" is "STRASSE" and a final sigma is
    a sigma, while "\u0130" is "i" with a dot above), and apart from what `NFKC_Casefold` ignores,
    such as soft hyphens and joiners, but not U+200B, which parts words. Single curly quotes are
    apostrophes. Scripts without spaces (Chinese, Thai, hiragana) come apart into characters.

    Attributes:
        offsets: `[N + 1]` int64, where each title's words start in `words`.
        words: `[W]` int32, sorted and without repetition inside a title; numbered by first
            occurrence.
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
            titles: `[N]` strings, best a list or anything that exports Arrow strings; None and null
                have no words.
            stop_words: Words that do not count: one of `LANGUAGES`, or the words themselves.
            threads: Number of threads; None takes `RAREC_NUM_THREADS`, else every processor.

        Raises:
            ValueError: If a title is no string, or there are no stop words of that language.

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
        """Return `[S]` int32: how many words of the target's title its history holds.

        Args:
            samples: The samples; their items are numbers of titles.
            max_history: Only the newest events before the target count; None takes all.
            threads: As in `read`.

        Raises:
            ValueError: If an item has no title, or `max_history < 1`.
        """
        return _rust.overlaps(*self._arguments(samples, max_history), threads=threads)

    def shares_word(
        self, samples: Samples, *, max_history: int | None = None, threads: int | None = None
    ) -> NDArray[np.bool_]:
        """Return `[S]`: True where `overlaps` is not 0, found without counting.

        Args:
            samples: As in `overlaps`.
            max_history: As in `overlaps`.
            threads: As in `read`.

        Raises:
            ValueError: As in `overlaps`.
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
    """Return the bytes of all titles, and where each starts."""
    series = pl.Series(titles)
    if series.dtype in (pl.Categorical, pl.Enum, pl.Null):
        series = series.cast(pl.String)
    if series.dtype != pl.String:
        raise ValueError(f"expected titles that are strings, got {series.dtype}")
    series = series.fill_null("")
    # one copy of the bytes: polars keeps long strings apart from short ones
    slices = (series.slice(first, _PART) for first in range(0, len(series), _PART))
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
    """Return `[S]` int32: how many different words of the target's title its history holds.

    Args:
        samples: The samples.
        titles: `[N]` as in `TitleWords.read`, which is worth keeping for more samples than these.
        stop_words: As in `TitleWords.read`.
        max_history: As in `TitleWords.overlaps`.
        threads: As in `TitleWords.read`.

    Raises:
        ValueError: As `TitleWords.read` and `TitleWords.overlaps`.
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
    """Return `[S]`: True where the target shares at least one word with its history.

    Args:
        samples: The samples.
        titles: As in `word_overlaps`.
        stop_words: As in `word_overlaps`.
        max_history: As in `word_overlaps`.
        threads: As in `word_overlaps`.
    """
    words = TitleWords.read(titles, stop_words=stop_words, threads=threads)
    return words.shares_word(samples, max_history=max_history, threads=threads)
