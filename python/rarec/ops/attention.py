"""Prefix attention: text attends to a prefix and to itself (docs/method.md, "Prefix attention").

The result is `softmax(Q [Kp; K]^T * scale + mask) [Vp; V]`. Every query sees the prefix `Kp, Vp`;
prefix tokens are not queries and take no position. There are two implementations: a plain one,
which defines the result, and a fused one in `rarec.kernels`.

Axes: B batch, h query heads, h_kv key heads, Q queries, T text tokens, S and K prefix tokens,
D head dimension. Usually Q = T; with cached keys Q is smaller than T.
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

    A query that may attend to no text still sees the prefix. Without a prefix (`S + K = 0`) the
    result of such a query is zero, and so are its gradients. Without prefix, bias and softcap the
    result equals that of `torch.nn.functional.scaled_dot_product_attention`. Under autocast all
    inputs are converted to the autocast dtype.

    Args:
        query: `[B, h, Q, D]` queries of the text, `Q <= T`.
        key: `[B, h_kv, T, D]` keys of the text. `h` is a multiple of `h_kv`; dtype and device are
            those of `query`.
        value: `[B, h_kv, T, D]` values of the text.
        prefix_key: `[B or 1, h_kv, S, D]` keys of the prefix: one prefix per sample, or one for the
            whole batch.
        prefix_value: Values of the prefix, same shape as `prefix_key`.
        own_key: `[B, h_kv, K, D]` keys of a second prefix part per sample. It comes after
            `prefix_key`.
        own_value: Values of that part, same shape as `own_key`.
        mask: `[B or 1, h or 1, Q or 1, T]`, the text tokens that a query may attend to: bool (true
            means that it may) or additive float. The mask never covers the prefix.
        padding: A shorter form of the mask, for texts that fill one span of their row:
            `(start, length)`, int32 `[B]` each, cut to `[0, T)`. No query attends to a token
            outside the span, and the result of such a token is zero. It needs `Q = T` and excludes
            `mask`.
        packed: Offsets of packed texts. All texts are then one after the other in the single row
            of `query`, `key` and `value` (`B = 1`, `T = N`), and each text sees only itself. For
            the prefix, B is the number of texts. It excludes `mask`, `padding` and `bias`.
        causal: Let a query see only the text up to its own position. The last query is at the
            position of the last key.
        window: Let a query see only text tokens that are fewer than this many positions away. It
            needs `Q = T`.
        bias: Additive float position bias that broadcasts to `[B, h, Q, T]`. The bias of the prefix
            is zero.
        scale: Factor of the logits; `1 / sqrt(D)` by default.
        dropout: Probability of dropping an attention weight.
        softcap: Replaces the logits by `softcap * tanh(logits / softcap)`, before mask and bias.
        implementation: `"reference"` or `"fused"`. The default is the value of the environment
            variable `RAREC_PREFIX_ATTENTION`; if that is not set, `choose` decides.

    Returns:
        `[B, h, Q, D]` in the dtype of `query`, differentiable in all float inputs.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit together, if the implementation is
            unknown, or if `"fused"` is asked for and cannot run.

    Example:
        >>> text, prefix = torch.zeros(1, 1, 2, 4), torch.ones(1, 1, 2, 4)
        >>> prefix_attention(text, text, text, prefix, prefix)[0, 0, :, 0]
        tensor([0.5000, 0.5000])
    """
    device = query.device.type
    # torch 2.11 cannot compile this call; every device it compiles for supports autocast
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
            f"expected window >= 1 and Q = T with a window, "
            f"got window {window}, Q = {query.shape[2]} and T = {key.shape[2]}"
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
        reference_only=_reference_only(query, key, mask, bias, dropout, softcap),
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


def _reference_only(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    dropout: float,
    softcap: float | None,
) -> str | None:
    """Return the name of an input that only the reference supports; None if there is none."""
    if mask is not None:
        return "a dense mask (give padding or packed instead)"
    if bias is not None or softcap is not None or dropout > 0.0:
        return "bias, softcap or dropout"
    if query.shape[2] != key.shape[2]:
        return f"{query.shape[2]} queries for {key.shape[2]} keys"
    return None
