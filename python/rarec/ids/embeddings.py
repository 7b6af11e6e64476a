"""ID embeddings behind one interface: from an ID model trained here, or brought along.

Axes: N items, U users, C histories, K vectors per user, E width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rarec.artifacts import read_config, write_config, write_folder
from rarec.data import Histories
from rarec.ids.encoder import HistoryEncoder
from rarec.ids.text import TextItemEmbedding
from rarec.ids.training import IDConfig

FORMAT = "rarec-ids"
# of the encoder's tensors the one that is no part of its state
_TEXT = "text_vectors"


class IDEmbeddings(Protocol):
    """What the language model is given: vectors of items, and of users by their histories.

    Attributes:
        item_vectors: `[N, E]` float32.
        item_known: `[N]` bool, false for items without a vector of their own (cold items).
    """

    item_vectors: NDArray[np.float32]
    item_known: NDArray[np.bool_]

    @property
    def n_user_vectors(self) -> int:
        """K: vectors per user."""
        ...

    def user_vectors(
        self, histories: Histories, users: NDArray[np.int32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return `[C, K, E]` float32 vectors and `[C]` bool, false where there is no vector.

        Args:
            histories: C histories, oldest first.
            users: `[C]` numbers of the users they belong to; None for users not in the dataset.
        """
        ...

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the embeddings as a folder."""
        ...


class TrainedIDs:
    """The vectors of an ID model trained here.

    Args:
        encoder: The model.
        config: How it was built.
        item_known: `[N]` bool: items the training has seen, or whose text the encoder reads.
    """

    def __init__(
        self, encoder: HistoryEncoder, config: IDConfig, item_known: NDArray[np.bool_]
    ) -> None:
        self.encoder = encoder.eval()
        self.config = config
        self.item_known = item_known
        self.item_vectors = encoder.item_vectors.detach().cpu().numpy().astype(np.float32)

    @property
    def n_user_vectors(self) -> int:
        """K: vectors per user."""
        return self.encoder.n_vectors

    @torch.no_grad()
    def user_vectors(
        self,
        histories: Histories,
        users: NDArray[np.int32] | None = None,  # noqa: ARG002 (the history says it all)
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return vectors and whether there are any; see `IDEmbeddings.user_vectors`."""
        known = self._without_unknown(histories)
        shape = (len(known), self.n_user_vectors, self.encoder.dim)
        vectors = np.zeros(shape, dtype=np.float32)
        for start in range(0, len(known), 512):
            rows = np.arange(start, min(start + 512, len(known)))
            table = known.take(rows).padded(self.encoder.max_history, self.encoder.n_items)
            vectors[rows] = self.encoder.user_vectors(torch.from_numpy(table)).numpy()
        has_any = known.lengths > 0
        vectors[~has_any] = 0
        return vectors, has_any

    def _without_unknown(self, histories: Histories) -> Histories:
        """Return the histories without items the encoder has no trained vector of."""
        if self.item_known.all():
            return histories
        kept = self.item_known[histories.items]
        offsets = np.concatenate([[0], np.cumsum(kept)])[histories.offsets]
        return Histories(offsets, histories.items[kept])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the embeddings as a folder: config.json, encoder.safetensors."""
        tensors = {k: t.detach().cpu().numpy() for k, t in self.encoder.state_dict().items()}
        items = self.encoder.item_embedding
        if isinstance(items, TextItemEmbedding):
            tensors[_TEXT] = items.text_vectors.cpu().contiguous().numpy()
        with write_folder(folder) as temporary:
            save_file({**tensors, "item_known": self.item_known}, temporary / "encoder.safetensors")
            values = {
                "source": "trained",
                "n_items": self.encoder.n_items,
                "ids": asdict(self.config),
            }
            write_config(temporary, FORMAT, values)


class GivenIDs:
    """Vectors made elsewhere: an item table, and a user table or means of the history.

    Args:
        item_vectors: `[N, E]`; rows of unknown items mean nothing.
        item_known: `[N]` bool.
        user_table: `[U, E]` or `[U, K, E]` vectors of the dataset's users. Without it a user's
            vector is the mean over the known items of the history.
        user_known: `[U]` bool, needed with `user_table`.
    """

    def __init__(
        self,
        item_vectors: NDArray[np.float32],
        item_known: NDArray[np.bool_],
        user_table: NDArray[np.float32] | None = None,
        user_known: NDArray[np.bool_] | None = None,
    ) -> None:
        self.item_vectors = np.ascontiguousarray(item_vectors, dtype=np.float32)
        self.item_known = np.asarray(item_known, dtype=bool)
        if self.item_vectors.ndim != 2 or self.item_known.shape != self.item_vectors.shape[:1]:
            raise ValueError(
                f"expected item_vectors [N, E] and item_known [N], "
                f"got {list(self.item_vectors.shape)} and {list(self.item_known.shape)}"
            )
        if user_table is not None:
            user_table = np.ascontiguousarray(user_table, dtype=np.float32)
            if user_table.ndim == 2:
                user_table = user_table[:, None]
            if user_known is None or user_known.shape != user_table.shape[:1]:
                raise ValueError("expected user_known [U] with user_table")
        self.user_table = user_table
        self.user_known = user_known

    @property
    def n_user_vectors(self) -> int:
        """K: vectors per user."""
        return 1 if self.user_table is None else self.user_table.shape[1]

    def user_vectors(
        self, histories: Histories, users: NDArray[np.int32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return vectors and whether there are any; see `IDEmbeddings.user_vectors`."""
        if self.user_table is None or self.user_known is None:
            return self._means(histories)
        shape = (len(histories), *self.user_table.shape[1:])
        if users is None:
            return np.zeros(shape, dtype=np.float32), np.zeros(len(histories), dtype=bool)
        return self.user_table[users], self.user_known[users]

    def _means(self, histories: Histories) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        known = self.item_known[histories.items]
        count = np.bincount(histories.rows[known], minlength=len(histories))
        vectors = np.zeros((len(histories), self.item_vectors.shape[1]), dtype=np.float32)
        for start in range(0, len(histories), 4096):
            part = histories.take(np.arange(start, min(start + 4096, len(histories))))
            kept = self.item_known[part.items]
            np.add.at(vectors, start + part.rows[kept], self.item_vectors[part.items[kept]])
        vectors /= np.maximum(count, 1)[:, None]
        return vectors[:, None], count > 0

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the embeddings as a folder: config.json, vectors.safetensors."""
        tensors: dict[str, NDArray] = {
            "item_vectors": self.item_vectors,
            "item_known": self.item_known,
        }
        if self.user_table is not None and self.user_known is not None:
            tensors |= {"user_table": self.user_table, "user_known": self.user_known}
        with write_folder(folder) as temporary:
            save_file(tensors, temporary / "vectors.safetensors")
            write_config(temporary, FORMAT, {"source": "given"})


def load_ids(folder: str | os.PathLike[str]) -> TrainedIDs | GivenIDs:
    """Return ID embeddings that were saved as a folder.

    Raises:
        ValueError: If the folder holds none.
    """
    folder = Path(folder)
    config = read_config(folder, FORMAT)
    try:
        if config["source"] == "given":
            return GivenIDs(**load_file(folder / "vectors.safetensors"))
        ids = IDConfig(**config["ids"])
        tensors = load_file(folder / "encoder.safetensors")
        encoder = ids.build(int(config["n_items"]), tensors.pop(_TEXT) if ids.text else None)
        known = tensors.pop("item_known")
        encoder.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    except (OSError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"{folder}: expected saved ID embeddings ({error})") from error
    return TrainedIDs(encoder, ids, known)


def read_vectors(
    vectors: str | os.PathLike[str],
    ids: str | os.PathLike[str],
    wanted: Sequence[str],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return `[len(wanted), E]` float32 vectors in the order of `wanted`, and which were found.

    Args:
        vectors: A `.npy` file, or a `.safetensors` file with one tensor or one named `vectors`;
            `[M, E]`.
        ids: A text file with the M ids, one a line, in the order of the vectors.
        wanted: Raw ids, such as `dataset.item_ids`. Those without a vector get zeros.

    Raises:
        ValueError: If a file is missing or of another kind, the counts differ, an id occurs twice,
            a vector is not finite (its id is named), or not one wanted id is there.
    """
    table = _read_table(Path(vectors))
    names = _read_lines(Path(ids))
    if len(names) != len(table):
        raise ValueError(f"{ids}: expected {len(table)} ids, one a vector, got {len(names)}")
    place: dict[str, int] = {}
    for number, name in enumerate(names):
        if place.setdefault(name, number) != number:
            raise ValueError(
                f"{ids}:{number + 1}: id {name!r} stands on line {place[name] + 1} too"
            )
    finite = np.isfinite(table).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"{vectors}: row {row} (id {names[row]!r}) holds NaN or infinity")
    rows = np.array([place.get(name, -1) for name in wanted], dtype=np.int64)
    known = rows >= 0
    if not known.any():
        raise ValueError(
            f"{ids}: none of its {len(names)} ids is in the dataset "
            f"(first there: {names[0]!r}, first wanted: {wanted[0]!r})"
        )
    found = np.zeros((len(rows), table.shape[1]), dtype=np.float32)
    found[known] = table[rows[known]]
    return found, known


def _read_table(path: Path) -> NDArray[np.float32]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        if path.suffix == ".npy":
            table = np.load(path, allow_pickle=False)
        elif path.suffix == ".safetensors":
            tensors = load_file(path)
            if "vectors" not in tensors and len(tensors) != 1:
                raise ValueError(f"expected one tensor or one named 'vectors', got {list(tensors)}")
            table = tensors.get("vectors", next(iter(tensors.values())))
        else:
            raise ValueError(f"expected .npy or .safetensors, got {path.suffix!r}")
    except Exception as error:
        raise ValueError(f"{path}: {error}") from error
    if table.ndim != 2 or 0 in table.shape or not np.issubdtype(table.dtype, np.floating):
        raise ValueError(f"{path}: expected floats [M, E], got {table.dtype} {list(table.shape)}")
    return table.astype(np.float32)


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        # some editors put a mark before the first id
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, one id a line ({error})") from error
