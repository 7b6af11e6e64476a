"""A calculated model of prefix attention: its operations, and the bytes it reads and writes.

Every tensor that a kernel reads or writes counts once, as if caches kept it for a second reading.
No provider can be faster than `bytes / bandwidth`; the time above that is spent on something else.

Axes: B batch, H query heads, G key heads, T text tokens, S shared and K own prefix tokens,
P = S + K, L = P + T, D head dimension; N tokens of all texts without padding.
"""

from __future__ import annotations

from dataclasses import dataclass

from benches.attention.shapes import Case

PASSES = ("forward", "backward", "both")
#: Queries of one program of the fused backward, which writes one part of the prefix gradient.
BACKWARD_ROWS = 64


def flops(case: Case, part: str) -> float:
    """Return the number of operations that the result needs, the same for every provider.

    Two products of `2 D` operations for each visible pair of query and key in the forward, five in
    the backward, which computes the logits again (Dao et al. 2022, arXiv:2205.14135, section B):
    `4 D H pairs` and `10 D H pairs`, where a text of `n` tokens has `n (P + n)` pairs, or
    `n P + n (n + 1) / 2` if causal. Padding counts as no work.

    Args:
        case: The case.
        part: One of `PASSES`.
    """
    causal = case.shape.causal
    texts = (n * (n + 1) / 2 if causal else n * n for n in case.lengths)
    pairs = sum(texts) + case.n_prefix * sum(case.lengths)
    forward = 4.0 * case.shape.dim * case.shape.n_heads * pairs
    return {"forward": forward, "backward": 2.5 * forward, "both": 3.5 * forward}[part]


def bytes_moved(provider: str, case: Case, part: str, device: str = "cuda") -> float:
    """Return the bytes that a provider reads and writes.

    Args:
        provider: Name of the provider.
        case: The case.
        part: One of `PASSES`.
        device: Type of the device; on a CPU, torch's attention with a mask does not repeat heads.
    """
    if part == "both":
        return sum(bytes_moved(provider, case, one, device) for one in ("forward", "backward"))
    return _MODELS[provider, part](_sizes(case, device))


@dataclass(frozen=True)
class _Sizes:
    """The bytes of each tensor. Keys and values together count as one tensor.

    Attributes:
        query: Queries `[B, H, T, D]`; the result has the same size.
        text: Keys and values `[B, G, T, D]` of the text.
        read_query: Queries `[N, H, D]` without padding.
        read_text: Keys and values `[N, G, D]` of the text without padding.
        prefix: Keys and values of the prefix as inputs, `[1, G, S, D]` and `[B, G, K, D]`.
        prefixes: Keys and values `[B, G, P, D]` of the whole prefix.
        keys: Keys and values `[B, G, L, D]` of prefix and text.
        repeated: Keys and values `[B, H, L, D]`, if torch's attention needs repeated heads; else 0.
        all_heads: The same for the plain attention; 0 if H = G.
        logits: Logits `[B, H, T, L]`.
        lse: Log-sum-exp `[B, H, T]`, float32.
        mask: Bool mask over prefix and text.
        fill: Reading and writing the result, to put zeros into the padding.
        partials: Parts of the prefix gradients of all programs of the fused backward, float32.
        sums: Gradient of the query, which torch's flash backward adds up in memory, float32.
    """

    query: float
    text: float
    read_query: float
    read_text: float
    prefix: float
    prefixes: float
    keys: float
    repeated: float
    all_heads: float
    logits: float
    lse: float
    mask: float
    fill: float
    partials: float
    sums: float


def _sizes(case: Case, device: str) -> _Sizes:
    shape, size = case.shape, case.torch_dtype.itemsize
    n_rows, n_text, n_prefix, n_present = (
        case.n_batch,
        case.n_text,
        case.n_prefix,
        sum(case.lengths),
    )
    n_keys = n_prefix + n_text
    query, text = size * shape.n_heads * shape.dim, 2 * size * shape.n_key_heads * shape.dim
    grouped = shape.n_heads != shape.n_key_heads
    mask = (n_rows if case.padded else 1) * (n_text if shape.causal else 1) * n_keys
    masked = case.padded or shape.causal
    all_heads = 2.0 * query * n_rows * n_keys if grouped else 0.0
    tiles = n_rows * -(-n_text // BACKWARD_ROWS)
    return _Sizes(
        query=query * n_rows * n_text,
        text=text * n_rows * n_text,
        read_query=query * n_present,
        read_text=text * n_present,
        prefix=text * (case.n_shared + n_rows * case.n_own),
        prefixes=text * n_rows * n_prefix,
        keys=text * n_rows * n_keys,
        repeated=all_heads if masked and device != "cpu" else 0.0,
        all_heads=all_heads,
        logits=size * n_rows * shape.n_heads * n_text * n_keys,
        lse=4 * n_rows * shape.n_heads * n_text,
        mask=mask if masked else 0,
        fill=2 * query * n_rows * n_text if case.padded else 0,
        partials=2 * 4 * tiles * shape.n_heads * n_prefix * shape.dim,
        sums=4 * n_rows * n_text * shape.n_heads * shape.dim,
    )


def _fused_forward(of: _Sizes) -> float:
    """Read queries, text and prefix; write the result and the log-sum-exp."""
    return of.read_query + of.read_text + of.prefix + of.query + of.lse


def _fused_backward(of: _Sizes) -> float:
    """Run two kernels: one for the gradient of the queries, one for the gradients of the text.

    The first reads queries, text, prefix, result and gradient of the result. It writes the gradient
    of the queries, `sum(grad_out * out)`, and the parts of the prefix gradients, which are then
    added up. The second reads queries, text and the gradient of the result, and writes the
    gradients of the text.
    """
    queries = 3 * of.read_query + of.read_text + of.prefix + 2 * of.lse + of.query + of.partials
    prefix = of.partials + of.prefix
    text = 2 * of.read_query + of.read_text + 2 * of.lse + of.text
    return queries + prefix + text


def _cat(of: _Sizes) -> float:
    return of.text + of.prefix + of.keys


def _cat_backward(of: _Sizes) -> float:
    """Return views for the text; add the gradients of the shared prefix up over the batch."""
    return of.prefixes + of.prefix


def _sdpa_forward(of: _Sizes) -> float:
    """Concatenate, build the mask, repeat grouped heads if there is a mask, attend."""
    repeat = of.keys + of.repeated if of.repeated else 0.0
    keys = of.repeated or of.keys
    attend = of.query + keys + of.mask + of.query + of.lse
    return _cat(of) + of.mask + repeat + attend + of.fill


def _sdpa_backward(of: _Sizes) -> float:
    """Read queries, keys, mask, result and its gradient; write three gradients."""
    keys = of.repeated or of.keys
    attend = 3 * of.query + keys + of.mask + of.lse + 2 * of.sums + of.query + keys
    repeat = of.repeated + of.keys if of.repeated else 0.0
    return of.fill + attend + repeat + _cat_backward(of)


def _merged_forward(of: _Sizes) -> float:
    """Run two attentions, concatenating only the prefix, then one pass over both results."""
    text = of.query + of.text + of.query + of.lse
    prefix = of.prefix + 2 * of.prefixes + of.query + of.query + of.lse
    return text + prefix + 3 * of.query + 3 * of.lse + of.fill


def _merged_backward(of: _Sizes) -> float:
    """Run two flash backwards, and add up their gradients of the queries."""
    one = 3 * of.query + of.lse + 2 * of.sums + of.query
    return of.fill + 2 * one + 2 * of.text + 2 * of.prefixes + 3 * of.query + _cat_backward(of)


def _flex_forward(of: _Sizes) -> float:
    """Concatenate and attend; grouped heads and the mask are computed, not read."""
    return _cat(of) + of.query + of.keys + of.query + of.lse + of.fill


def _flex_backward(of: _Sizes) -> float:
    """Like the fused backward, but over concatenated keys, with `sum(grad_out * out)` before."""
    delta = 2 * of.query + of.lse
    queries = 2 * of.query + of.keys + 2 * of.lse + of.query
    keys = 2 * of.query + of.keys + 2 * of.lse + of.keys
    return of.fill + delta + queries + keys + _cat_backward(of)


def _eager_forward(of: _Sizes) -> float:
    """Concatenate, repeat heads, scale, logits, mask, softmax, product: all through memory."""
    repeat = of.keys + of.all_heads if of.all_heads else 0.0
    keys = of.all_heads or of.keys
    scale, mask = 2 * of.query, 2 * of.logits + 2 * of.mask if of.mask else 0.0
    products = 2 * of.query + keys + 2 * of.logits
    return _cat(of) + repeat + scale + products + mask + 2 * of.logits + of.fill


def _eager_backward(of: _Sizes) -> float:
    """Run four products, and the backward of softmax, mask, scale, repeating, concatenating."""
    keys = of.all_heads or of.keys
    products = 3 * of.query + of.query + 2 * keys + 4 * of.logits
    softmax, mask = 3 * of.logits, 2 * of.logits + of.mask if of.mask else 0.0
    repeat = of.all_heads + of.keys if of.all_heads else 0.0
    return of.fill + products + softmax + mask + 2 * of.query + repeat + _cat_backward(of)


_MODELS = {
    ("fused", "forward"): _fused_forward,
    ("fused", "backward"): _fused_backward,
    ("sdpa", "forward"): _sdpa_forward,
    ("sdpa", "backward"): _sdpa_backward,
    ("merged", "forward"): _merged_forward,
    ("merged", "backward"): _merged_backward,
    ("flex", "forward"): _flex_forward,
    ("flex", "backward"): _flex_backward,
    ("eager", "forward"): _eager_forward,
    ("eager", "backward"): _eager_backward,
}
