"""The compiled part: thin, strict functions on contiguous arrays of the exact dtype.

Use them through `rarec.selection`, `rarec.evaluation` and `rarec.index`, which check and cast.
Axes: B rows of a batch, C titles, E events, N items, Q queries, K vectors of a query, D width, S
samples, U users, W words in all titles.

A table of seen items is CSR: `seen_offsets` int64 with one more entry than rows, `seen_items` int32
sorted and without repetition inside a row. `threads` is 1 to 1024; None reads `RAREC_NUM_THREADS`,
else takes every processor. No result depends on it. All functions raise ValueError on input that
does not fit, naming the row.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "alias_table",
    "overlaps",
    "ranks",
    "sample_negatives",
    "shares_word",
    "stratified_sample",
    "title_words",
    "top_k",
    "utf8_title_words",
]

def alias_table(
    weights: NDArray[np.float64],  # [N]
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return `(keep, other)`: draws in constant time, in proportion to `weights`."""

def sample_negatives(
    seen_offsets: NDArray[np.int64],  # [U + 1]
    seen_items: NDArray[np.int32],
    users: NDArray[np.int32],  # [B]
    n: int,
    n_items: int,
    *,
    alias: tuple[NDArray[np.float64], NDArray[np.int32]] | None = None,
    seed: int = 0,
    step: int = 0,
    first_row: int = 0,
    threads: int | None = None,
) -> NDArray[np.int32]:
    """Return `[B, n]` items the row's user has not seen, drawn with replacement."""

def stratified_sample(
    buckets: NDArray[np.int32],  # [S]
    n_buckets: int,
    budget: int,
    seed: int,
) -> NDArray[np.int64]:
    """Return `[budget]` sorted sample numbers, as even over the buckets as they allow."""

def top_k(
    queries: NDArray[np.float32],  # [Q, K, D]
    items: NDArray[np.float32],  # [N, D]
    seen_offsets: NDArray[np.int64],  # [Q + 1]
    seen_items: NDArray[np.int32],
    k: int,
    *,
    threads: int | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return `[Q, k]` numbers and scores of the best unseen items, best first; -1 where none."""

def ranks(
    queries: NDArray[np.float32],  # [Q, K, D]
    items: NDArray[np.float32],  # [N, D]
    targets: NDArray[np.int32],  # [Q]
    seen_offsets: NDArray[np.int64],  # [Q + 1]
    seen_items: NDArray[np.int32],
    *,
    threads: int | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Return `[Q]` counts: unseen items above the target, level with it, and in all."""

def title_words(
    titles: list[str | None],  # [C]
    stop_words: list[str],
    *,
    threads: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return offsets `[C + 1]` and word numbers `[W]`, sorted and unique inside a title."""

def utf8_title_words(
    text: NDArray[np.uint8],
    text_offsets: NDArray[np.int64],  # [C + 1]
    stop_words: list[str],
    *,
    threads: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return what `title_words` does, of titles that are UTF-8 one after the other."""

def overlaps(
    word_offsets: NDArray[np.int64],  # [C + 1]
    words: NDArray[np.int32],  # [W]
    items: NDArray[np.int32],  # [E]
    starts: NDArray[np.int64],  # [S]
    ends: NDArray[np.int64],  # [S]
    targets: NDArray[np.int32],  # [S]
    *,
    threads: int | None = None,
) -> NDArray[np.int32]:
    """Return `[S]`: the target's words that occur in a title of `items[starts:ends]`."""

def shares_word(
    word_offsets: NDArray[np.int64],  # [C + 1]
    words: NDArray[np.int32],  # [W]
    items: NDArray[np.int32],  # [E]
    starts: NDArray[np.int64],  # [S]
    ends: NDArray[np.int64],  # [S]
    targets: NDArray[np.int32],  # [S]
    *,
    threads: int | None = None,
) -> NDArray[np.bool_]:
    """Return `[S]`: whether any word of the target occurs in a title of `items[starts:ends]`."""
