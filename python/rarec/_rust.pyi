"""The compiled part: thin, strict functions on contiguous arrays of the exact dtype.

Use them through `rarec.selection`, `rarec.evaluation` and `rarec.index`, which check and cast.
Axes: B rows of a batch, C titles, E events, N items, Q queries, K vectors of a query, D width, S
samples, U users, W words in all titles.

A table of seen items is CSR: `seen_offsets` int64 with one more entry than rows, `seen_items` int32
sorted and without repetition inside a row. `threads` is 1 to 1024; None reads `RAREC_NUM_THREADS`,
else takes every processor. No result depends on it. All functions raise ValueError on input that
does not fit, naming the row.
"""

from collections.abc import Sequence
from typing import Literal, Self, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AliasTable",
    "Catalogue",
    "collisions",
    "log_probability",
    "overlaps",
    "sample_negatives",
    "shares_word",
    "stratified_sample",
    "title_words",
    "utf8_title_words",
]

@final
class AliasTable:
    """A distribution over N items, 16 bytes each, that gives an item in constant time.

    Probabilities are held to `1 / (N * 2**32)`; an item with a weight keeps at least that.
    """

    def __new__(
        cls,
        weights: NDArray[np.float64],  # [N]
    ) -> Self:
        """Return the table of a distribution in proportion to `weights`."""
    @staticmethod
    def from_columns(
        columns: NDArray[np.uint64],  # [N]
    ) -> AliasTable:
        """Return the table with these columns: what pickle keeps of one."""
    def __reduce__(self) -> tuple[object, tuple[NDArray[np.uint64]]]: ...

def sample_negatives(
    seen_offsets: NDArray[np.int64],  # [U + 1]
    seen_items: NDArray[np.int32],
    users: NDArray[np.int32],  # [B]
    n: int,
    n_items: int,
    *,
    alias: AliasTable | None = None,
    exclude: NDArray[np.int32] | None = None,  # [E]
    exclude_by_row: NDArray[np.int32] | None = None,  # [B, M]
    seed: int = 0,
    step: int = 0,
    first_row: int = 0,
    out: NDArray[np.int32] | NDArray[np.int64] | None = None,  # [B, n]
    log_q: NDArray[np.float32] | None = None,  # [B, n]
    threads: int | None = None,
) -> NDArray[np.int32] | NDArray[np.int64]:
    """Return `[B, n]` items the row may get, drawn with replacement: `out`, or a new int32 array.

    A row may get what its user has not seen and neither `exclude` nor its row of `exclude_by_row`
    names; -1 there is none. `log_q` is filled with the log of how likely each draw was.
    """

def log_probability(
    seen_offsets: NDArray[np.int64],  # [U + 1]
    seen_items: NDArray[np.int32],
    users: NDArray[np.int32],  # [B]
    items: NDArray[np.int32],  # [B, M]
    n_items: int,
    *,
    alias: AliasTable | None = None,
    exclude: NDArray[np.int32] | None = None,  # [E]
    exclude_by_row: NDArray[np.int32] | None = None,  # [B, M]
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Return `[B, M]`: the log of how likely a draw of the row gives the item; -inf if never."""

def collisions(
    seen_offsets: NDArray[np.int64],  # [U + 1]
    seen_items: NDArray[np.int32],
    users: NDArray[np.int32],  # [B]
    items: NDArray[np.int32],  # [M]
    n_items: int,
    *,
    threads: int | None = None,
) -> NDArray[np.int64]:
    """Return `[P, 2]` sorted pairs (row, column) in which `users[row]` has seen `items[column]`."""

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
            `top_k` alone. Where codes would be slower none are made.
        threads: Number of threads that make the codes.
    """

    def __new__(
        cls,
        items: NDArray[np.float32] | NDArray[np.float16],
        *,
        screen: Literal["bytes", "shorts"] | None = None,
        threads: int | None = None,
    ) -> Self: ...
    @property
    def instructions(self) -> str:
        """Name of the instructions used: those that `RAREC_SIMD` names, or the fastest."""

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
    titles: Sequence[str | None],  # [C]
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
