"""Prefix attention without concatenated keys, as one operation that torch can differentiate.

`torch.ops.rarec.prefix_attention` and its backward are custom operations. torch knows the shapes of
their results without running them, so `torch.compile`, checkpointing and autograd see one node.
`rarec.ops` checks the inputs and calls this module.

Axes: B texts, H query heads, h_kv key heads, T text tokens, S and K prefix tokens, D head
dimension. With packed texts the tensors of the text have one row of T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rarec.kernels.backward import backward_query, backward_text
from rarec.kernels.forward import forward
from rarec.kernels.launch import Launch, tile_constants, unit_stride
from rarec.kernels.tiles import Tile, parts_by_row, power_of_two

#: Types of tensors that hold data; other types stand for them while torch traces a program.
_PLAIN = (Tensor, torch.nn.Parameter)


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

    Inputs are float16 or bfloat16, or float32 in the interpreter, with `D <= 128` and
    `S + K <= 64`. `packed` holds the first token and the length of each text, int32 `[B]` each, and
    the length of the longest text. `tile` is the tile of all launches; by default
    `rarec.kernels.tiles` chooses it.
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
    tensors = (
        query,
        key,
        value,
        prefix_key,
        prefix_value,
        own_key,
        own_value,
        start,
        length,
    )
    options = (
        longest,
        packed is not None,
        causal,
        window or 0,
        query.shape[3] ** -0.5 if scale is None else scale,
        list(tile or ()),
    )
    # around torch's dispatcher: calling a custom operation takes longer than a small kernel
    if not torch.compiler.is_compiling() and all(type(x) in _PLAIN for x in tensors):
        return _Eager.apply(*tensors, *options)
    out, _ = _forward(*tensors, *options)
    return out


def _run_forward(
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
    """Return the attention, and the log-sum-exp of the logits of each query.

    Args:
        query: `[B, H, T, D]` queries of the text. With packed texts B is 1 here and for `key`
            and `value`.
        key: `[B, h_kv, T, D]` keys of the text.
        value: `[B, h_kv, T, D]` values of the text.
        prefix_key: `[B or 1, h_kv, S, D]` keys of the shared prefix.
        prefix_value: Values of the shared prefix, same shape as `prefix_key`.
        own_key: `[B, h_kv, K, D]` keys of the prefix of each sample; K may be 0.
        own_value: Values of that prefix, same shape as `own_key`.
        start: `[B]` int32, first token of each text.
        length: `[B]` int32, number of tokens of each text.
        longest: Number of tokens of the longest text, or more.
        packed: Whether the texts are packed in one row.
        causal: Let a query see only the text up to its own position.
        window: Let a query see only text tokens that are fewer than this many positions away; 0 for
            no window.
        scale: Factor of the logits.
        tile: A `Tile`; empty to choose one.

    Returns:
        The attention `[B, H, T, D]` in the dtype of `query`, zero in padded rows, and the
        log-sum-exp `[B, H, T]` float32, `+inf` in padded rows (so that `exp(logit - lse)` is 0).
    """
    # the memory layout of `query`: the result of a transposed view is one too
    out = torch.empty_like(unit_stride(query))
    lse = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
    if out.numel() == 0:
        return out, lse
    launch = Launch(
        (query, key, value),
        (prefix_key, prefix_value, own_key, own_value),
        (start, length),
        causal=causal,
        window=window,
        packed=packed,
    )
    chosen = launch.tile("forward", longest, tile)
    n_tiles = -(-longest // chosen.query)
    # a launch goes to the current device, which may differ from the device of the tensors
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
            BLOCK_S=power_of_two(launch.n_prefix),
            **tile_constants(chosen),
        )
    return out, lse


_forward = torch.library.custom_op("rarec::prefix_attention", _run_forward, mutates_args=())


@_forward.register_fake
def _(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(unit_stride(query))
    return out, query.new_empty(query.shape[:3], dtype=torch.float32)


def _run_backward(
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
    """Return the gradients of the seven float inputs of `_run_forward`, empty if not needed."""
    grad_query, grad_key, grad_value = _text_gradients(query, key, value, need_query, need_text)
    if out.numel() == 0:
        grads = [torch.zeros_like(x) if need_prefix else x.new_empty(0)
                 for x in (prefix_key, prefix_value, own_key, own_value)]  # fmt: skip
        return grad_query, grad_key, grad_value, *grads
    grad_out = unit_stride(grad_out)
    launch = Launch(
        (query, key, value),
        (prefix_key, prefix_value, own_key, own_value),
        (start, length),
        causal=causal,
        window=window,
        packed=packed,
    )
    n_rows, n_heads = len(start), query.shape[1]
    chosen = launch.tile("backward_query", longest, tile)
    n_tiles = -(-longest // chosen.query)
    delta = torch.empty_like(lse)
    shape = (n_rows, n_heads, n_tiles, launch.n_prefix, launch.dim) if need_prefix else (0,)
    # parts[0] for the keys, parts[1] for the values
    parts = torch.empty((2, *shape), dtype=torch.float32, device=query.device)
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
            **tile_constants(chosen),
            NEED_QUERY=need_query,
            NEED_PREFIX=need_prefix,
            PARTS_BY_ROW=parts_by_row(),
        )
        if need_text:
            chosen = launch.tile("backward_text", longest, tile)
            n_tiles = -(-longest // chosen.text)
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
                **tile_constants(chosen),
            )
    if not need_prefix:
        return grad_query, grad_key, grad_value, *(key.new_empty(0) for _ in range(4))
    return grad_query, grad_key, grad_value, *_add_up(parts, prefix_key, own_key)


_backward = torch.library.custom_op(
    "rarec::prefix_attention_backward", _run_backward, mutates_args=()
)


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
    """Return the outputs for the gradients of the text; empty tensors where not needed."""
    needs = ((query, need_query), (key, need_text), (value, need_text))
    return [torch.empty_like(unit_stride(x)) if need else x.new_empty(0) for x, need in needs]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    out, lse = output
    ctx.save_for_backward(*inputs[:9], out, lse)
    ctx.options = inputs[9:]
    ctx.mark_non_differentiable(lse)


def _gradients(
    backward: Callable[..., tuple[Tensor, ...]], ctx: Any, grad_out: Tensor
) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:7]
    need_query, need_text, need_prefix = needs[0], any(needs[1:3]), any(needs[3:])
    grads = backward(grad_out, *ctx.saved_tensors, *ctx.options, need_query, need_text, need_prefix)
    wanted = (grad if need else None for grad, need in zip(grads, needs, strict=True))
    return *wanted, *(None,) * (2 + len(ctx.options))


torch.library.register_autograd(
    "rarec::prefix_attention",
    lambda ctx, grad_out, _: _gradients(_backward, ctx, grad_out),
    setup_context=_setup_context,
)


class _Eager(torch.autograd.Function):
    """The operation for tensors that hold data."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """Return the attention, the first result of `_run_forward`."""
        out, lse = _run_forward(*inputs)
        ctx.save_for_backward(*inputs[:9], out, lse)
        ctx.options = inputs[9:]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all inputs."""
        return _gradients(_run_backward, ctx, grad_out)


def _add_up(
    parts: Tensor, prefix_key: Tensor, own_key: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the prefix from parts `[2, B, H, tiles, S + K, D]`.

    The parts of the tiles, and of the query heads of one key head, are added up in float32. For a
    prefix that the batch shares, the parts of the texts are added up too.
    """
    n_rows, n_key_heads, n_own, _ = own_key.shape
    sums = parts.unflatten(2, (n_key_heads, parts.shape[2] // n_key_heads)).sum((3, 4))
    shared, own = sums.split((prefix_key.shape[2], n_own), dim=3)
    if len(prefix_key) != n_rows:
        shared = shared.sum(1, keepdim=True)
    # copies: the results of a custom operation must not be views of one another
    key, value, of_own_key, of_own_value = (x.to(own_key.dtype, copy=True) for x in (*shared, *own))
    return key, value, of_own_key, of_own_value
