"""The cross entropy over a whole catalogue, a few rows at a time.

All logits of a batch at once are hundreds of megabytes that are written and read about eight times.
A block of rows stays in the processor's cache from its logits to its part of the gradients.

Axes: M rows, E width, N items, B rows of a block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# of 10,000 items, 64 rows are 2.5 MB of logits
_BLOCK = 64
# a GPU has the bandwidth, and wants large products
_BLOCK_GPU = 4096


def catalogue_cross_entropy(
    states: Tensor, table: Tensor, targets: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Return the mean of `-log softmax(states @ table.T + bias)` at the targets.

    The same as `torch.nn.functional.cross_entropy` of these logits, and once differentiable.

    Args:
        states: `[M, E]`, M above 0.
        table: `[N, E]`.
        targets: `[M]` int64.
        bias: `[N]`, minus infinity for items that count for nothing; no gradient goes there.
    """
    return _CatalogueCrossEntropy.apply(states, table, targets, bias)  # type: ignore[no-any-return]


class _CatalogueCrossEntropy(torch.autograd.Function):
    """The gradients are made with the loss: both need the softmax, which is not kept."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, table: Tensor, targets: Tensor, bias: Tensor | None
    ) -> Tensor:
        n_rows = len(states)
        size = min(_BLOCK_GPU if states.is_cuda else _BLOCK, n_rows)
        by_state, by_table = torch.empty_like(states), torch.zeros_like(table)
        buffer = states.new_empty(size, len(table))
        total = states.new_zeros(())
        for start in range(0, n_rows, size):
            rows, target = states[start : start + size], targets[start : start + size, None]
            logits = torch.mm(rows, table.T, out=buffer[: len(rows)])
            if bias is not None:
                logits += bias
            highest = logits.amax(dim=1, keepdim=True)
            reached = logits.gather(1, target) - highest
            share = logits.sub_(highest).exp_()
            whole = share.sum(dim=1, keepdim=True)
            total += (whole.log() - reached).sum()
            gradient = share.div_(whole * n_rows)
            gradient.scatter_add_(1, target, torch.full_like(reached, -1 / n_rows))
            torch.mm(gradient, table, out=by_state[start : start + size])
            by_table.addmm_(gradient.T, rows)
        ctx.save_for_backward(by_state, by_table)
        return total / n_rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_state, by_table = ctx.saved_tensors
        return by_state * gradients[0], by_table * gradients[0], None, None
