"""Text-only states of texts (`g` of the alignment loss): computed once, kept in a file.

The alignment loss reads cosines, so each state is kept as a vector of length one: float16 holds
it whatever the model, while the states of large models can pass its largest number.

Axes: R rows (texts), L layers, H hidden size.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from rarec.backbone import Backbone
from rarec.encoding import length_batches
from rarec.prompts import Tokens


class TextStates:
    """Directions of the pooled states entering each layer, read from disk as they are needed.

    Args:
        table: `[R, L, H]` float16, each `[r, l]` of length one; usually mapped from a file.
    """

    def __init__(self, table: NDArray[np.float16]) -> None:
        self.table = table

    def rows(self, rows: ArrayLike) -> Tensor:
        """Return `[B, L, H]` float32: the states of the texts in `rows`."""
        return torch.from_numpy(np.asarray(self.table[np.asarray(rows)], dtype=np.float32))


def text_states(
    backbone: Backbone,
    tokens: Tokens,
    folder: str | os.PathLike[str],
    *,
    batch_tokens: int = 4096,
    on_rows: Callable[[int], None] | None = None,
) -> TextStates:
    """Return the text-only states of all texts, from the folder if they are already there.

    The file is named by a hash of the model's weights and the tokens: the model is frozen, so the
    states of a text never change.

    Args:
        backbone: The frozen model.
        tokens: R texts.
        folder: Where the states are kept.
        batch_tokens: Tokens of a batch at most, padding included.
        on_rows: Called after each batch with the number of rows it had.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(tokens), backbone.n_layers, backbone.hidden_size)
    name = texts_hash(f"directions {backbone.pooling}", backbone, tokens)
    path = folder / f"{name}.npy"
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        table = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        try:
            for rows in length_batches(tokens.lengths, batch_tokens):
                ids, mask = (part.to(backbone.device) for part in tokens.batch(rows))
                states = F.normalize(backbone.text_states(ids, mask).float(), dim=-1)
                table[rows] = states.half().cpu().numpy()
                if on_rows is not None:
                    on_rows(len(rows))
            table.flush()
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return TextStates(np.load(path, mmap_mode="r", allow_pickle=False))


def texts_hash(kind: str, backbone: Backbone, tokens: Tokens) -> str:
    """Return a name for states of one kind that a model has for texts.

    Args:
        kind: Which states.
        backbone: The frozen model.
        tokens: R texts.
    """
    digest = hashlib.sha256(kind.encode())
    for name, weight in backbone.model.state_dict().items():
        digest.update(name.encode())
        if backbone.quantization == "8bit" and type(weight) is not Tensor:
            # a tensor of torchao, which has no sum
            weight = weight.dequantize()
        # sums tell one model from another; hashing gigabytes of weights would not be quick
        digest.update(repr((list(weight.shape), str(weight.dtype), _sum_of_bits(weight))).encode())
    for array in (tokens.offsets, tokens.ids):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


def _sum_of_bits(weight: Tensor) -> int:
    """Return the sum of a tensor's values read as whole numbers: the same in any order of adding.

    A sum of floats is not: it changes with the number of threads.
    """
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return int(weight.contiguous().view(whole[weight.element_size()]).sum(dtype=torch.int64))
