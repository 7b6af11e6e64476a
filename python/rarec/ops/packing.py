"""Texts of different lengths one after the other, without padding.

Axes: R rows (texts), N tokens of all texts, T tokens of the longest text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

#: Parts that the texts of a batch are padded in, at most, and texts of a part, at least.
PARTS, PART = 4, 8


@dataclass(frozen=True, eq=False)
class Packed:
    """Where each of R texts stands in a row of N tokens that holds nothing else.

    Attributes:
        offsets: `[R + 1]` int32 from 0 to N, not falling: text `r` is
            `tokens[offsets[r]:offsets[r + 1]]`.
        longest: T, tokens of the longest text: a number, so that no launch waits for the device.
    """

    offsets: Tensor
    longest: int

    @classmethod
    def of(cls, mask: Tensor) -> Packed:
        """Return where the texts of a batch stand once its padding is dropped.

        Args:
            mask: `[R, T]`, not 0 for text.
        """
        return cls._of_lengths(mask.ne(0).sum(dim=1))

    @classmethod
    def _of_lengths(cls, lengths: Tensor) -> Packed:
        offsets = torch.zeros(len(lengths) + 1, dtype=torch.int32, device=lengths.device)
        offsets[1:] = lengths.cumsum(0)
        return cls(offsets, int(lengths.max()) if len(lengths) else 0)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def start(self) -> Tensor:
        """`[R]` int32: first token of each text."""
        return self.offsets[:-1]

    @cached_property
    def lengths(self) -> Tensor:
        """`[R]` int32: tokens of each text."""
        return self.offsets.diff()

    @cached_property
    def n_tokens(self) -> int:
        """N."""
        return int(self.offsets[-1])

    @cached_property
    def positions(self) -> Tensor:
        """`[N]` int64: place of each token in its text."""
        return self.present.nonzero()[:, 1]

    @cached_property
    def present(self) -> Tensor:
        """`[R, T]` bool: true for text where each text is padded on the right."""
        return torch.arange(self.longest, device=self.offsets.device) < self.lengths[:, None]

    @cached_property
    def slots(self) -> Tensor:
        """`[N]` int64: place of each token in `[R * T]`, its text padded on the right."""
        return self.present.flatten().nonzero()[:, 0]

    @cached_property
    def parts(self) -> list[Packed]:
        """The same texts as a few rows of like length, where they stand in such an order."""
        size = max(PART, -(-len(self) // PARTS))
        if len(self) <= size:
            return [self]
        return [self._of_lengths(lengths) for lengths in self.lengths.split(size)]

    def pad(self, tokens: Tensor) -> Tensor:
        """Return `[R, T, ...]` of `[N, ...]`, zero in the padding."""
        table = tokens.new_zeros(len(self) * self.longest, *tokens.shape[1:])
        return table.index_copy(0, self.slots, tokens).unflatten(0, (len(self), self.longest))

    def unpad(self, table: Tensor) -> Tensor:
        """Return `[N, ...]` of `[R, T, ...]`."""
        return _Unpad.apply(table.flatten(0, 1), self.slots)


class _Unpad(torch.autograd.Function):
    """`index_select` whose backward writes each row once instead of adding to it."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, slots: Tensor) -> Tensor:
        """Return the rows in `slots`, which are different."""
        ctx.save_for_backward(slots)
        ctx.shape = table.shape
        return table.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the table."""
        (gradient,) = grad_outputs
        (slots,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.shape).index_copy(0, slots, gradient), None
