"""The reference of prefix attention: torch's attention over concatenated keys.

Axes: B batch, h query heads, h_kv key heads, Q queries, T text tokens, S prefix tokens (both
parts), D head dimension, L = S + T. Packed texts: R texts, N tokens of all texts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import CausalBias, causal_lower_right

from rarec.ops.packing import Packed


def prefix_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    *,
    own_key: Tensor | None = None,
    own_value: Tensor | None = None,
    mask: Tensor | None = None,
    padding: tuple[Tensor, Tensor] | None = None,
    packed: Packed | None = None,
    causal: bool = False,
    window: int | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """Return the attention that defines `prefix_attention`; the fused kernel is tested against it.

    It concatenates prefix and text and covers both by one mask. That is the fastest form found on a
    CPU. The arguments are those of `prefix_attention`; they are not checked here.
    """
    if packed is not None:
        return _packed_attention(
            (query, key, value),
            (prefix_key, prefix_value),
            (own_key, own_value),
            packed,
            causal=causal,
            window=window,
            scale=scale,
            dropout=dropout,
            softcap=softcap,
        )

    present = None
    if padding is not None:
        present = _present(padding, key.shape[2])  # [B, T]
        mask = present[:, None, None, :]

    prefixes = [(prefix_key, prefix_value)]
    if own_key is not None and own_value is not None:
        prefixes.append((own_key, own_value))
    prefixes = [pair for pair in prefixes if pair[0].shape[2] > 0]
    n_prefix = sum(keys.shape[2] for keys, _ in prefixes)
    # torch's is_causal means the same as ours only for as many keys as queries, without a prefix
    flag = causal and mask is None and bias is None and softcap is None and window is None
    flag = flag and n_prefix == 0 and query.shape[2] == key.shape[2]
    if _lower_right(query, causal and not flag, mask, bias, softcap, window):
        full_mask: Any = causal_lower_right(query.shape[2], n_prefix + key.shape[2])
    else:
        full_mask = _full_mask(query, key, n_prefix, mask, causal and not flag, window, bias)
    keys, values = key, value
    if prefixes:
        keys = _concatenate([keys for keys, _ in prefixes], key)
        values = _concatenate([values for _, values in prefixes], value)

    grouped = query.shape[1] != key.shape[1]
    if softcap is not None:
        result = _capped_attention(query, keys, values, full_mask, scale, dropout, softcap)
    else:
        dense = full_mask is not None and not isinstance(full_mask, CausalBias)
        if grouped and dense and query.device.type != "cpu":
            # on a GPU torch has no fused kernel for grouped heads with a mask; on a CPU it has one
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


def _lower_right(query: Tensor, causal: bool, *others: object) -> bool:
    """Return whether the mask is causality alone, on a GPU, where torch has a fast form of it."""
    return causal and query.device.type == "cuda" and all(other is None for other in others)


def _packed_attention(
    text: tuple[Tensor, Tensor, Tensor],
    prefix: tuple[Tensor, Tensor],
    own: tuple[Tensor | None, Tensor | None],
    packed: Packed,
    **options: Any,
) -> Tensor:
    """Return the attention of packed texts, which are padded part by part (`Packed.parts`)."""
    parts = packed.parts
    n_tokens = [part.n_tokens for part in parts]
    pieces = zip(*(tensor.split(n_tokens, dim=2) for tensor in text), strict=True)
    results, first = [], 0
    for part, piece in zip(parts, pieces, strict=True):
        query, key, value = (
            part.pad(tensor[0].transpose(0, 1)).transpose(1, 2) for tensor in piece
        )
        rows = slice(first, first + len(part))
        first += len(part)
        prefix_key, prefix_value = (x if len(x) == 1 else x[rows] for x in prefix)
        own_key, own_value = (x if x is None else x[rows] for x in own)
        table = prefix_attention_reference(
            query,
            key,
            value,
            prefix_key,
            prefix_value,
            own_key=own_key,
            own_value=own_value,
            mask=part.present[:, None, None, :],
            **options,
        )
        results.append(part.unpad(table.transpose(1, 2)))
    return torch.cat(results).transpose(0, 1)[None]


def _concatenate(prefixes: list[Tensor], text: Tensor) -> Tensor:
    """Return prefixes and text concatenated along the tokens, in the memory layout of the text."""
    parts = [*(prefix.expand(text.shape[0], -1, -1, -1) for prefix in prefixes), text]
    if text.stride(1) < text.stride(2):
        # projections leave the heads of a token side by side: copy whole tokens, not single heads
        return torch.cat([part.transpose(1, 2) for part in parts], dim=1).transpose(1, 2)
    return torch.cat(parts, dim=2)


def _full_mask(
    query: Tensor,
    key: Tensor,
    n_prefix: int,
    mask: Tensor | None,
    causal: bool,
    window: int | None,
    bias: Tensor | None,
) -> Tensor | None:
    """Return mask, causality, window and bias as one mask `[.., Q or 1, L]`, or None."""
    n_queries, n_text = query.shape[2], key.shape[2]
    allowed = None
    if causal or window is not None:
        allowed = torch.ones(n_queries, n_text, dtype=torch.bool, device=query.device)
        if causal:
            allowed = allowed.tril(n_text - n_queries)
        if window is not None:
            allowed = allowed.tril(window - 1).triu(1 - window)
    # four axes: torch's fast CPU kernel does not accept a mask of three axes
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
    """Return attention whose logits are capped before the mask; torch has no fused form of it."""
    key, value = _repeat_heads(query, key, value)
    logits = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    logits = softcap * torch.tanh(logits / softcap)
    blind = None
    if mask is not None:
        allowed = mask if mask.dtype == torch.bool else mask > float("-inf")
        logits = logits if mask.dtype == torch.bool else logits + mask
        blind = ~allowed.any(dim=-1, keepdim=True)
        # a query that sees nothing gets logits of 0 first: the softmax of only -inf is nan
        logits = logits.masked_fill(~allowed & ~blind, float("-inf")).masked_fill(blind, 0.0)
    at_least_float = torch.promote_types(query.dtype, torch.float32)
    weights = torch.softmax(logits, dim=-1, dtype=at_least_float).to(query.dtype)
    if blind is not None:
        weights = weights.masked_fill(blind, 0.0)
    return F.dropout(weights, p=dropout) @ value


def _repeat_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return key and value repeated to one head for each query head."""
    group = query.shape[1] // key.shape[1]
    return key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)


def _present(padding: tuple[Tensor, Tensor], n_text: int) -> Tensor:
    """Return `[B, T]` bool: true for the tokens in the span of their row."""
    start, length = (part.long()[:, None] for part in padding)
    position = torch.arange(n_text, device=start.device)
    return (position >= start) & (position < start + length)
