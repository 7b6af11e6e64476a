"""Prefix attention: text attends to a prefix and to itself (DESIGN.md section 1.4).

`softmax(Q [Kp; K]^T * scale + mask) [Vp; V]`, where the prefix `Kp, Vp` is visible to every query,
is no query itself and takes no position. Two implementations: a plain one that defines the result,
and a fused one in `rarec.kernels`.

Axes: B batch, h query heads, h_kv key heads, Q queries, T text tokens, S prefix tokens,
D head dimension, L = S + T. Usually Q = T; with cached keys Q is less.
"""

from __future__ import annotations

import importlib.util
import os

import torch
import torch.nn.functional as F
from torch import Tensor

IMPLEMENTATIONS = ("reference", "fused")
IMPLEMENTATION_VARIABLE = "RAREC_PREFIX_ATTENTION"


def prefix_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    *,
    mask: Tensor | None = None,
    padding: tuple[Tensor, Tensor] | None = None,
    causal: bool = False,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    implementation: str | None = None,
) -> Tensor:
    """Return the attention of text queries over the prefix and the text.

    A text row that may attend to no text still sees the prefix; without a prefix (`S = 0`) such a
    row is zero, and so are its gradients. With `S = 0`, no bias and no softcap the result is that
    of `torch.nn.functional.scaled_dot_product_attention`.

    Args:
        query: `[B, h, Q, D]`, `Q <= T`.
        key: `[B, h_kv, T, D]`, `h` a multiple of `h_kv`; same dtype and device as `query`.
        value: `[B, h_kv, T, D]`.
        prefix_key: `[B or 1, h_kv, S, D]`, one prefix per sample or one for the whole batch.
        prefix_value: Same shape as `prefix_key`.
        mask: Which text a query may attend to, `[B or 1, h or 1, Q or 1, T]`: bool (true = may
            attend) or additive float. It never covers the prefix.
        padding: The same for texts that are one span of their row: `(start, length)`, int32 `[B]`
            each, cut to `[0, T)`. Tokens outside the span are not attended to, and their own rows
            of the result are zero. Not together with `mask`; needs `Q = T`.
        causal: Let a query see only the text up to its own position, the last query being at the
            last key (lower right).
        bias: Additive float position bias that broadcasts to `[B, h, Q, T]`; zero for the prefix.
        scale: Factor of the logits; default `1 / sqrt(D)`.
        dropout: Probability of dropping an attention weight.
        softcap: Caps the logits to `softcap * tanh(logits / softcap)` before mask and bias.
        implementation: `"reference"` or `"fused"`. Default: the environment variable
            `RAREC_PREFIX_ATTENTION`, and where it is not set the reference on every device: the
            fused kernel has been checked in Triton's interpreter, but not timed on a GPU yet.

    Returns:
        `[B, h, Q, D]`, dtype of `query`, differentiable in all float inputs.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit together, the implementation is
            unknown, or the fused one is asked for where it cannot run.

    Example:
        >>> text, prefix = torch.zeros(1, 1, 2, 4), torch.ones(1, 1, 2, 4)
        >>> prefix_attention(text, text, text, prefix, prefix)[0, 0, :, 0]
        tensor([0.5000, 0.5000])
    """
    _check_tensors(query, key, value, prefix_key, prefix_value)
    _check_masks(query, key, mask, padding, bias)
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"expected dropout in [0, 1), got {dropout}")
    if softcap is not None and not softcap > 0.0:
        raise ValueError(f"expected softcap > 0, got {softcap}")
    if _chosen_implementation(implementation) == "reference":
        return prefix_attention_reference(
            query,
            key,
            value,
            prefix_key,
            prefix_value,
            mask=mask,
            padding=padding,
            causal=causal,
            bias=bias,
            scale=scale,
            dropout=dropout,
            softcap=softcap,
        )

    refusal = _fused_refusal(query, key, mask, bias, dropout, softcap)
    if refusal is not None:
        raise ValueError(f"expected inputs the fused prefix attention can run, got {refusal}")
    # imported here: triton is absent on macOS and Windows
    from rarec.kernels.prefix_attention import prefix_attention as fused

    return fused(
        query, key, value, prefix_key, prefix_value, padding=padding, causal=causal, scale=scale
    )


def prefix_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    *,
    mask: Tensor | None = None,
    padding: tuple[Tensor, Tensor] | None = None,
    causal: bool = False,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """Return what defines `prefix_attention`; the fused kernel is tested against this.

    Keys are concatenated and masked by one bool mask: the fastest form found on a CPU, and exact
    everywhere. Arguments are those of `prefix_attention`, unchecked.
    """
    present = None
    if padding is not None:
        present = _present(padding, key.shape[2])  # [B, T]
        mask = present[:, None, None, :]

    n_prefix = prefix_key.shape[2]
    # a flag and not a mask where torch's causal is ours: it is so only for as many keys as queries
    flag = causal and mask is None and bias is None and softcap is None
    flag = flag and n_prefix == 0 and query.shape[2] == key.shape[2]
    full_mask = _full_mask(query, key, n_prefix, mask, causal and not flag, bias)
    keys, values = key, value
    if n_prefix > 0:
        keys, values = _concatenate(prefix_key, key), _concatenate(prefix_value, value)

    grouped = query.shape[1] != key.shape[1]
    if softcap is not None:
        result = _capped_attention(query, keys, values, full_mask, scale, dropout, softcap)
    else:
        if grouped and full_mask is not None and query.device.type != "cpu":
            # on a GPU grouped heads with a mask leave torch's fused kernels; on a CPU they do not
            keys, values = _repeat_heads(query, keys, values)
            grouped = False
        result = F.scaled_dot_product_attention(
            query,
            keys,
            values,
            attn_mask=full_mask,
            dropout_p=dropout,
            is_causal=flag,
            scale=scale,
            enable_gqa=grouped,
        )
    if present is not None:
        result = result.masked_fill(~present[:, None, :, None], 0.0)
    return result


def _concatenate(prefix: Tensor, text: Tensor) -> Tensor:
    """Return prefix and text along the tokens, laid out in memory as the text is."""
    prefix = prefix.expand(text.shape[0], -1, -1, -1)
    if text.stride(1) < text.stride(2):
        # heads within tokens, as projections leave them: whole rows are copied, not strips
        return torch.cat([prefix.transpose(1, 2), text.transpose(1, 2)], dim=1).transpose(1, 2)
    return torch.cat([prefix, text], dim=2)


def _full_mask(
    query: Tensor,
    key: Tensor,
    n_prefix: int,
    mask: Tensor | None,
    causal: bool,
    bias: Tensor | None,
) -> Tensor | None:
    """Return mask, causality and bias as one mask over prefix and text, `[.., Q or 1, L]`."""
    n_queries, n_text = query.shape[2], key.shape[2]
    allowed = None
    if causal:
        allowed = torch.ones(n_queries, n_text, dtype=torch.bool, device=query.device)
        allowed = allowed.tril(n_text - n_queries)
    # four axes: torch's fast CPU kernel takes no mask of three
    added = None if bias is None else bias.to(query.dtype)[(None,) * (4 - bias.ndim)]
    if mask is not None and mask.dtype == torch.bool:
        allowed = mask if allowed is None else mask & allowed
    elif mask is not None:
        added = mask.to(query.dtype) if added is None else added + mask.to(query.dtype)

    if added is None:
        return allowed if allowed is None else F.pad(allowed, (n_prefix, 0), value=True)
    if allowed is not None:
        added = torch.where(allowed, added, float("-inf"))
    return F.pad(added, (n_prefix, 0), value=0.0)


def _capped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float | None,
    dropout: float,
    softcap: float,
) -> Tensor:
    """Return attention with logits capped before the mask; torch has no fused form of it."""
    key, value = _repeat_heads(query, key, value)
    logits = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    logits = softcap * torch.tanh(logits / softcap)
    blind = None
    if mask is not None:
        allowed = mask if mask.dtype == torch.bool else mask > float("-inf")
        logits = logits if mask.dtype == torch.bool else logits + mask
        blind = ~allowed.any(dim=-1, keepdim=True)
        # a row that sees nothing gets finite logits first: softmax of -inf alone is nan
        logits = logits.masked_fill(~allowed & ~blind, float("-inf")).masked_fill(blind, 0.0)
    at_least_float = torch.promote_types(query.dtype, torch.float32)
    weights = torch.softmax(logits, dim=-1, dtype=at_least_float).to(query.dtype)
    if blind is not None:
        weights = weights.masked_fill(blind, 0.0)
    return F.dropout(weights, p=dropout) @ value


def _repeat_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return key and value with one head for each query head."""
    group = query.shape[1] // key.shape[1]
    return key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)


def _present(padding: tuple[Tensor, Tensor], n_text: int) -> Tensor:
    """Return `[B, T]` bool: which tokens lie in their row's span."""
    start, length = (part.long()[:, None] for part in padding)
    position = torch.arange(n_text, device=start.device)
    return (position >= start) & (position < start + length)


def _chosen_implementation(implementation: str | None) -> str:
    """Return the implementation to run: the argument, the environment's, or the reference."""
    source = "implementation"
    if implementation is None:
        implementation = os.environ.get(IMPLEMENTATION_VARIABLE) or "reference"
        source = IMPLEMENTATION_VARIABLE
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"expected {source} in {list(IMPLEMENTATIONS)}, got {implementation!r}")
    return implementation


def _fused_refusal(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    dropout: float,
    softcap: float | None,
) -> str | None:
    """Return why the fused implementation cannot run here, or None."""
    if mask is not None:
        return "a dense mask (give padding=(start, length) instead)"
    if bias is not None or softcap is not None or dropout > 0.0:
        return "bias, softcap or dropout"
    if query.shape[2] != key.shape[2]:
        return f"{query.shape[2]} queries for {key.shape[2]} keys"
    if query.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"dtype {query.dtype}"
    if query.shape[3] > 128:
        return f"head dimension {query.shape[3]}, more than 128"
    if importlib.util.find_spec("triton") is None:
        return "no triton (pip install triton)"
    if not query.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"device {query.device} (a CPU runs it only interpreted: TRITON_INTERPRET=1)"
    return None


def _check_tensors(
    query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor
) -> None:
    """Raise ValueError unless the five tensors fit together."""
    tensors = (query, key, value, prefix_key, prefix_value)
    if any(tensor.ndim != 4 for tensor in tensors):
        raise ValueError(
            f"expected five tensors of 4 dimensions, got {[list(x.shape) for x in tensors]}"
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
    expected = (n_key_heads, prefix_key.shape[2], dim)
    if (
        prefix_key.shape[0] not in (1, n_batch)
        or prefix_key.shape[1:] != expected
        or prefix_value.shape != prefix_key.shape
    ):
        raise ValueError(
            f"expected prefix_key and prefix_value [{n_batch} or 1, {n_key_heads}, S, {dim}], "
            f"got {list(prefix_key.shape)} and {list(prefix_value.shape)}"
        )
    if not query.is_floating_point() or len({x.dtype for x in tensors}) > 1:
        raise ValueError(f"expected one float dtype, got {[x.dtype for x in tensors]}")
    if len({x.device for x in tensors}) > 1:
        raise ValueError(f"expected one device, got {[str(x.device) for x in tensors]}")


def _check_masks(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    padding: tuple[Tensor, Tensor] | None,
    bias: Tensor | None,
) -> None:
    """Raise ValueError unless mask, padding and bias fit the tensors."""
    shape = (*query.shape[:3], key.shape[2])
    given = [tensor for tensor in (mask, bias, *(padding or ())) if tensor is not None]
    if any(tensor.device != query.device for tensor in given):
        raise ValueError(
            f"expected mask, padding and bias on {query.device}, "
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


def _broadcasts(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    """Return whether `tensor` broadcasts to `shape` and covers its last axis fully."""
    if tensor.ndim > len(shape) or tensor.ndim == 0 or tensor.shape[-1] != shape[-1]:
        return False
    axes = zip(reversed(tensor.shape), reversed(shape), strict=False)
    return all(size in (1, full) for size, full in axes)
