"""Prefix attention without concatenated keys, as one operation that torch can differentiate.

`torch.ops.rarec.prefix_attention` and its backward are custom operations with shapes that torch
knows without running them, so that `torch.compile`, checkpointing and autograd see one node. Called
through `rarec.ops`, which checks the inputs.

Axes: B texts, H query heads, h_kv key heads, T text tokens, S and K prefix tokens, D head
dimension. Packed texts: the tensors of the text have one row of T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from rarec.kernels import tiles
from rarec.kernels.backward import backward_query, backward_text
from rarec.kernels.common import INTERPRETED
from rarec.kernels.forward import forward
from rarec.kernels.tiles import Tile, choose_tile, padded_dim


def prefix_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    *,
    own_key: Tensor | None = None,
    own_value: Tensor | None = None,
    padding: tuple[Tensor, Tensor] | None = None,
    packed: tuple[Tensor, Tensor, int] | None = None,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """Return `rarec.ops.prefix_attention` of the same arguments, differentiable once.

    Inputs are float16 or bfloat16 (interpreted also float32), `D <= 128`, `S + K <= 64`. `packed`
    holds where texts start and how long they are, int32 `[B]` each, and how long the longest is.
    `tile` says how to cut all launches; default what `rarec.kernels.tiles` says.
    """
    if packed is not None:
        start, length, longest = packed
    elif padding is not None:
        start, length = padding
        longest = query.shape[2]
    else:
        start = torch.zeros(len(query), dtype=torch.int32, device=query.device)
        length = torch.full_like(start, query.shape[2])
        longest = query.shape[2]
    if own_key is None or own_value is None:
        own_key = own_value = key.new_empty(len(start), key.shape[1], 0, key.shape[3])
    out, _ = _forward(
        query,
        key,
        value,
        prefix_key,
        prefix_value,
        own_key,
        own_value,
        start,
        length,
        longest,
        packed is not None,
        causal,
        window or 0,
        query.shape[3] ** -0.5 if scale is None else scale,
        list(tile or ()),
    )
    return out


@torch.library.custom_op("rarec::prefix_attention", mutates_args=())
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    own_key: Tensor,
    own_value: Tensor,
    start: Tensor,
    length: Tensor,
    longest: int,
    packed: bool,
    causal: bool,
    window: int,
    scale: float,
    tile: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return the attention, and the log of the sum of exponentials of each query's logits.

    Args:
        query: `[B, H, T, D]`; packed `[1, H, T, D]`, and so on.
        key: `[B, h_kv, T, D]`.
        value: As `key`.
        prefix_key: `[B or 1, h_kv, S, D]`.
        prefix_value: As `prefix_key`.
        own_key: `[B, h_kv, K, D]`, or without rows.
        own_value: As `own_key`.
        start: `[B]` int32, first token of each text.
        length: `[B]` int32, tokens of each text.
        longest: Tokens of the longest text, at most.
        packed: Whether the texts stand in one row.
        causal: Let a query see only the text up to itself.
        window: Let a query see only text less than so many tokens away; 0 for all.
        scale: Factor of the logits.
        tile: A `Tile`, or empty.

    Returns:
        `[B, H, T, D]` in the dtype of `query`, zero in padded rows, and `[B, H, T]` float32,
        `+inf` there (so that `exp(logit - lse)` is 0).
    """
    # the layout of query, so that a caller's transposed view stays one
    out = torch.empty_like(_unit_stride(query))
    lse = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
    if out.numel() == 0:
        return out, lse
    launch = _Launch(
        query, key, value, prefix_key, prefix_value, own_key, own_value, start, length,
        causal=causal, window=window, packed=packed,
    )  # fmt: skip
    chosen = launch.tile("forward", longest, tile)
    n_tiles = triton.cdiv(longest, chosen.query)
    # a launch goes to the current device, which need not be that of the tensors
    with torch.cuda.device_of(query):
        forward[(n_tiles * len(start) * query.shape[1],)](
            *launch.text,
            *launch.prefix,
            out,
            lse,
            *launch.spans,
            scale,
            query.shape[2],
            n_tiles,
            window,
            *launch.strides(*launch.text),
            *launch.prefix_strides,
            *launch.strides(out),
            *launch.lse_strides(lse),
            **launch.constants,
            **launch.prefix_constants,
            # the whole prefix is one tile
            BLOCK_S=max(16, triton.next_power_of_2(launch.n_prefix)),
            **_tile_constants(chosen),
        )
    return out, lse


@_forward.register_fake
def _(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(_unit_stride(query))
    return out, query.new_empty(query.shape[:3], dtype=torch.float32)


@torch.library.custom_op("rarec::prefix_attention_backward", mutates_args=())
def _backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    own_key: Tensor,
    own_value: Tensor,
    start: Tensor,
    length: Tensor,
    out: Tensor,
    lse: Tensor,
    longest: int,
    packed: bool,
    causal: bool,
    window: int,
    scale: float,
    tile: Sequence[int],
    need_query: bool,
    need_text: bool,
    need_prefix: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the seven float inputs of `_forward`; empty where not needed."""
    grad_query, grad_key, grad_value = _text_gradients(query, key, value, need_query, need_text)
    if out.numel() == 0:
        grads = [torch.zeros_like(x) if need_prefix else x.new_empty(0)
                 for x in (prefix_key, prefix_value, own_key, own_value)]  # fmt: skip
        return grad_query, grad_key, grad_value, *grads
    grad_out = _unit_stride(grad_out)
    launch = _Launch(
        query, key, value, prefix_key, prefix_value, own_key, own_value, start, length,
        causal=causal, window=window, packed=packed,
    )  # fmt: skip
    n_rows, n_heads = len(start), query.shape[1]
    chosen = launch.tile("backward_query", longest, tile)
    n_tiles = triton.cdiv(longest, chosen.query)
    delta = torch.empty_like(lse)
    shape = (n_rows, n_heads, n_tiles, launch.n_prefix, launch.dim) if need_prefix else (0,)
    parts = [torch.empty(shape, dtype=torch.float32, device=query.device) for _ in range(2)]
    with torch.cuda.device_of(query):
        backward_query[(n_tiles * n_rows * n_heads,)](
            *launch.text,
            *launch.prefix,
            out,
            grad_out,
            lse,
            grad_query,
            delta,
            *parts,
            *launch.spans,
            scale,
            query.shape[2],
            n_tiles,
            window,
            *launch.strides(*launch.text),
            *launch.prefix_strides,
            *launch.strides(out, grad_out),
            *(launch.strides(grad_query) if need_query else (0, 0, 0)),
            *launch.lse_strides(lse),
            **launch.constants,
            **launch.prefix_constants,
            BLOCK_S=16,
            **_tile_constants(chosen),
            NEED_QUERY=need_query,
            NEED_PREFIX=need_prefix,
            PARTS_BY_ROW=tiles.parts_by_row(),
        )
        if need_text:
            chosen = launch.tile("backward_text", longest, tile)
            n_tiles = triton.cdiv(longest, chosen.text)
            backward_text[(n_tiles * n_rows * key.shape[1],)](
                *launch.text,
                grad_out,
                lse,
                delta,
                grad_key,
                grad_value,
                *launch.spans,
                scale,
                query.shape[2],
                n_tiles,
                window,
                *launch.strides(*launch.text, grad_out, grad_key, grad_value),
                *launch.lse_strides(lse),
                **launch.constants,
                **_tile_constants(chosen),
            )
    prefix_grads = [
        _add_up(part, one.shape[1], begin, one) if need_prefix else one.new_empty(0)
        for one, part, begin in (
            (prefix_key, parts[0], 0),
            (prefix_value, parts[1], 0),
            (own_key, parts[0], prefix_key.shape[2]),
            (own_value, parts[1], prefix_key.shape[2]),
        )
    ]
    return grad_query, grad_key, grad_value, *prefix_grads


@_backward.register_fake
def _(_: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    query, key, value, *prefixes = inputs[:7]
    need_query, need_text, need_prefix = inputs[-3:]
    return (
        *_text_gradients(query, key, value, need_query, need_text),
        *(x.new_empty(x.shape) if need_prefix else x.new_empty(0) for x in prefixes),
    )


def _text_gradients(
    query: Tensor, key: Tensor, value: Tensor, need_query: bool, need_text: bool
) -> list[Tensor]:
    """Return what the gradients of the text are written to, empty where not needed."""
    needs = ((query, need_query), (key, need_text), (value, need_text))
    return [torch.empty_like(_unit_stride(x)) if need else x.new_empty(0) for x, need in needs]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    out, lse = output
    ctx.save_for_backward(*inputs[:9], out, lse)
    ctx.options = inputs[9:]
    ctx.mark_non_differentiable(lse)


def _gradients(ctx: Any, grad_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:7]
    need_query, need_text, need_prefix = needs[0], any(needs[1:3]), any(needs[3:])
    grads = _backward(
        grad_out, *ctx.saved_tensors, *ctx.options, need_query, need_text, need_prefix
    )
    wanted = (grad if need else None for grad, need in zip(grads, needs, strict=True))
    return *wanted, *(None,) * (2 + len(ctx.options))


torch.library.register_autograd("rarec::prefix_attention", _gradients, setup_context=_setup_context)


class _Launch:
    """The arguments that the three kernels share."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix_key: Tensor,
        prefix_value: Tensor,
        own_key: Tensor,
        own_value: Tensor,
        start: Tensor,
        length: Tensor,
        *,
        causal: bool,
        window: int,
        packed: bool,
    ) -> None:
        self.packed = packed
        self.dim = query.shape[3]
        self.text = tuple(_unit_stride(x) for x in (query, key, value))
        # a source without rows is never read
        self.prefix = tuple(
            _unit_stride(x) if x.numel() else self.text[0]
            for x in (prefix_key, prefix_value, own_key, own_value)
        )
        self.prefix_strides = [
            stride
            for x in self.prefix
            for stride in (0 if x.shape[0] == 1 else x.stride(0), x.stride(1), x.stride(2))
        ]
        self.spans = (start.contiguous(), length.contiguous())
        n_shared, n_own = prefix_key.shape[2], own_key.shape[2]
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
            # pinned: triton's default changes in 3.10
            "enable_fp_fusion": True,
        }

    def tile(self, kernel: str, longest: int, given: Sequence[int]) -> Tile:
        """Return the tile of a launch: the given one, or the table's."""
        return Tile(*given) if given else choose_tile(kernel, longest, self.dim)

    def strides(self, *tensors: Tensor) -> list[int]:
        """Return batch, head and row strides of each; packed texts share their one batch row."""
        batch = 0 if self.packed else 1
        return [
            stride
            for tensor in tensors
            for stride in (batch * tensor.stride(0), tensor.stride(1), tensor.stride(2))
        ]

    def lse_strides(self, lse: Tensor) -> tuple[int, int]:
        """Return batch and head strides of a contiguous `[B, H, T]`."""
        return (0 if self.packed else lse.stride(0)), lse.stride(1)


def _tile_constants(tile: Tile) -> dict[str, int]:
    return {
        "BLOCK_Q": tile.query,
        "BLOCK_T": tile.text,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


def _add_up(part: Tensor, n_key_heads: int, begin: int, like: Tensor) -> Tensor:
    """Return the gradient of one source from `[B, H, tiles, S + K, D]`, added in float32.

    Query heads of one key head and tiles are added up, and the texts where they share the rows.
    """
    rows = part[:, :, :, begin : begin + like.shape[2]].unflatten(1, (n_key_heads, -1))
    return rows.sum(dim=(2, 3)).sum_to_size(like.shape).to(like.dtype)


def _unit_stride(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
