"""The forward kernel of prefix attention.

    out[i] = sum_j softmax_j(scale * query[i] . keys[j]) values[j],   keys = prefix, then text

One program computes BLOCK_Q queries of one head. It initialises the running maximum and sum
(Milakov & Gimelshein 2018, arXiv:1805.02867) with one tile that holds the whole prefix, then loops
over the tiles of the text. Text tiles stay aligned, nothing is concatenated, and no mask is stored.

Axes: B texts, H query heads, G query heads of a key head, T text tokens, S prefix tokens of the
first tensor, K of the second, D head dimension. With packed texts the tensors of the text have one
row (their batch strides are 0), and T is the length of that row.
"""

import triton
import triton.language as tl

from rarec.kernels.common import (
    LN2,
    LOG2E,
    dot,
    load_prefix,
    load_rows,
    near,
    seen_tiles,
    store_rows,
    text_span,
    written_rows,
)


@triton.jit
def forward(
    query_ptr,  # [B, H, T, D]
    key_ptr,  # [B, H / G, T, D]
    value_ptr,  # [B, H / G, T, D]
    prefix_key_ptr,  # [B or stride 0, H / G, S, D]
    prefix_value_ptr,  # [B or stride 0, H / G, S, D]
    own_key_ptr,  # [B, H / G, K, D]
    own_value_ptr,  # [B, H / G, K, D]
    out_ptr,  # [B, H, T, D]
    lse_ptr,  # [B, H, T] float32: natural logarithm, +inf in padded rows
    start_ptr,  # [B] int32
    length_ptr,  # [B] int32
    scale,
    n_text,
    n_tiles,
    window,
    query_batch, query_head, query_row,
    key_batch, key_head, key_row,
    value_batch, value_head, value_row,
    prefix_key_batch, prefix_key_head, prefix_key_row,
    prefix_value_batch, prefix_value_head, prefix_value_row,
    own_key_batch, own_key_head, own_key_row,
    own_value_batch, own_value_head, own_value_row,
    out_batch, out_head, out_row,
    lse_batch, lse_head,
    H: tl.constexpr,
    G: tl.constexpr,
    S: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
    CAUSAL: tl.constexpr,
    WINDOWED: tl.constexpr,
    PACKED: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Write the result and the log of the sum of exponentials of each query's logits."""
    tile = tl.program_id(0) % n_tiles
    head = tl.program_id(0) // n_tiles % H
    # int64: the offset of a batch can be more than 2**31 elements
    batch = (tl.program_id(0) // n_tiles // H).to(tl.int64)
    key_head_number = head // G
    start, length = text_span(start_ptr, length_ptr, batch, n_text)
    first = tile * BLOCK_Q
    if PACKED:
        if first >= length:
            return

    row = first + tl.arange(0, BLOCK_Q)
    present = row < length
    query = load_rows(
        query_ptr + batch * query_batch + head * query_head + start.to(tl.int64) * query_row,
        row, query_row, present, D, BLOCK_D,
    )  # [BLOCK_Q, BLOCK_D]  # fmt: skip
    # logits in base 2: the hardware computes exp2
    log2_scale = scale * LOG2E

    highest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    result = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    if S + K > 0:
        token = tl.arange(0, BLOCK_S)
        # other names than in the loop below: Triton compiles no name that changes its shape
        prefix_keys = load_prefix(
            prefix_key_ptr + batch * prefix_key_batch + key_head_number * prefix_key_head,
            prefix_key_row,
            own_key_ptr + batch * own_key_batch + key_head_number * own_key_head,
            own_key_row,
            token, S, K, D, BLOCK_D,
        )  # fmt: skip
        prefix_logits = dot(query, tl.trans(prefix_keys), UPCAST) * log2_scale
        prefix_logits = tl.where(token[None, :] < S + K, prefix_logits, float("-inf"))
        highest = tl.max(prefix_logits, axis=1)
        prefix_weights = tl.exp2(prefix_logits - highest[:, None])  # [BLOCK_Q, BLOCK_S]
        total = tl.sum(prefix_weights, axis=1)
        prefix_values = load_prefix(
            prefix_value_ptr + batch * prefix_value_batch + key_head_number * prefix_value_head,
            prefix_value_row,
            own_value_ptr + batch * own_value_batch + key_head_number * own_value_head,
            own_value_row,
            token, S, K, D, BLOCK_D,
        )  # fmt: skip
        result = dot(prefix_weights.to(prefix_values.dtype), prefix_values, UPCAST)

    key_ptr += batch * key_batch + key_head_number * key_head + start.to(tl.int64) * key_row
    value_ptr += batch * value_batch + key_head_number * value_head + start.to(tl.int64) * value_row
    begin, end = seen_tiles(first, length, window, BLOCK_Q, BLOCK_T, CAUSAL, WINDOWED)
    for text in range(begin, end, BLOCK_T):
        column = text + tl.arange(0, BLOCK_T)
        keys = load_rows(key_ptr, column, key_row, column < length, D, BLOCK_D)
        logits = dot(query, tl.trans(keys), UPCAST) * log2_scale  # [BLOCK_Q, BLOCK_T]
        visible = (column < length)[None, :]
        visible = near(visible, row[:, None], column[None, :], window, CAUSAL, WINDOWED)
        logits = tl.where(visible, logits, float("-inf"))

        new_highest = tl.maximum(highest, tl.max(logits, axis=1))
        if S + K == 0:
            # without a prefix a query may have seen nothing yet, and -inf - -inf is nan
            new_highest = tl.where(new_highest == float("-inf"), 0.0, new_highest)
        decay = tl.exp2(highest - new_highest)
        weights = tl.exp2(logits - new_highest[:, None])
        total = total * decay + tl.sum(weights, axis=1)
        values = load_rows(value_ptr, column, value_row, column < length, D, BLOCK_D)
        result = result * decay[:, None] + dot(weights.to(values.dtype), values, UPCAST)
        highest = new_highest

    total = tl.where(present, total, 1.0)
    highest = tl.where(present, highest, float("inf"))
    result = tl.where(present[:, None], result / total[:, None], 0.0)
    place, written = written_rows(row, start, length, n_text, PACKED)
    out_ptr += batch * out_batch + head * out_head
    store_rows(out_ptr, place.to(tl.int64), out_row, written, result, D, BLOCK_D)
    lse = (highest + tl.log2(total)) * LN2
    tl.store(lse_ptr + batch * lse_batch + head.to(tl.int64) * lse_head + place, lse, mask=written)
