"""The providers of prefix attention: functions of the same inputs with the same result.

A provider that cannot run a case gives the reason, which is written to the results.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as flex_module

from benches.attention.inputs import Inputs, eager, without_padding
from benches.attention.merged import merged
from benches.attention.shapes import Case
from rarec import ops


def run_ops(inputs: Inputs, implementation: str) -> Tensor:
    """Return `rarec.ops.prefix_attention` of the inputs."""
    return ops.prefix_attention(
        inputs.query,
        inputs.key,
        inputs.value,
        inputs.prefix_key,
        inputs.prefix_value,
        own_key=inputs.own_key,
        own_value=inputs.own_value,
        padding=inputs.padding,
        causal=inputs.causal,
        window=inputs.window,
        implementation=implementation,
    )


def sdpa(inputs: Inputs) -> Tensor:
    """Return torch's attention over concatenated keys: the reference of `rarec.ops`."""
    return run_ops(inputs, "reference")


def fused(inputs: Inputs) -> Tensor:
    """Return the result of the fused kernels."""
    return run_ops(inputs, "fused")


def run_packed(inputs: Inputs, implementation: str = "fused") -> Tensor:
    """Return `rarec.ops.prefix_attention` of the same texts, packed and then padded again."""
    assert inputs.present is not None
    packed = ops.Packed.of(inputs.present)
    query, key, value = (
        packed.unpad(tensor.transpose(1, 2)).transpose(0, 1)[None]
        for tensor in (inputs.query, inputs.key, inputs.value)
    )
    result = ops.prefix_attention(
        query,
        key,
        value,
        inputs.prefix_key,
        inputs.prefix_value,
        own_key=inputs.own_key,
        own_value=inputs.own_value,
        packed=packed,
        causal=inputs.causal,
        window=inputs.window,
        implementation=implementation,
    )
    return packed.pad(result[0].transpose(0, 1)).transpose(1, 2)


def flex(inputs: Inputs) -> Tensor:
    """Return compiled FlexAttention over concatenated keys; its block mask is made once."""
    prefix_key, prefix_value = inputs.prefixes
    result = _compiled_flex()(
        inputs.query,
        torch.cat([prefix_key, inputs.key], dim=2),
        torch.cat([prefix_value, inputs.value], dim=2),
        block_mask=_block_mask(inputs),
        enable_gqa=inputs.query.shape[1] != inputs.key.shape[1],
    )
    return without_padding(inputs, result)


@cache
def _compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_module.flex_attention, dynamic=False)


# cached for one case: the layers of a model share one mask, so making it is not timed
@lru_cache(maxsize=1)
def _block_mask(inputs: Inputs) -> flex_module.BlockMask | None:
    causal, window = inputs.causal, inputs.window
    if inputs.padding is None and not causal and window is None:
        return None
    n_batch, _, n_text, _ = inputs.query.shape
    n_prefix = inputs.prefixes[0].shape[2]
    span = None
    if inputs.padding is not None:
        span = inputs.padding[0], inputs.padding[0] + inputs.padding[1]

    def allowed(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        text = key - n_prefix
        seen = text >= 0
        if span is not None:
            seen = (text >= span[0][batch]) & (text < span[1][batch])
        if causal:
            seen = seen & (text <= query)
        if window is not None:
            seen = seen & ((text - query).abs() < window)
        return seen | (key < n_prefix)

    rows = None if span is None else n_batch
    return flex_module.create_block_mask(
        allowed, rows, None, n_text, n_prefix + n_text, device=str(inputs.query.device)
    )


@dataclass(frozen=True)
class Provider:
    """One implementation of prefix attention.

    Attributes:
        name: Name in the results.
        run: Function that returns the result `[B, H, T, D]`.
        refusal: Function that returns why a case cannot run on a type of device; None if it can.
    """

    name: str
    run: Callable[[Inputs], Tensor]
    refusal: Callable[[Case, str], str | None]


def _never(_case: Case, _device: str) -> None:
    return None


def _refuse_merged(case: Case, device: str) -> str | None:
    if device == "cpu":
        return None
    if case.padded:
        return "torch's flash attention on a GPU does not support lengths of texts"
    if case.dtype not in ("float16", "bfloat16"):
        return f"torch's flash attention on a GPU does not support {case.dtype}"
    return None


def _refuse_flex(_case: Case, device: str) -> str | None:
    if device == "cpu":
        return "FlexAttention has no backward on a CPU"
    return None if importlib.util.find_spec("triton") else "no triton (pip install triton)"


def _refuse_fused(case: Case, device: str) -> str | None:
    if device != "cuda":
        return "no GPU: Triton's interpreter is never timed"
    asked = ops.Case(
        device=device,
        dtype=case.torch_dtype,
        dim=case.shape.dim,
        n_text=case.n_text,
        n_prefix=case.n_prefix,
        padded=case.padded,
    )
    try:
        ops.choose(asked, "fused")
    except ValueError as error:
        return str(error)
    return None


PROVIDERS = (
    Provider("eager", eager, _never),
    Provider("sdpa", sdpa, _never),
    Provider("merged", merged, _refuse_merged),
    Provider("flex", flex, _refuse_flex),
    Provider("fused", fused, _refuse_fused),
)


def forget_compiled() -> None:
    """Make the next case compile again: torch stops specialising a function after a few shapes."""
    torch.compiler.reset()
    _compiled_flex.cache_clear()
    _block_mask.cache_clear()
