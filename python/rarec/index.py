"""The index that serves: item vectors, and the best items for a query.

Axes: Q queries, K vectors of a query, D width, N items.
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
# items from which codes pay for the memory they take
_SCREENED_FROM = 20_000


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item_id: The identifier, as the files have it.
        title: The title; empty where none is known.
        score: Inner product with the query, the largest one over its vectors.
    """

    item_id: str
    title: str
    score: float


class ItemIndex:
    """Item vectors with their identifiers and titles; finds the best items exactly.

    Attributes:
        vectors: `[N, D]` float32 or float16, which cannot be written to.
        item_ids: N identifiers, no two the same.
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
        """Check and keep the vectors.

        Args:
            vectors: `[N, D]` finite values; float16 stays as it is and halves the memory, others
                are cast to float32. Taken over without a copy where possible: do not write to
                them afterwards.
            item_ids: N identifiers.
            titles: N titles.
            screen: Whether to keep a byte for each value beside the vectors, which makes `top_k`
                two to three times as fast on large catalogues and changes no result. None does so
                from 20,000 items on.

        Raises:
            ValueError: If the lengths differ, a value is not finite, or an identifier repeats.
        """
        table = np.asarray(vectors)
        dtype = table.dtype if table.dtype == np.float16 else np.float32
        # a view, so that the caller's array stays as it was
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
        """What searches it: `avx512`, `avx2`, `neon` or `portable`."""
        return self._catalogue.instructions

    def number(self, item_id: str) -> int:
        """Return the row of an item.

        Raises:
            ValueError: If the index does not hold it.
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

        Equal scores go to the lower number. Places for which no item is left hold -1 and minus
        infinity. The search is exact, and makes no queries x items matrix.

        Args:
            queries: `[Q, D]`, or `[Q, K, D]` where the best of the K vectors counts; cast to
                float32.
            k: Number of places, at least 1.
            exclude: Q rows of item numbers never to return, in any order; None excludes nothing.
            among: Q rows of item numbers, in any order: the only ones to return, as for ranking
                again what another system has proposed; None takes all items.
            threads: Number of threads; None takes `RAREC_NUM_THREADS`, else every processor.

        Raises:
            ValueError: If shapes do not fit, a query is not finite, or an item of `exclude` or
                `among` is not in the index.
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
        for name, rows in (("exclude", exclude), ("choose among", among)):
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
        """Return for each query its best items, best first; fewer than `k` where none is left.

        Args:
            queries: As in `top_k`.
            k: Most items of a query.
            exclude: As in `top_k`.
            among: As in `top_k`.
            threads: As in `top_k`.
        """
        # more places than items would only be left out again
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
        """Write the index as a folder, whole or not at all.

        Args:
            folder: A new or empty folder, or an artifact of ours, which is replaced.

        Raises:
            ValueError: If the folder holds something else.
        """
        with write_folder(folder) as temporary:
            n_items, width = self.vectors.shape
            write_config(temporary, FORMAT, {"n_items": n_items, "width": width})
            save_file({"vectors": self.vectors}, temporary / _VECTORS)
            items = {"item_ids": self.item_ids, "titles": self.titles}
            text = json.dumps(items, ensure_ascii=False)
            (temporary / _ITEMS).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ItemIndex:
        """Return the index that `save` wrote into `folder`.

        Raises:
            ValueError: If the folder holds no index of ours, or its parts do not fit together.
        """
        config = read_config(folder, FORMAT)
        try:
            vectors = load_file(Path(folder) / _VECTORS)["vectors"]
            items = json.loads((Path(folder) / _ITEMS).read_text(encoding="utf-8"))
            index = cls(vectors, items["item_ids"], items["titles"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"expected a whole index in {folder}, got: {error}") from error
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
            raise ImportError("export_faiss needs faiss: pip install faiss-cpu") from error
        index = faiss.IndexFlatIP(self.vectors.shape[1])
        index.add(np.asarray(self.vectors, np.float32))
        return index
