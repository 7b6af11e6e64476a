"""The ID models by name, and how settings become a model with initial values.

Axes: N items, F width of the text vectors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from rarec.ids.comirec import ComiRec
from rarec.ids.encoder import HistoryEncoder
from rarec.ids.gru4rec import GRU4Rec
from rarec.ids.items import IDTable, IDTextSum, ItemVectors, TextAdapter
from rarec.ids.sasrec import SASRec
from rarec.settings import IDSettings

MODELS: dict[str, Callable[..., HistoryEncoder]] = {
    "comirec": ComiRec,
    "gru4rec": GRU4Rec,
    "sasrec": SASRec,
}


def build_encoder(
    settings: IDSettings,
    n_items: int,
    text_vectors: NDArray[np.float32] | None = None,
    *,
    items: ItemVectors | None = None,
) -> HistoryEncoder:
    """Return a new ID model, with initial values from the global generator of torch.

    Args:
        settings: The architecture.
        n_items: Number of items N.
        text_vectors: `[N, F]` float32 vectors of the titles if `settings.text` names a language
            model (see `standardise`); zero for items without text.
        items: Item vectors that take the place of those that the settings describe.

    Raises:
        ValueError: If there are text vectors without `settings.text` or the other way round, if
            there are text vectors beside `items`, or if N or the widths do not fit.
    """
    if items is not None:
        if text_vectors is not None or (items.n_items, items.dim) != (n_items, settings.dim):
            raise ValueError(
                f"expected items of {n_items} x {settings.dim} without text_vectors, got "
                f"{items.n_items} x {items.dim} with{'out' if text_vectors is None else ''} them"
            )
        return _encoder(settings, items)
    if (text_vectors is not None) != bool(settings.text):
        got = "none" if text_vectors is None else list(text_vectors.shape)
        raise ValueError(f"expected text_vectors where text is set ({settings.text!r}), got {got}")
    ids = IDTable(n_items, settings.dim)
    if text_vectors is None:
        return _encoder(settings, ids)
    vectors = torch.from_numpy(text_vectors)
    # published numbers draw the initial values of the map after those of all else
    with torch.random.fork_rng(devices=()):
        text = TextAdapter(vectors, settings.dim, n_layers=settings.text_layers)
    encoder = _encoder(settings, IDTextSum(ids, text, id_dropout=settings.id_dropout))
    text.reset_parameters()
    return encoder


def _encoder(settings: IDSettings, items: ItemVectors) -> HistoryEncoder:
    return MODELS[settings.model](
        items, max_history=settings.max_history, dropout=settings.dropout, **settings.options
    )
