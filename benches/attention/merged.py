"""Two attentions of torch, one over the text and one over the prefix, merged by their log-sum-exp.

Let `lse` be the log-sum-exp of all keys. The weights of a part are `exp(logits - lse)`, so its
share of the result is its result times `exp(lse of the part - lse)`. A flash backward computes its
weights again from the `lse` that it gets, and needs only `sum(grad_out * out)` of the result. If it
gets the merged `lse` and the merged result, it returns the exact gradients of its part (Dao et al.
2022, arXiv:2205.14135, section B.4). Only the two parts of the prefix are concatenated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benches.attention.inputs import Inputs, without_padding

aten = torch.ops.aten


def merged(inputs: Inputs) -> Tensor:
    """Return attention over prefix and text, `[B, H, T, D]`."""
    mask = None
    if inputs.present is not None:
        # additive: the operation below does not support a bool mask
        mask = inputs.query.new_zeros(inputs.present.shape)
        mask = mask.masked_fill(~inputs.present, float("-inf"))[:, None, None, :]
    parts = (inputs.query, inputs.key, inputs.value, *inputs.prefixes)
    result: Any = _Merged.apply(*parts, mask, inputs.causal)
    return without_padding(inputs, result)


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix_key: Tensor,
        prefix_value: Tensor,
        mask: Tensor | None,
        causal: bool,
    ) -> Tensor:
        """Return the merged result, and save it with the merged log-sum-exp."""
        text, text_lse, text_random = _flash(query, key, value, mask, causal)
        prefix, prefix_lse, prefix_random = _flash(query, prefix_key, prefix_value, None, False)
        lse = torch.logaddexp(text_lse, prefix_lse)
        # exp(prefix_lse - lse), in the dtype of the results, so that one pass merges them
        weight = torch.sigmoid(prefix_lse - text_lse).to(query.dtype)
        result = torch.lerp(text, prefix, weight[..., None])
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, mask, result, lse)
        ctx.random, ctx.causal = (text_random, prefix_random), causal
        return result

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the five tensors."""
        query, key, value, prefix_key, prefix_value, mask, result, lse = ctx.saved_tensors
        shared = (result, lse, grad_outputs[0])
        random = ctx.random
        text = _flash_backward(query, key, value, mask, ctx.causal, *shared, random[0])
        prefix = _flash_backward(query, prefix_key, prefix_value, None, False, *shared, random[1])
        return text[0] + prefix[0], *text[1:], *prefix[1:], None, None


def _flash(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Return the result, its log-sum-exp `[B, H, T]`, and what the backward on a GPU needs."""
    if query.device.type == "cpu":
        cpu = aten._scaled_dot_product_flash_attention_for_cpu
        return *cpu(query, key, value, 0.0, causal, attn_mask=mask), ()
    result, lse, *rest = aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal)
    return result, lse, tuple(rest[:6])


def _flash_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    result: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    random: tuple[Any, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value that come from these keys."""
    same = (grad_out, query, key, value, result, lse)
    if query.device.type == "cpu":
        cpu = aten._scaled_dot_product_flash_attention_for_cpu_backward
        return cpu(*same, 0.0, causal, attn_mask=mask)
    offsets, seeds = random[:4], random[4:]
    return aten._scaled_dot_product_flash_attention_backward(*same, *offsets, 0.0, causal, *seeds)
