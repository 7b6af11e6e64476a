"""The arguments that the prefix attention kernels share: tensors, strides, constants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rarec.kernels.common import INTERPRETED
from rarec.kernels.tiles import Tile, choose_tile, padded_dim


class Launch:
    """The arguments that the three kernels share.

    Args:
        text: Query, key and value of the text.
        prefix: Key and value of the shared prefix, then key and value of the prefix of each sample.
        spans: The first token of each text, and the number of its tokens, `[B]` int32 each.
        causal: Let a query see only the text up to its own position.
        window: Let a query see only text tokens that are fewer than this many positions away; 0 for
            no window.
        packed: Whether the texts are packed in one row.
    """

    def __init__(
        self,
        text: Sequence[Tensor],
        prefix: Sequence[Tensor],
        spans: Sequence[Tensor],
        *,
        causal: bool,
        window: int,
        packed: bool,
    ) -> None:
        query, key, _ = text
        self.packed = packed
        self.dim = query.shape[3]
        self.text = tuple(unit_stride(x) for x in text)
        # a tensor without rows is never read, so any pointer will do
        self.prefix = tuple(unit_stride(x) if x.numel() else self.text[0] for x in prefix)
        self.prefix_strides = [
            stride
            for x in self.prefix
            for stride in (0 if len(x) == 1 else x.stride(0), *x.stride()[1:3])
        ]
        self.spans = tuple(x.contiguous() for x in spans)
        n_shared, n_own = prefix[0].shape[2], prefix[2].shape[2]
        self.n_prefix = n_shared + n_own
        self.prefix_constants = {"S": n_shared, "K": n_own}
        self.constants = {
            "H": query.shape[1],
            "G": query.shape[1] // key.shape[1],
            "D": self.dim,
            "BLOCK_D": padded_dim(self.dim),
            "CAUSAL": causal,
            "WINDOWED": window > 0,
            "PACKED": packed,
            "UPCAST": INTERPRETED and query.dtype == torch.bfloat16,
            # set explicitly: the default of triton changes in version 3.10
            "enable_fp_fusion": True,
        }

    def tile(self, kernel: str, longest: int, given: Sequence[int]) -> Tile:
        """Return the tile of a launch: the given one, or the one of the table."""
        return Tile(*given) if given else choose_tile(kernel, longest, self.dim)

    def strides(self, *tensors: Tensor) -> list[int]:
        """Return the batch, head and row strides of each; the batch stride of packed texts is 0."""
        batch = 0 if self.packed else 1
        return [
            stride
            for of_batch, of_head, of_row, _ in map(Tensor.stride, tensors)
            for stride in (batch * of_batch, of_head, of_row)
        ]

    def lse_strides(self, lse: Tensor) -> tuple[int, int]:
        """Return the batch and head strides of a contiguous `[B, H, T]` tensor."""
        return (0 if self.packed else lse.stride(0)), lse.stride(1)


def tile_constants(tile: Tile) -> dict[str, int]:
    """Return a tile as keyword arguments of a launch."""
    return {
        "BLOCK_Q": tile.query,
        "BLOCK_T": tile.text,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


def unit_stride(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy if the numbers of its last axis are not side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
