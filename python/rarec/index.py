"""The item index: vectors of all items, searched exactly for the best items of a query.

Axes: Q queries, K vectors of a query, D vector width, N items.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rarec import _rust
from rarec.artifacts import read_config, write_config, write_folder
from rarec.data import Histories

FORMAT = "rarec.index/1"
_VECTORS = "vectors.safetensors"
_ITEMS = "items.json"
# from this number of items on, the byte codes save enough time to be worth their memory
_SCREENED_FROM = 20_000


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item_id: Identifier of the item, as the source has it.
        title: Title of the item; empty if it has none.
        score: Inner product with the query. If the query has several vectors, it is the largest
            one.
    """

    item_id: str
    title: str
    score: float


class ItemIndex:
    """Item vectors with their identifiers and titles, and an exact search for the best items.

    Attributes:
        vectors: `[N, D]` float32 or float16, read-only.
        item_ids: N distinct identifiers.
        titles: N titles.
    """

    def __init__(
        self,
        vectors: ArrayLike,
        item_ids: Sequence[str],
        titles: Sequence[str],
        *,
        screen: bool | None = None,
    ) -> None:
        """Check the vectors and build the index.

        Args:
            vectors: `[N, D]` finite values. float16 is kept and takes half the memory; other types
                are cast to float32. The array is not copied if this is possible, so do not change
                it afterwards.
            item_ids: N distinct identifiers.
            titles: N titles.
            screen: Whether to store a byte code for each value of the vectors. With the codes,
                `top_k` is two to three times as fast on large catalogues and has the same results.
                None stores them from 20,000 items on.

        Raises:
            ValueError: If the lengths differ, if a value is not finite, or if an identifier
                occurs twice.
        """
        table = np.asarray(vectors)
        dtype = table.dtype if table.dtype == np.float16 else np.float32
        # a view, so that the array of the caller can still be written to
        table = np.ascontiguousarray(table, dtype).view()
        table.setflags(write=False)
        if table.ndim != 2 or table.shape[1] == 0:
            raise ValueError(f"expected vectors [N, D] with D > 0, got {list(table.shape)}")
        if not len(table) == len(item_ids) == len(titles):
            raise ValueError(
                f"expected as many vectors as ids and titles, "
                f"got {len(table)}, {len(item_ids)} and {len(titles)}"
            )
        self.vectors: NDArray[np.float32] | NDArray[np.float16] = table
        self.item_ids = list(item_ids)
        self.titles = list(titles)
        self._numbers = {item_id: number for number, item_id in enumerate(self.item_ids)}
        if len(self._numbers) != len(self.item_ids):
            repeated = next(
                item_id
                for number, item_id in enumerate(self.item_ids)
                if self._numbers[item_id] != number
            )
            raise ValueError(f"expected each item id once, got {repeated!r} twice")
        if screen is None:
            screen = len(table) >= _SCREENED_FROM
        try:
            self._catalogue = _rust.Catalogue(table, screen="bytes" if screen else None)
        except ValueError as error:
            for vector, item_id in zip(table, self.item_ids, strict=True):
                if not np.isfinite(vector).all():
                    raise ValueError(
                        f"expected finite vectors, got {vector} for {item_id!r}"
                    ) from error
            raise

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def instructions(self) -> str:
        """Instruction set that the search uses: `avx512`, `avx2`, `neon` or `portable`."""
        return self._catalogue.instructions

    def number(self, item_id: str) -> int:
        """Return the number of an item, which is its row in `vectors`.

        Raises:
            ValueError: If the item is not in the index.
        """
        if item_id not in self._numbers:
            raise ValueError(f"expected an item of the index, got {item_id!r}")
        return self._numbers[item_id]

    def top_k(
        self,
        queries: ArrayLike,
        k: int,
        *,
        exclude: Histories | None = None,
        among: Histories | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return `[Q, k]` int32 item numbers and `[Q, k]` float32 scores, best first.

        Of two items with the same score, the one with the lower number comes first. If a row has
        fewer than `k` candidates, the rest of the row has the number -1 and the score minus
        infinity. The search is exact. The `[Q, N]` score matrix is never in memory.

        Args:
            queries: `[Q, D]` or `[Q, K, D]` vectors, which are cast to float32. With K vectors, the
                score of an item is its largest inner product.
            k: Number of items to return for each query, at least 1.
            exclude: Q rows of item numbers that are not returned, in any order; None excludes no
                items.
            among: Q rows of candidate item numbers, in any order, for example to rank again the
                items that another system has recommended; None takes all items.
            threads: Number of threads; None takes `RAREC_NUM_THREADS`, or all processors if that
                is not set.

        Raises:
            ValueError: If shapes do not fit, if a query is not finite, or if an item of `exclude`
                or `among` is not in the index.
        """
        table = np.ascontiguousarray(queries, dtype=np.float32)
        if table.ndim == 2:
            table = table[:, None, :]
        if table.ndim != 3 or table.shape[2] != self.vectors.shape[1]:
            raise ValueError(
                f"expected queries [Q, {self.vectors.shape[1]}] or "
                f"[Q, K, {self.vectors.shape[1]}], got {list(np.shape(queries))}"
            )
        if k < 1:
            raise ValueError(f"expected k >= 1, got {k}")
        if exclude is None:
            exclude = Histories(np.zeros(len(table) + 1, np.int64), np.empty(0, np.int32))
        for name, rows in (("exclude", exclude), ("search among", among)):
            if rows is not None and len(rows) != len(table):
                raise ValueError(f"expected {len(table)} rows to {name}, got {len(rows)}")
        left_out = exclude.sorted_unique()
        candidates = None if among is None else among.sorted_unique()
        return self._catalogue.top_k(
            table,
            (left_out.offsets, left_out.items),
            k,
            among=None if candidates is None else (candidates.offsets, candidates.items),
            threads=threads,
        )

    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        exclude: Histories | None = None,
        among: Histories | None = None,
        threads: int | None = None,
    ) -> list[list[Recommendation]]:
        """Return for each query its `k` best items, best first, or fewer if there are not so many.

        Args:
            queries: `[Q, D]` or `[Q, K, D]` vectors, as in `top_k`.
            k: Largest number of items for a query, at least 1.
            exclude: Q rows of item numbers that are not returned, as in `top_k`.
            among: Q rows of candidate item numbers, as in `top_k`.
            threads: Number of threads, as in `top_k`.

        Raises:
            ValueError: If `top_k` refuses an argument.
        """
        # a large `k` must not allocate memory for more places than there are items
        k = min(k, max(len(self), 1))
        numbers, scores = self.top_k(queries, k, exclude=exclude, among=among, threads=threads)
        return [
            [
                Recommendation(self.item_ids[number], self.titles[number], score)
                for number, score in zip(row.tolist(), row_scores.tolist(), strict=True)
                if number >= 0
            ]
            for row, row_scores in zip(numbers, scores, strict=True)
        ]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the index into a folder, either completely or not at all.

        Args:
            folder: A new folder, an empty one, or an artifact that rarec wrote and that is
                replaced.

        Raises:
            ValueError: If the folder holds something else.
        """
        with write_folder(folder) as temporary:
            n_items, width = self.vectors.shape
            write_config(temporary, FORMAT, {"n_items": n_items, "width": width})
            save_file({"vectors": self.vectors}, temporary / _VECTORS)
            items = {"item_ids": self.item_ids, "titles": self.titles}
            # a text from the command line may have surrogate escapes
            text = json.dumps(items, ensure_ascii=False).encode("utf-8", "surrogatepass")
            (temporary / _ITEMS).write_bytes(text)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ItemIndex:
        """Return the index that `save` wrote into `folder`.

        Raises:
            ValueError: If the folder holds no index, or if its files do not fit together.
        """
        config = read_config(folder, FORMAT)
        try:
            vectors = load_file(Path(folder) / _VECTORS)["vectors"]
            text = (Path(folder) / _ITEMS).read_bytes().decode("utf-8", "surrogatepass")
            items = json.loads(text)
            index = cls(vectors, items["item_ids"], items["titles"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"expected a complete index in {folder}, got: {error}") from error
        if list(vectors.shape) != [config.get("n_items"), config.get("width")]:
            raise ValueError(
                f"expected vectors of the size in {folder}/config.json, got {list(vectors.shape)}"
            )
        return index

    def export_faiss(self) -> Any:
        """Return a `faiss.IndexFlatIP` with the same vectors in the same order.

        Raises:
            ImportError: If faiss is not installed.
        """
        try:
            import faiss  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                "expected faiss for export_faiss, got none; run pip install faiss-cpu"
            ) from error
        index = faiss.IndexFlatIP(self.vectors.shape[1])
        index.add(np.asarray(self.vectors, np.float32))
        return index
