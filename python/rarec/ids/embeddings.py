"""The ID vectors that a language model is given: from an ID model of rarec, or from elsewhere.

Axes: N items, U users, C histories, K vectors per user, E vector width.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rarec.artifacts import read_config, read_whole, write_config, write_folder
from rarec.data import Histories
from rarec.ids.encoder import HistoryEncoder, encode_histories
from rarec.ids.items import IDTable, IDTextSum
from rarec.ids.models import build_encoder
from rarec.randomness import seeded
from rarec.settings import CountOrZero, IDSettings, as_dict, from_dict, typed

FORMAT = "rarec.ids/1"
# the tensor in the file of an encoder that is no part of its state
_TEXT = "text_vectors"


@typed
class _Config:
    """What the config of ID embeddings says."""

    source: Literal["trained", "given"]
    """Whether rarec trained them."""
    n_items: CountOrZero = 0
    """Number of items of an ID model."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of an ID model."""


class IDEmbeddings(Protocol):
    """Vectors of items, and of users by their histories.

    Attributes:
        item_vectors: `[N, E]` float32.
        item_known: `[N]` bool, false for items whose row means nothing (cold items).
    """

    item_vectors: NDArray[np.float32]
    item_known: NDArray[np.bool_]

    @property
    def n_user_vectors(self) -> int:
        """Number of vectors per user K."""
        ...

    def user_vectors(
        self, histories: Histories, users: NDArray[np.int32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return `[C, K, E]` float32 vectors and `[C]` bool, false for users without a vector.

        Args:
            histories: C histories, oldest first.
            users: `[C]` numbers of the users; None for users who are not in the dataset.
        """
        ...

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the embeddings as a folder."""
        ...


class TrainedIDs:
    """The vectors of an ID model that rarec trained.

    Args:
        encoder: The model.
        settings: How it was built and trained.
        item_known: `[N]` bool, true for items with training events, and for items with text if the
            model reads texts.
    """

    def __init__(
        self, encoder: HistoryEncoder, settings: IDSettings, item_known: NDArray[np.bool_]
    ) -> None:
        self.encoder = encoder.eval()
        self.settings = settings
        self.item_known = item_known
        self.item_vectors = encoder.item_vectors.detach().cpu().numpy().astype(np.float32)

    @property
    def n_user_vectors(self) -> int:
        """Number of vectors per user K."""
        return self.encoder.n_vectors

    def user_vectors(
        self,
        histories: Histories,
        users: NDArray[np.int32] | None = None,  # noqa: ARG002 (the model reads histories alone)
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return vectors, and which users have one; see `IDEmbeddings.user_vectors`."""
        known = self._without_unknown(histories)
        vectors = encode_histories(self.encoder, known)
        has_any = known.lengths > 0
        vectors[~has_any] = 0
        return vectors, has_any

    def _without_unknown(self, histories: Histories) -> Histories:
        """Return the histories without the unknown items."""
        if self.item_known.all():
            return histories
        kept = self.item_known[histories.items]
        offsets = np.concatenate([[0], np.cumsum(kept)])[histories.offsets]
        return Histories(offsets, histories.items[kept])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the embeddings as a folder: config.json, encoder.safetensors.

        Raises:
            ValueError: If the item vectors are not those that the settings describe, from which
                the model is built again.
        """
        items = self.encoder.items
        described = IDTextSum if self.settings.text else IDTable
        if type(items) is not described:
            raise ValueError(
                f"expected item vectors of the settings ({described.__name__}), "
                f"got {type(items).__name__}"
            )
        tensors = {k: t.detach().cpu().numpy() for k, t in self.encoder.state_dict().items()}
        if isinstance(items, IDTextSum):
            tensors[_TEXT] = items.text.text_vectors[:-1].cpu().contiguous().numpy()
        with write_folder(folder) as temporary:
            save_file({**tensors, "item_known": self.item_known}, temporary / "encoder.safetensors")
            values = {
                "source": "trained",
                "n_items": self.encoder.n_items,
                "settings": as_dict(self.settings),
            }
            write_config(temporary, FORMAT, values)


class GivenIDs:
    """Vectors from elsewhere: of items, and of users or else means of the histories.

    Args:
        item_vectors: `[N, E]` vectors of items; rows of unknown items mean nothing.
        item_known: `[N]` bool, true for items that have a vector.
        user_table: `[U, E]` or `[U, K, E]` vectors of the users of the dataset. By default the
            vector of a user is the mean over the known items of the history.
        user_known: `[U]` bool, true for users that have a vector; required with `user_table`.

    Raises:
        ValueError: If shapes do not fit together.
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
                got = None if user_known is None else list(user_known.shape)
                raise ValueError(
                    f"expected user_known [{len(user_table)}] with user_table, got {got}"
                )
        self.user_table = user_table
        self.user_known = user_known

    @property
    def n_user_vectors(self) -> int:
        """Number of vectors per user K."""
        return 1 if self.user_table is None else self.user_table.shape[1]

    def user_vectors(
        self, histories: Histories, users: NDArray[np.int32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return vectors, and which users have one; see `IDEmbeddings.user_vectors`."""
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
    """Return the ID embeddings that were saved as a folder.

    Raises:
        ValueError: If the folder has no ID embeddings, or if they cannot be read.
    """
    path = Path(folder)
    return read_whole(path, lambda: _read(path))


def _read(folder: Path) -> TrainedIDs | GivenIDs:
    config = read_config(folder, FORMAT, _Config)
    try:
        if config.source == "given":
            return GivenIDs(**load_file(folder / "vectors.safetensors"))
        settings = from_dict(IDSettings, config.settings)
        tensors = load_file(folder / "encoder.safetensors")
        text = tensors.pop(_TEXT) if settings.text else None
        # the initial values, which the loaded ones replace, are not taken from the caller
        with seeded(settings.seed):
            encoder = build_encoder(settings, config.n_items, text)
        known = tensors.pop("item_known")
        encoder.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder}: expected saved ID embeddings ({error})") from error
    return TrainedIDs(encoder, settings, known)
