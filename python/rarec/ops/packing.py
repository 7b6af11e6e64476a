"""Packed texts: texts of different lengths, one after the other, without padding.

Axes: R rows (texts), N tokens of all texts, T tokens of the longest text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

#: Where packed texts have to be padded, they are padded in parts: at most this many.
MAX_PARTS = 4
#: Smallest number of texts in a part.
MIN_PART_TEXTS = 8


@dataclass(frozen=True, eq=False)
class Packed:
    """The places of R texts in one row of N tokens without padding.

    Attributes:
        offsets: `[R + 1]` int32, not decreasing, from 0 to N. Text `r` is
            `tokens[offsets[r]:offsets[r + 1]]`.
        longest: T, the number of tokens of the longest text. It is a Python number, so no kernel
            launch has to wait for the device to read it.
    """

    offsets: Tensor
    longest: int

    @classmethod
    def of(cls, mask: Tensor) -> Packed:
        """Return the places of a batch's texts after its padding is dropped.

        Args:
            mask: `[R, T]`; 0 is padding, every other number is text.
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
        """`[R]` int32: place of the first token of each text."""
        return self.offsets[:-1]

    @cached_property
    def lengths(self) -> Tensor:
        """`[R]` int32: number of tokens of each text."""
        return self.offsets.diff()

    @cached_property
    def n_tokens(self) -> int:
        """N, the number of tokens of all texts."""
        return int(self.offsets[-1])

    @cached_property
    def positions(self) -> Tensor:
        """`[N]` int64: position of each token in its text."""
        return self.present.nonzero()[:, 1]

    @cached_property
    def present(self) -> Tensor:
        """`[R, T]` bool: true for text, false for padding, in the table that `pad` returns."""
        return torch.arange(self.longest, device=self.offsets.device) < self.lengths[:, None]

    @cached_property
    def slots(self) -> Tensor:
        """`[N]` int64: place of each token in the flattened `[R * T]` table of `pad`."""
        return self.present.flatten().nonzero()[:, 0]

    @cached_property
    def parts(self) -> list[Packed]:
        """The texts in at most `MAX_PARTS` groups of neighbours, to be padded group by group.

        Sorted by length, the texts of a group need little padding.
        """
        size = max(MIN_PART_TEXTS, -(-len(self) // MAX_PARTS))
        if len(self) <= size:
            return [self]
        return [self._of_lengths(lengths) for lengths in self.lengths.split(size)]

    def pad(self, tokens: Tensor) -> Tensor:
        """Return `[N, ...]` tokens as `[R, T, ...]`, padded with zeros on the right."""
        table = tokens.new_zeros(len(self) * self.longest, *tokens.shape[1:])
        return table.index_copy(0, self.slots, tokens).unflatten(0, (len(self), self.longest))

    def unpad(self, table: Tensor) -> Tensor:
        """Return the tokens `[N, ...]` of a padded table `[R, T, ...]`."""
        return _Unpad.apply(table.flatten(0, 1), self.slots)


class _Unpad(torch.autograd.Function):
    """`index_select` of distinct rows: the backward writes each row once and adds nothing."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, slots: Tensor) -> Tensor:
        """Return the rows at `slots`, which are all different."""
        ctx.save_for_backward(slots)
        ctx.shape = table.shape
        return table.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the table."""
        (gradient,) = grad_outputs
        (slots,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.shape).index_copy(0, slots, gradient), None
