"""Representations of a batch larger than memory: gradient caching (Gao et al. 2021).

The loss of a batch needs all its representations. The states between a text and its representation
are needed only to pass the gradient on. So each chunk is read once for its representations alone,
and once more when the loss has given their gradient (arXiv:2101.06983). The gradients are those of
the whole batch.

Axes: B batch, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rarec.model import EntityBatch, RARec, Tower
from rarec.training.lower_states import LowerStates


def encode_in_chunks(
    model: RARec,
    tower: Tower,
    batch: EntityBatch,
    size: int,
    *,
    lower: LowerStates | None = None,
    numbers: NDArray | None = None,
) -> Tensor:
    """Return `[B, H]` what `model.encode` does; a backward holds the states of one chunk at a time.

    Texts of like length share a chunk. Random numbers are the same each time a chunk is read.

    Args:
        model: The model.
        tower: The tower of the batch.
        batch: B users or items.
        size: Most users or items of a chunk.
        lower: Lower states that the chunks are filled with, if there are any.
        numbers: `[B]` numbers of the texts in `lower`.
    """
    order = batch.attention_mask.sum(dim=1).argsort(stable=True)
    parts = []
    for rows in order.split(size):
        chunk = batch.take(rows)
        if lower is None or numbers is None:
            complete = partial(chunk.to, model.backbone.device)
        else:
            # read again with the chunk, so that they take no memory between its two readings
            complete = partial(lower.fill, chunk, numbers[rows.numpy()])
        # it keeps the random state of the devices of its arguments, so one of them is a weight
        part = checkpoint(_encode, model, tower, complete, tower.prefix, use_reentrant=False)
        parts.append(part)
    return torch.cat(parts)[order.argsort().to(model.backbone.device)]


def _encode(model: RARec, tower: Tower, complete: Callable[[], EntityBatch], _: Tensor) -> Tensor:
    return model.encode(tower, complete().to(model.backbone.device))
