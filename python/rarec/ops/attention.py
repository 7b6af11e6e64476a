"""Prefix attention: text attends to a prefix and to itself (DESIGN.md section 1.4).

`softmax(Q [Kp; K]^T * scale + mask) [Vp; V]`, where the prefix `Kp, Vp` is visible to every query,
is no query itself and takes no position. Two implementations: a plain one that defines the result,
and a fused one in `rarec.kernels`.

Axes: B batch, h query heads, h_kv key heads, Q queries, T text tokens, S and K prefix tokens,
D head dimension. Usually Q = T; with cached keys Q is less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rarec.ops.checks import check_masks, check_tensors
from rarec.ops.choice import Case, choose
from rarec.ops.packing import Packed
from rarec.ops.reference import prefix_attention_reference


def prefix_attention(
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
    implementation: str | None = None,
) -> Tensor:
    """Return the attention of text queries over the prefix and the text.

    A text row that may attend to no text still sees the prefix; without a prefix (`S + K = 0`) such
    a row is zero, and so are its gradients. Without a prefix, bias and softcap the result is that
    of `torch.nn.functional.scaled_dot_product_attention`. Under autocast all inputs are taken in
    its dtype.

    Args:
        query: `[B, h, Q, D]`, `Q <= T`.
        key: `[B, h_kv, T, D]`, `h` a multiple of `h_kv`; same dtype and device as `query`.
        value: `[B, h_kv, T, D]`.
        prefix_key: `[B or 1, h_kv, S, D]`, one prefix per sample or one for the whole batch.
        prefix_value: Same shape as `prefix_key`.
        own_key: `[B, h_kv, K, D]`, more prefix per sample, after `prefix_key`.
        own_value: Same shape as `own_key`.
        mask: Which text a query may attend to, `[B or 1, h or 1, Q or 1, T]`: bool (true = may
            attend) or additive float. It never covers the prefix.
        padding: The same for texts that are one span of their row: `(start, length)`, int32 `[B]`
            each, cut to `[0, T)`. Tokens outside the span are not attended to, and their own rows
            of the result are zero. Not together with `mask`; needs `Q = T`.
        packed: The texts stand one after the other in the one row of `query`, `key` and `value`
            (`B = 1`, `T = N`), and see themselves alone; B above is then the number of texts. Not
            together with `mask`, `padding` or `bias`.
        causal: Let a query see only the text up to its own position, the last query being at the
            last key (lower right).
        window: Let a query see only the text less than so many tokens away; needs `Q = T`.
        bias: Additive float position bias that broadcasts to `[B, h, Q, T]`; zero for the prefix.
        scale: Factor of the logits; default `1 / sqrt(D)`.
        dropout: Probability of dropping an attention weight.
        softcap: Caps the logits to `softcap * tanh(logits / softcap)` before mask and bias.
        implementation: `"reference"` or `"fused"`. Default: the environment variable
            `RAREC_PREFIX_ATTENTION`, and where it is not set what `choose` says.

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
    device = query.device.type
    # torch 2.11 cannot compile the question; it compiles for devices that have it
    known = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device)
    if known and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        prefix_key, prefix_value = prefix_key.to(dtype), prefix_value.to(dtype)
        own_key, own_value = (x if x is None else x.to(dtype) for x in (own_key, own_value))
    check_tensors(query, key, value, prefix_key, prefix_value, own_key, own_value, packed)
    check_masks(query, key, mask, padding, packed, bias)
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"expected dropout in [0, 1), got {dropout}")
    if softcap is not None and not softcap > 0.0:
        raise ValueError(f"expected softcap > 0, got {softcap}")
    if window is not None and (window < 1 or query.shape[2] != key.shape[2]):
        raise ValueError(
            f"expected window >= 1 and Q = T with it, "
            f"got {window}, {query.shape[2]} and {key.shape[2]}"
        )
    case = Case(
        device=device,
        dtype=query.dtype,
        dim=query.shape[3],
        n_text=key.shape[2] if packed is None else packed.longest,
        n_prefix=prefix_key.shape[2] + (0 if own_key is None else own_key.shape[2]),
        padded=padding is not None,
        packed=packed is not None,
        windowed=window is not None,
        other=_other(query, key, mask, bias, dropout, softcap),
    )
    choice = choose(case, implementation)
    if choice.implementation == "fused":
        # imported here: triton is absent on macOS and Windows
        from rarec.kernels.prefix_attention import prefix_attention as fused

        return fused(
            query,
            key,
            value,
            prefix_key,
            prefix_value,
            own_key=own_key,
            own_value=own_value,
            padding=padding,
            packed=None if packed is None else (packed.start, packed.lengths, packed.longest),
            causal=causal,
            window=window,
            scale=scale,
        )
    return prefix_attention_reference(
        query,
        key,
        value,
        prefix_key,
        prefix_value,
        own_key=own_key,
        own_value=own_value,
        mask=mask,
        padding=padding,
        packed=packed,
        causal=causal,
        window=window,
        bias=bias,
        scale=scale,
        dropout=dropout,
        softcap=softcap,
    )


def _other(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    dropout: float,
    softcap: float | None,
) -> str | None:
    """Return what only the reference can do."""
    if mask is not None:
        return "a dense mask (give padding or packed instead)"
    if bias is not None or softcap is not None or dropout > 0.0:
        return "bias, softcap or dropout"
    if query.shape[2] != key.shape[2]:
        return f"{query.shape[2]} queries for {key.shape[2]} keys"
    return None
