"""Checks of the inputs of prefix attention."""

from __future__ import annotations

import torch
from torch import Tensor

from rarec.ops.packing import Packed


def check_tensors(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    own_key: Tensor | None,
    own_value: Tensor | None,
    packed: Packed | None,
) -> None:
    """Raise ValueError unless the tensors fit together."""
    own = (own_key, own_value)
    if sum(tensor is None for tensor in own) == 1:
        raise ValueError("expected own_key and own_value or neither, got only one of them")
    tensors = [query, key, value, prefix_key, prefix_value, *(x for x in own if x is not None)]
    if any(tensor.ndim != 4 for tensor in tensors):
        raise ValueError(
            f"expected tensors of 4 dimensions, got shapes {[list(x.shape) for x in tensors]}"
        )
    n_batch, n_heads, n_queries, dim = query.shape
    n_key_heads, n_text = key.shape[1], key.shape[2]
    if key.shape != (n_batch, n_key_heads, n_text, dim) or value.shape != key.shape:
        raise ValueError(
            f"expected key and value [{n_batch}, h_kv, T, {dim}] for query {list(query.shape)}, "
            f"got {list(key.shape)} and {list(value.shape)}"
        )
    if n_key_heads == 0 or n_heads % n_key_heads != 0:
        raise ValueError(f"expected h a multiple of h_kv, got {n_heads} and {n_key_heads}")
    if n_queries > n_text:
        raise ValueError(f"expected at most as many queries as keys, got {n_queries} and {n_text}")
    if packed is not None:
        if n_batch != 1 or n_queries != n_text:
            raise ValueError(
                f"expected B = 1 and Q = T for packed texts, "
                f"got B = {n_batch}, Q = {n_queries} and T = {n_text}"
            )
        n_batch = len(packed)
    for name, one, other, batches in (
        ("prefix", prefix_key, prefix_value, {1, n_batch}),
        ("own", own_key, own_value, {n_batch}),
    ):
        if one is None or other is None:
            continue
        expected = (n_key_heads, one.shape[2], dim)
        if one.shape[0] not in batches or one.shape[1:] != expected or other.shape != one.shape:
            raise ValueError(
                f"expected {name}_key and {name}_value "
                f"[{' or '.join(map(str, sorted(batches)))}, {n_key_heads}, S, {dim}], "
                f"got {list(one.shape)} and {list(other.shape)}"
            )
    if not query.is_floating_point() or len({x.dtype for x in tensors}) > 1:
        raise ValueError(f"expected one float dtype, got {[x.dtype for x in tensors]}")
    if len({x.device for x in tensors}) > 1:
        raise ValueError(f"expected one device, got {[str(x.device) for x in tensors]}")


def check_masks(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    padding: tuple[Tensor, Tensor] | None,
    packed: Packed | None,
    bias: Tensor | None,
) -> None:
    """Raise ValueError unless mask, padding, packed and bias fit the tensors."""
    shape = (*query.shape[:3], key.shape[2])
    offsets = None if packed is None else packed.offsets
    given = [tensor for tensor in (mask, bias, offsets, *(padding or ())) if tensor is not None]
    if any(tensor.device != query.device for tensor in given):
        raise ValueError(
            f"expected mask, padding, packed and bias on {query.device}, "
            f"got {[str(tensor.device) for tensor in given]}"
        )
    if mask is not None and not (mask.dtype == torch.bool or mask.is_floating_point()):
        raise ValueError(f"expected a bool or float mask, got {mask.dtype}")
    if mask is not None and (mask.ndim != 4 or not _broadcasts(mask, shape)):
        raise ValueError(f"expected a mask that broadcasts to {shape}, got {list(mask.shape)}")
    if bias is not None and not (bias.is_floating_point() and _broadcasts(bias, shape)):
        raise ValueError(
            f"expected a float bias that broadcasts to {shape}, got {bias.dtype} {list(bias.shape)}"
        )
    if offsets is not None:
        if any(x is not None for x in (mask, padding, bias)):
            raise ValueError("expected packed without mask, padding and bias")
        if offsets.ndim != 1 or len(offsets) == 0 or offsets.dtype != torch.int32:
            raise ValueError(
                f"expected offsets of packed texts as int32 [R + 1], "
                f"got {offsets.dtype} {list(offsets.shape)}"
            )
        # on a GPU, reading the numbers would wait for the device
        if packed is not None and offsets.device.type == "cpu":
            _check_offsets(packed, shape[3])
    if padding is not None:
        if mask is not None:
            raise ValueError("expected mask or padding, got both")
        if shape[2] != shape[3]:
            raise ValueError(f"expected Q = T with padding, got {shape[2]} and {shape[3]}")
        if any(part.shape != shape[:1] or part.dtype != torch.int32 for part in padding):
            raise ValueError(
                f"expected padding as two int32 [{shape[0]}], "
                f"got {[(part.dtype, list(part.shape)) for part in padding]}"
            )


def _check_offsets(packed: Packed, n_tokens: int) -> None:
    """Raise ValueError unless the texts fill the row and none is longer than `longest`."""
    offsets = packed.offsets
    if int(offsets[0]) != 0 or int(offsets[-1]) != n_tokens or bool((packed.lengths < 0).any()):
        raise ValueError(
            f"expected offsets of packed texts that rise from 0 to {n_tokens}, "
            f"got {int(offsets[0])} to {int(offsets[-1])}"
        )
    if len(packed) and int(packed.lengths.max()) > packed.longest:
        raise ValueError(
            f"expected no packed text longer than {packed.longest}, "
            f"got {int(packed.lengths.max())} tokens"
        )


def _broadcasts(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    """Return whether `tensor` broadcasts to `shape` and covers its last axis fully."""
    if tensor.ndim > len(shape) or tensor.ndim == 0 or tensor.shape[-1] != shape[-1]:
        return False
    axes = zip(reversed(tensor.shape), reversed(shape), strict=False)
    return all(size in (1, full) for size, full in axes)
