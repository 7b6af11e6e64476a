"""Prefix attention without concatenated keys: a fused forward, a plain backward.

    out[i] = sum_j softmax_j(scale * query[i] . keys[j]) values[j],   keys = prefix, then text

One program owns BLOCK_Q queries of one head. It starts the running maximum and sum (Milakov &
Gimelshein 2018, arXiv:1805.02867) from one tile that holds the whole prefix, then streams the text
past: text tiles stay aligned and nothing is concatenated or masked by a stored mask. A row's text
is the span `[start, start + length)`; rows outside of it are padding, and zero in the result.

Called through `rarec.ops`, which checks the inputs.

Axes: B batch, H query heads, G query heads a key head, T text, S prefix, D head dimension.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


class Tile(NamedTuple):
    """How the forward kernel is cut: queries and text a tile, warps, pipeline stages."""

    query: int
    text: int
    warps: int
    stages: int


def choose_tile(n_text: int, dim: int, dtype: torch.dtype) -> Tile:
    """Return the tile of a forward launch.

    Compiled for sm_80, sm_90 and gfx942, the 16-bit tiles keep all of their values in registers;
    float32 has no matrix unit at full precision there and spills up to about 200 bytes a thread.

    Args:
        n_text: Text tokens a row.
        dim: Head dimension, at most 128.
        dtype: Of the inputs.

    Returns:
        The tile, no larger than the text needs.
    """
    if dim <= 32:
        tile = Tile(64, 64, 4, 2)
    elif dtype == torch.float32:
        tile = Tile(32, 32, 4 if dim <= 64 else 8, 1)
    elif dim <= 64:
        tile = Tile(128, 64, 4, 3)
    else:
        tile = Tile(128, 64, 8, 2)
    # 16 is the smallest side of a matrix product
    limit = max(16, triton.next_power_of_2(n_text))
    return tile._replace(query=min(tile.query, limit), text=min(tile.text, limit))


@triton.jit
def _dot(left, right, UPCAST: tl.constexpr):
    # the interpreter multiplies the bit patterns of bfloat16; ieee: the default rounds float32 to
    # TF32, which the reference does not
    if UPCAST:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def _load_rows(pointer, row, row_stride, allowed, D: tl.constexpr, BLOCK_D: tl.constexpr):
    axis = tl.arange(0, BLOCK_D)
    mask = allowed[:, None]
    # a mask along the contiguous axis ends asynchronous copies: only where D needs it
    if D != BLOCK_D:
        mask = mask & (axis[None, :] < D)
    return tl.load(pointer + row[:, None] * row_stride + axis[None, :], mask=mask, other=0.0)


@triton.jit
def _prefix_attention_forward(
    query_ptr,  # [B, H, T, D]
    key_ptr,  # [B, H / G, T, D]
    value_ptr,  # [B, H / G, T, D]
    prefix_key_ptr,  # [B or stride 0, H / G, S, D]
    prefix_value_ptr,  # [B or stride 0, H / G, S, D]
    out_ptr,  # [B, H, T, D]
    lse_ptr,  # [B, H, T] float32 contiguous: natural logarithm, +inf in padded rows
    start_ptr,  # [B] int32
    length_ptr,  # [B] int32
    scale,
    n_text,
    query_batch, query_head, query_row,
    key_batch, key_head, key_row,
    value_batch, value_head, value_row,
    prefix_key_batch, prefix_key_head, prefix_key_row,
    prefix_value_batch, prefix_value_head, prefix_value_row,
    out_batch, out_head, out_row,
    H: tl.constexpr,
    G: tl.constexpr,
    S: tl.constexpr,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
    CAUSAL: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * BLOCK_Q
    # int64: a batch's offset passes 2**31 elements
    batch = (tl.program_id(1) // H).to(tl.int64)
    head = tl.program_id(1) % H
    key_ptr += batch * key_batch + (head // G) * key_head
    value_ptr += batch * value_batch + (head // G) * value_head

    start = tl.load(start_ptr + batch)
    end = tl.minimum(start + tl.load(length_ptr + batch), n_text)
    start = tl.maximum(start, 0)

    row = first + tl.arange(0, BLOCK_Q)
    present = (row >= start) & (row < end)
    query = _load_rows(
        query_ptr + batch * query_batch + head * query_head, row, query_row, present, D, BLOCK_D
    )  # [BLOCK_Q, BLOCK_D]
    # logits in base 2: exp2 is what the hardware has
    log2_scale = scale * LOG2E

    highest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    result = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    if S > 0:
        token = tl.arange(0, BLOCK_S)
        prefix_key_ptr += batch * prefix_key_batch + (head // G) * prefix_key_head
        prefix_value_ptr += batch * prefix_value_batch + (head // G) * prefix_value_head
        # names of their own: a name that the loop below gives another shape does not compile
        prefix_keys = _load_rows(prefix_key_ptr, token, prefix_key_row, token < S, D, BLOCK_D)
        prefix_values = _load_rows(prefix_value_ptr, token, prefix_value_row, token < S, D, BLOCK_D)
        prefix_logits = _dot(query, tl.trans(prefix_keys), UPCAST) * log2_scale
        prefix_logits = tl.where(token[None, :] < S, prefix_logits, float("-inf"))
        highest = tl.max(prefix_logits, axis=1)
        prefix_weights = tl.exp2(prefix_logits - highest[:, None])  # [BLOCK_Q, BLOCK_S]
        total = tl.sum(prefix_weights, axis=1)
        result = _dot(prefix_weights.to(prefix_values.dtype), prefix_values, UPCAST)

    # queries that are all padding read no text: an empty loop, not a branch of its own
    stop = end
    if CAUSAL:
        stop = tl.minimum(stop, first + BLOCK_Q)
    if (first >= end) | (first + BLOCK_Q <= start):
        stop = 0
    for tile in range((start // BLOCK_T) * BLOCK_T, stop, BLOCK_T):
        column = tile + tl.arange(0, BLOCK_T)
        in_span = (column >= start) & (column < end)
        keys = _load_rows(key_ptr, column, key_row, in_span, D, BLOCK_D)
        values = _load_rows(value_ptr, column, value_row, in_span, D, BLOCK_D)
        logits = _dot(query, tl.trans(keys), UPCAST) * log2_scale  # [BLOCK_Q, BLOCK_T]
        visible = in_span[None, :]
        if CAUSAL:
            visible = visible & (column[None, :] <= row[:, None])
        logits = tl.where(visible, logits, float("-inf"))

        new_highest = tl.maximum(highest, tl.max(logits, axis=1))
        if S == 0:
            # without a prefix a row may have seen nothing yet: -inf - -inf is nan
            new_highest = tl.where(new_highest == float("-inf"), 0.0, new_highest)
        decay = tl.exp2(highest - new_highest)
        weights = tl.exp2(logits - new_highest[:, None])
        total = total * decay + tl.sum(weights, axis=1)
        result = result * decay[:, None] + _dot(weights.to(values.dtype), values, UPCAST)
        highest = new_highest

    total = tl.where(present, total, 1.0)
    highest = tl.where(present, highest, float("inf"))
    result = tl.where(present[:, None], result / total[:, None], 0.0)
    axis = tl.arange(0, BLOCK_D)
    mask = (row < n_text)[:, None]
    if D != BLOCK_D:
        mask = mask & (axis[None, :] < D)
    out_ptr += batch * out_batch + head * out_head
    tl.store(
        out_ptr + row[:, None] * out_row + axis[None, :],
        result.to(out_ptr.dtype.element_ty),
        mask=mask,
    )
    lse = (highest + tl.log2(total)) * LN2
    tl.store(lse_ptr + tl.program_id(1).to(tl.int64) * n_text + row, lse, mask=row < n_text)


def prefix_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    start: Tensor,
    length: Tensor,
    *,
    causal: bool,
    scale: float,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the attention and the log of the sum of exponentials of each query's logits.

    Args:
        query: `[B, H, T, D]`.
        key: `[B, H / G, T, D]`, and `value` too.
        value: See `key`.
        prefix_key: `[B or 1, H / G, S, D]`, and `prefix_value` too.
        prefix_value: See `prefix_key`.
        start: `[B]` int32, first token of a row's text.
        length: `[B]` int32, tokens of a row's text.
        causal: Let a query see only the text up to itself.
        scale: Factor of the logits.
        tile: How to cut the launch; default `choose_tile`.

    Returns:
        `[B, H, T, D]` in the dtype of `query`, zero in padded rows, and `[B, H, T]` float32,
        `+inf` there (so that `exp(logit - lse)` is 0).
    """
    n_batch, n_heads, n_text, dim = query.shape
    n_prefix = prefix_key.shape[2]
    tile = choose_tile(n_text, dim, query.dtype) if tile is None else tile
    query, key, value = (_unit_stride(x) for x in (query, key, value))
    # the layout of query, so that a caller's transposed view stays one
    out = torch.empty_like(query)
    lse = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
    if out.numel() == 0:
        return out, lse
    prefix_key, prefix_value = (
        _unit_stride(x).expand(n_batch, -1, -1, -1) if n_prefix > 0 else query
        for x in (prefix_key, prefix_value)
    )
    inputs = (query, key, value, prefix_key, prefix_value)
    strides = [stride for x in (*inputs, out) for stride in x.stride()[:3]]
    # a launch goes to the current device, which need not be that of the tensors
    with torch.cuda.device_of(query):
        _prefix_attention_forward[(triton.cdiv(n_text, tile.query), n_batch * n_heads)](
            *inputs,
            out,
            lse,
            start.contiguous(),
            length.contiguous(),
            scale,
            n_text,
            *strides,
            H=n_heads,
            G=n_heads // key.shape[1],
            S=n_prefix,
            D=dim,
            BLOCK_Q=tile.query,
            BLOCK_T=tile.text,
            BLOCK_S=max(16, triton.next_power_of_2(n_prefix)),
            BLOCK_D=max(16, triton.next_power_of_2(dim)),
            CAUSAL=causal,
            UPCAST=INTERPRETED and query.dtype == torch.bfloat16,
            num_warps=tile.warps,
            num_stages=tile.stages,
            # pinned: triton's default changes in 3.10
            enable_fp_fusion=True,
        )
    return out, lse


def _unit_stride(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


class PrefixAttention(torch.autograd.Function):
    """Fused forward; backward from the saved log-sum-exp in plain torch, in a fixed order."""

    @staticmethod
    def forward(
        ctx, query, key, value, prefix_key, prefix_value, start, length, causal, scale, tile
    ):
        """Return the attention; keep what the backward recomputes the weights from."""
        inputs = (query, key, value, prefix_key, prefix_value, start, length)
        out, lse = prefix_attention_forward(*inputs, causal=causal, scale=scale, tile=tile)
        ctx.save_for_backward(*inputs, out, lse)
        ctx.causal, ctx.scale = causal, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        """Return the gradients that are asked for."""
        query, key, value, prefix_key, prefix_value, start, length, out, lse = ctx.saved_tensors
        need_query, *need_text = ctx.needs_input_grad[:3]
        need_prefix = ctx.needs_input_grad[3:5]

        # the query heads of one key head become rows of one product, which sums over them
        def by_key_head(tensor: Tensor) -> Tensor:
            return tensor.float().unflatten(1, (key.shape[1], -1)).flatten(2, 3)

        rows, grad_rows = by_key_head(query), by_key_head(grad_out)  # [B, H / G, G * T, D]
        delta = (grad_rows * by_key_head(out)).sum(-1, keepdim=True)
        shared = (rows, grad_rows, by_key_head(lse[..., None]), delta, ctx.scale)

        query_parts, text_grads, prefix_grads = [], (None, None), (None, None)
        if need_query or any(need_prefix):
            needs = (need_query, *need_prefix)
            part, *prefix_grads = _source_gradients(*shared, prefix_key, prefix_value, None, needs)
            query_parts.append(part)
        # the lowest layer of a frozen model needs no more than the prefix
        if need_query or any(need_text):
            needs = (need_query, *need_text)
            visible = _visible_text(start, length, query.shape[2], ctx.causal)
            visible = visible.repeat(1, 1, query.shape[1] // key.shape[1], 1)
            part, *text_grads = _source_gradients(*shared, key, value, visible, needs)
            query_parts.append(part)
        grad_query = None
        if need_query:
            grad_query = sum(query_parts).unflatten(2, (-1, query.shape[2])).flatten(1, 2)
            grad_query = grad_query.to(query.dtype)
        return grad_query, *text_grads, *prefix_grads, None, None, None, None, None


def _source_gradients(
    rows: Tensor,
    grad_rows: Tensor,
    lse: Tensor,
    delta: Tensor,
    scale: float,
    key: Tensor,
    value: Tensor,
    visible: Tensor | None,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return what one source of keys, prefix or text, adds to the gradients of query, key, value.

    With `P = exp(logits - lse)` and `dlogits = P * (grad_out . value - delta)`, as in Dao et al.
    2022 (arXiv:2205.14135), equation 4 and after. The gradient of `rows` is float32, the others
    have the dtype of `key`; a prefix shared by the batch gets the sum over it.
    """
    need_query, need_key, need_value = needs
    dtype, n_shared = key.dtype, key.shape[0]
    key, value = key.float(), value.float()
    weights = torch.exp(rows @ key.mT * scale - lse)
    if visible is not None:
        weights = weights.masked_fill(~visible, 0.0)

    grad_query = grad_key = grad_value = None
    if need_value:
        grad_value = weights.mT @ grad_rows
    if need_query or need_key:
        grad_logits = weights * (grad_rows @ value.mT - delta) * scale
        grad_query = grad_logits @ key if need_query else None
        grad_key = grad_logits.mT @ rows if need_key else None
    # summed in float32, then rounded once
    grad_key, grad_value = (
        None if grad is None else grad.sum_to_size(n_shared, *grad.shape[1:]).to(dtype)
        for grad in (grad_key, grad_value)
    )
    return grad_query, grad_key, grad_value


def _visible_text(start: Tensor, length: Tensor, n_text: int, causal: bool) -> Tensor:
    """Return `[B, 1, T, T]` bool: which text a query sees (rows of padding are not special)."""
    position = torch.arange(n_text, device=start.device)
    in_span = (position >= start[:, None]) & (position < (start + length)[:, None])
    visible = in_span[:, None, None, :].expand(-1, -1, n_text, -1)
    return visible & (position[None, :] <= position[:, None]) if causal else visible


def prefix_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    *,
    padding: tuple[Tensor, Tensor] | None = None,
    causal: bool = False,
    scale: float | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """Return `rarec.ops.prefix_attention` of the same arguments, differentiable once.

    Inputs are float32, float16 or bfloat16, `D <= 128`. `tile` says how to cut the launch; default
    `choose_tile`.
    """
    n_batch, _, n_text, dim = query.shape
    if padding is None:
        start = torch.zeros(n_batch, dtype=torch.int32, device=query.device)
        padding = (start, torch.full_like(start, n_text))
    scale = dim**-0.5 if scale is None else scale
    return PrefixAttention.apply(
        query, key, value, prefix_key, prefix_value, *padding, causal, scale, tile
    )
