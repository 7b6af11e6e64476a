"""Denoising: a sample is kept if its target's title shares a word with its history's titles.

Yu et al. 2024 (arXiv:2402.04527), data construction. Axes: S samples, N items.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from rarec import _rust
from rarec.selection.samples import Samples
from rarec.selection.stop_words import ENGLISH_STOP_WORDS


def word_overlaps(
    samples: Samples,
    titles: Sequence[str],
    *,
    stop_words: Collection[str] = ENGLISH_STOP_WORDS,
    max_history: int | None = None,
    threads: int | None = None,
) -> NDArray[np.int32]:
    """Return `[S]` int32: how many different words of the target's title its history holds.

    A word is what Unicode calls one (UAX 29), compared in NFKC and lower case.

    Args:
        samples: The samples.
        titles: `[N]` the title of each item; an empty one shares no word.
        stop_words: Words that do not count.
        max_history: Only the newest events before the target count; None takes all.
        threads: Number of threads; None takes `RAREC_NUM_THREADS`, else every processor.

    Raises:
        ValueError: If an item has no title, `max_history < 1`, or `stop_words` is one string.
    """
    if isinstance(stop_words, str):
        raise ValueError(f"expected a collection of stop words, got the string {stop_words!r}")
    if max_history is not None and max_history < 1:
        raise ValueError(f"expected max_history >= 1, got {max_history}")
    items = samples.histories.items
    if len(items) and items.max() >= len(titles):
        raise ValueError(f"expected a title for each item, got {len(titles)} for {items.max()}")
    starts, ends = samples.starts, samples.ends
    if max_history is not None:
        starts = np.maximum(starts, ends - max_history)
    offsets, words = _rust.title_words(list(titles), sorted(stop_words))
    return _rust.overlaps(offsets, words, items, starts, ends, samples.targets, threads=threads)


def denoise(
    samples: Samples,
    titles: Sequence[str],
    *,
    stop_words: Collection[str] = ENGLISH_STOP_WORDS,
    max_history: int | None = None,
    threads: int | None = None,
) -> NDArray[np.bool_]:
    """Return `[S]`: True where the target shares at least one word with its history.

    Args:
        samples: The samples.
        titles: `[N]` the title of each item.
        stop_words: As in `word_overlaps`.
        max_history: As in `word_overlaps`.
        threads: As in `word_overlaps`.
    """
    return (
        word_overlaps(
            samples, titles, stop_words=stop_words, max_history=max_history, threads=threads
        )
        > 0
    )
