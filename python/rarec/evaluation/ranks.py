"""Exact ranks of targets over the whole catalogue.

Axes: Q queries, K vectors of a query, D vector width, N items.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rarec import _rust
from rarec.data import Histories

TieRule = Literal["average", "optimistic", "pessimistic"]

_FILE = "ranks.safetensors"
# from this number of query vectors on, integer codes of the items save more time than they cost
_SCREENED_FROM = 2000


@dataclass(frozen=True, eq=False)
class Ranks:
    """The position of each query's target among its candidates.

    The candidates of a query are all items except its target and its seen items.

    Attributes:
        greater: `[Q]` int32 number of candidates with a higher score than the target.
        equal: `[Q]` int32 number of candidates with the same score as the target.
        candidates: `[Q]` int32 number of candidates.
    """

    greater: NDArray[np.int32]
    equal: NDArray[np.int32]
    candidates: NDArray[np.int32]

    def __post_init__(self) -> None:
        for name in ("greater", "equal", "candidates"):
            counts = np.asarray(getattr(self, name))
            if counts.ndim != 1 or not np.issubdtype(counts.dtype, np.integer):
                raise ValueError(
                    f"expected whole {name} [Q], got {counts.dtype} {list(counts.shape)}"
                )
            object.__setattr__(self, name, counts.astype(np.int32, copy=False))
        if not len(self.greater) == len(self.equal) == len(self.candidates):
            raise ValueError(
                f"expected as many greater as equal and candidates, "
                f"got {len(self.greater)}, {len(self.equal)} and {len(self.candidates)}"
            )
        above = self.greater.astype(np.int64) + self.equal
        if np.any(self.greater < 0) or np.any(self.equal < 0) or np.any(above > self.candidates):
            row = int(np.argmax((self.greater < 0) | (self.equal < 0) | (above > self.candidates)))
            raise ValueError(
                f"expected greater >= 0, equal >= 0 and greater + equal <= candidates, got "
                f"{self.greater[row]}, {self.equal[row]} and {self.candidates[row]} in row {row}"
            )

    def __len__(self) -> int:
        return len(self.greater)

    def values(self, ties: TieRule = "average") -> NDArray[np.float64]:
        """Return the `[Q]` float64 rank of each target; rank 1 is the best.

        Args:
            ties: Rule for the rank of a target among candidates with the same score: in the middle
                (`"average"`, `1 + greater + equal / 2`), first (`"optimistic"`), or last
                (`"pessimistic"`). If a model gives all items the same score, each target is first
                with the optimistic rule, and in the middle of the catalogue with the average.

        Raises:
            ValueError: If the rule is unknown.
        """
        if ties not in get_args(TieRule):
            raise ValueError(f"expected ties of {list(get_args(TieRule))}, got {ties!r}")
        share = {"average": 0.5, "optimistic": 0.0, "pessimistic": 1.0}[ties]
        return 1.0 + self.greater + share * self.equal

    def take(self, rows: ArrayLike) -> Ranks:
        """Return the ranks of the queries in `rows` (row numbers or a mask)."""
        rows = np.asarray(rows)
        if rows.size == 0 and rows.dtype != np.bool_:
            # NumPy turns an empty list into floats, which it then refuses as an index
            rows = rows.astype(np.int64)
        return Ranks(self.greater[rows], self.equal[rows], self.candidates[rows])


def rank_targets(
    queries: ArrayLike,
    items: ArrayLike,
    targets: ArrayLike,
    seen: Histories | None,
    *,
    among: Histories | None = None,
    threads: int | None = None,
) -> Ranks:
    """Return the exact rank of each query's target among all items that are not seen.

    The score of an item is its inner product with the query. If a query has several vectors, it
    is the largest inner product. All scores are float32 sums over the vector width in the same
    order, so a rank does not depend on the batch. The `[Q, N]` score matrix is never in memory.

    Args:
        queries: `[Q, D]` or `[Q, K, D]` vectors, which are cast to float32.
        items: `[N, D]` vectors of float32 or float16; other types are cast to float32.
        targets: `[Q]` item numbers, of an integer type. A target that is also a seen item is
            ranked like any other.
        seen: Q rows of items that are not candidates, in any order; None excludes no items.
        among: Q rows of candidates; None takes all items. Ranks among a few candidates are too
            good for every model, and can order two models wrongly (Krichene & Rendle 2020).
        threads: Number of threads; None takes `RAREC_NUM_THREADS`, or all processors if that is
            not set.

    Raises:
        ValueError: If shapes do not fit, if a vector is not finite, or if an item is not below N.
    """
    vectors = np.ascontiguousarray(queries, dtype=np.float32)
    table = np.asarray(items)
    table = np.ascontiguousarray(table, table.dtype if table.dtype == np.float16 else np.float32)
    if vectors.ndim == 2:
        vectors = vectors[:, None, :]
    if vectors.ndim != 3 or table.ndim != 2 or vectors.shape[2] != table.shape[1]:
        raise ValueError(
            f"expected queries [Q, D] or [Q, K, D] and items [N, D], "
            f"got {list(np.shape(queries))} and {list(table.shape)}"
        )
    numbers = np.asarray(targets)
    if numbers.shape != vectors.shape[:1]:
        raise ValueError(f"expected {len(vectors)} targets, got {list(numbers.shape)}")
    if len(numbers) and not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"expected whole item numbers as targets, got {numbers.dtype}")
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(table):
        raise ValueError(
            f"expected targets from 0 to {len(table) - 1}, got {numbers.min()} to {numbers.max()}"
        )
    if seen is None:
        seen = Histories(np.zeros(len(vectors) + 1, np.int64), np.empty(0, np.int32))
    for name, rows in (("seen items", seen), ("candidates", among)):
        if rows is not None and len(rows) != len(vectors):
            raise ValueError(f"expected {len(vectors)} rows of {name}, got {len(rows)}")
    # computing the codes takes as long as scoring all items for a few hundred query vectors
    screened = among is None and vectors.shape[0] * vectors.shape[1] >= _SCREENED_FROM
    catalogue = _rust.Catalogue(table, screen="shorts" if screened else None, threads=threads)
    left_out = seen.sorted_unique()
    candidates = None if among is None else among.sorted_unique()
    return Ranks(
        *catalogue.ranks(
            vectors,
            np.ascontiguousarray(numbers, dtype=np.int32),
            (left_out.offsets, left_out.items),
            among=None if candidates is None else (candidates.offsets, candidates.items),
            threads=threads,
        )
    )


def write_ranks(folder: str | os.PathLike[str], ranks: Mapping[str, Ranks], part: str) -> None:
    """Write the ranks of models on the same queries into a folder, completely or not at all.

    Args:
        folder: Folder for the file `ranks.safetensors`. For each model it has a `[3, Q]` int32
            tensor with the rows `greater`, `equal` and `candidates`.
        ranks: Ranks by the name of the model.
        part: Part of the split that the queries belong to: `test` or `validation`.
    """
    target = Path(folder) / _FILE
    temporary = target.with_name(f".{_FILE}.{os.getpid()}")
    tensors = {
        name: np.stack([found.greater, found.equal, found.candidates])
        for name, found in ranks.items()
    }
    try:
        save_file(tensors, temporary, metadata={"part": part})
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def read_ranks(folder: str | os.PathLike[str]) -> tuple[dict[str, Ranks], str]:
    """Return the ranks that `write_ranks` wrote, by model, and the part of the split.

    Raises:
        ValueError: If the folder has no ranks, or if the file cannot be read.
    """
    file = Path(folder) / _FILE
    try:
        with safe_open(file, framework="numpy") as tensors:
            ranks = {name: Ranks(*tensors.get_tensor(name)) for name in tensors.keys()}  # noqa: SIM118
            return ranks, tensors.metadata()["part"]
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected ranks of models, got: {error}") from error
