"""Text-only states of texts (`g` of the alignment loss): computed once, kept in a file.

The alignment loss reads cosines, so each state is kept as a vector of length one. float16 can hold
such a vector of any model, while the states of large models can exceed its largest number.

Axes: R rows (texts), B batch, L layers, H hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from rarec.backbone import Backbone
from rarec.encoding import plan_batches
from rarec.prompts import Tokens
from rarec.training.state_cache import Part, StateCache, texts_hash


class TextStates:
    """Directions of the pooled states entering each layer, read from disk as they are needed.

    Args:
        table: `[R, L, H]` float16, each `[r, l]` of length one. Usually it is mapped from a file.
    """

    def __init__(self, table: NDArray[np.float16]) -> None:
        self.table = table

    def rows(self, rows: ArrayLike) -> Tensor:
        """Return `[B, L, H]` float32: the states of the texts in `rows`."""
        return torch.from_numpy(np.asarray(self.table[np.asarray(rows)], dtype=np.float32))


def text_states(
    backbone: Backbone,
    tokens: Tokens,
    *,
    cache: StateCache | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> TextStates:
    """Return the text-only states of all texts, computed now if the cache does not have them.

    Args:
        backbone: The frozen model.
        tokens: R texts, at least one.
        cache: The cache. By default it is the one in the cache folder of rarec.
        on_rows: Called after each batch that is computed with its number of rows.
    """
    cache = cache or StateCache()
    shape = (len(tokens), backbone.n_layers, backbone.hidden_size)
    name = texts_hash(f"directions {backbone.pooling}", backbone, tokens)
    with cache.open(
        name,
        math.prod(shape) * np.dtype(np.float16).itemsize,
        lambda: _computed(backbone, tokens, on_rows),
    ) as file:
        # the mapping stays when the file is closed
        return TextStates(np.memmap(file, dtype=np.float16, mode="r", shape=shape))


def _computed(
    backbone: Backbone, tokens: Tokens, on_rows: Callable[[int], None] | None
) -> Iterator[Part]:
    """Yield the states of each text, and their place in the file."""
    for rows in plan_batches(tokens.lengths):
        ids, mask = (part.to(backbone.device) for part in tokens.batch(rows))
        states = F.normalize(backbone.text_states(ids, mask).float(), dim=-1)
        table = states.half().flatten(1).cpu().numpy().view(np.uint8)
        for row, data in zip(rows.tolist(), table, strict=True):
            yield row * data.nbytes, data
        if on_rows is not None:
            on_rows(len(rows))
