"""The compiled part: thin, strict functions on contiguous arrays of the exact dtype.

Use them through `rarec.selection`, `rarec.evaluation` and `rarec.index`, which check and cast.
Axes: B rows of a batch, C titles, E events, N items, Q queries, K vectors of a query, D width, S
samples, U users, W words in all titles.

A table of seen items is CSR: `seen_offsets` int64 with one more entry than rows, `seen_items` int32
sorted and without repetition inside a row. `threads` is 1 to 1024; None reads `RAREC_NUM_THREADS`,
else takes every processor. No result depends on it. All functions raise ValueError on input that
does not fit, naming the row.
"""

from typing import Literal, Self, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Catalogue",
    "alias_table",
    "overlaps",
    "sample_negatives",
    "stratified_sample",
    "title_words",
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

@final
class Catalogue:
    """Item vectors `[N, D]`, checked once, and what makes searching them quick.

    The array must not be written to while the catalogue lives. Scores are float32: for each of a
    query's vectors one chain of fused multiply-adds over the width, and the largest of these.
    Neither the screen nor the instructions change a result.

    Args:
        items: float32 or float16, C-contiguous.
        screen: "bytes" or "shorts": also keep integer codes, which bound every score, so that few
            items are scored in float32. They take about D or 2 D bytes an item. Bytes serve
            `top_k` alone. Instructions that are slower with codes get none, unless named.
        instructions: "portable", "neon", "avx2" or "avx512"; None reads `RAREC_SIMD`, else takes the best.
        threads: Number of threads that make the codes.
    """

    def __new__(
        cls,
        items: NDArray[np.float32] | NDArray[np.float16],
        *,
        screen: Literal["bytes", "shorts"] | None = None,
        instructions: str | None = None,
        threads: int | None = None,
    ) -> Self: ...
    @property
    def instructions(self) -> str:
        """Name of the instructions used."""

    @property
    def screen_bytes(self) -> int:
        """Memory of the codes in bytes; 0 without."""

    def top_k(
        self,
        queries: NDArray[np.float32],  # [Q, K, D]
        seen: tuple[NDArray[np.int64], NDArray[np.int32]],
        k: int,
        *,
        among: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return `[Q, k]` numbers and scores of the best unseen items, best first; -1 where none.

        With `among`, a table like that of the seen, of each query's own candidates only.
        """

    def ranks(
        self,
        queries: NDArray[np.float32],  # [Q, K, D]
        targets: NDArray[np.int32],  # [Q]
        seen: tuple[NDArray[np.int64], NDArray[np.int32]],
        *,
        among: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Return `[Q]` counts: unseen items above the target, level with it, and in all."""

def title_words(
    titles: list[str],  # [C]
    stop_words: list[str],
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return offsets `[C + 1]` and word numbers `[W]`, sorted and unique inside a title."""

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
