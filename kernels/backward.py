"""The backward kernels of prefix attention. Without atomics, so the bits are always the same.

With `P = exp(logits - lse)` and `dlogits = P * (grad_out . value - delta)`, where `delta` is
`grad_out . out` (Dao et al. 2022, arXiv:2205.14135, equation 4 and after):

    grad_query = scale * dlogits keys      grad_key = scale * dlogits^T query
    grad_value = P^T grad_out

A program of `backward_query` has a tile of queries. It computes `delta`, the gradient of its
queries, and the parts that they add to the gradients of the prefix. These parts are added up
afterwards, in a fixed order. A program of `backward_text` has a tile of keys and loops over all
queries of their key head.

Axes: as in `rarec.kernels.forward`.
"""

import triton
import triton.language as tl

from rarec.kernels.common import (
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
def backward_query(
    query_ptr,  # [B, H, T, D]
    key_ptr,  # [B, H / G, T, D]
    value_ptr,  # [B, H / G, T, D]
    prefix_key_ptr,  # [B or stride 0, H / G, S, D]
    prefix_value_ptr,  # [B or stride 0, H / G, S, D]
    own_key_ptr,  # [B, H / G, K, D]
    own_value_ptr,  # [B, H / G, K, D]
    out_ptr,  # [B, H, T, D]
    grad_out_ptr,  # [B, H, T, D]
    lse_ptr,  # [B, H, T] float32
    grad_query_ptr,  # [B, H, T, D]
    delta_ptr,  # [B, H, T] float32
    part_key_ptr,  # [B, H, tiles, S + K, D] float32 contiguous
    part_value_ptr,  # [B, H, tiles, S + K, D] float32 contiguous
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
    grad_out_batch, grad_out_head, grad_out_row,
    grad_query_batch, grad_query_head, grad_query_row,
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
    NEED_QUERY: tl.constexpr,
    NEED_PREFIX: tl.constexpr,
    PARTS_BY_ROW: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Write `delta` and, if needed, the gradients of the queries and the parts of the prefix."""
    tile = tl.program_id(0) % n_tiles
    head = tl.program_id(0) // n_tiles % H
    batch = (tl.program_id(0) // n_tiles // H).to(tl.int64)
    key_head_number = head // G
    start, length = text_span(start_ptr, length_ptr, batch, n_text)
    first = tile * BLOCK_Q
    part = tl.program_id(0).to(tl.int64) * ((S + K) * D)
    if PACKED:
        if first >= length:
            # the parts of all programs are added up, so empty programs have to write zeros
            if NEED_PREFIX:
                nothing = tl.zeros([BLOCK_S, BLOCK_D], tl.float32)
                for begin in tl.range(0, S + K, BLOCK_S, num_stages=1):
                    token = begin + tl.arange(0, BLOCK_S)
                    store_rows(part_key_ptr + part, token, D, token < S + K, nothing, D, BLOCK_D)
                    store_rows(part_value_ptr + part, token, D, token < S + K, nothing, D, BLOCK_D)
            return

    row = first + tl.arange(0, BLOCK_Q)
    present = row < length
    place, written = written_rows(row, start, length, n_text, PACKED)
    from_start = start.to(tl.int64)
    query = load_rows(
        query_ptr + batch * query_batch + head * query_head + from_start * query_row,
        row, query_row, present, D, BLOCK_D,
    )  # [BLOCK_Q, BLOCK_D]  # fmt: skip
    grad_out = load_rows(
        grad_out_ptr + batch * grad_out_batch + head * grad_out_head + from_start * grad_out_row,
        row, grad_out_row, present, D, BLOCK_D,
    )  # fmt: skip
    out = load_rows(
        out_ptr + batch * out_batch + head * out_head + from_start * out_row,
        row, out_row, present, D, BLOCK_D,
    )  # fmt: skip
    delta = tl.sum(grad_out.to(tl.float32) * out.to(tl.float32), axis=1)
    lse_place = batch * lse_batch + head.to(tl.int64) * lse_head + place
    tl.store(delta_ptr + lse_place, delta, mask=written)
    # infinite in padded rows, so that their weights are zero
    lse = tl.load(lse_ptr + lse_place, mask=present, other=float("inf")) * LOG2E
    log2_scale = scale * LOG2E

    grad_query = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    prefix_key_ptr += batch * prefix_key_batch + key_head_number * prefix_key_head
    prefix_value_ptr += batch * prefix_value_batch + key_head_number * prefix_value_head
    own_key_ptr += batch * own_key_batch + key_head_number * own_key_head
    own_value_ptr += batch * own_value_batch + key_head_number * own_value_head
    axis = tl.arange(0, BLOCK_D)
    # a few tokens at a time: the gradients of a long prefix with wide heads fill the registers
    for begin in tl.range(0, S + K, BLOCK_S, num_stages=1):
        token = begin + tl.arange(0, BLOCK_S)
        keys = load_prefix(
            prefix_key_ptr, prefix_key_row, own_key_ptr, own_key_row, token, S, K, D, BLOCK_D
        )
        values = load_prefix(
            prefix_value_ptr, prefix_value_row, own_value_ptr, own_value_row, token, S, K,
            D, BLOCK_D,
        )  # fmt: skip
        logits = dot(query, tl.trans(keys), UPCAST) * log2_scale
        # mask before the exponential: where all logits are far below zero, the logit 0 of an absent
        # token would give infinity
        logits = tl.where(token[None, :] < S + K, logits, float("-inf"))
        weights = tl.exp2(logits - lse[:, None])
        dlogits = dot(grad_out, tl.trans(values), UPCAST)
        dlogits = weights * (dlogits - delta[:, None])
        if NEED_QUERY:
            grad_query += dot(dlogits.to(keys.dtype), keys, UPCAST)
        if NEED_PREFIX:
            if PARTS_BY_ROW:
                part_key = dot(tl.trans(dlogits.to(query.dtype)), query, UPCAST) * scale
                part_value = dot(tl.trans(weights.to(grad_out.dtype)), grad_out, UPCAST)
                store_rows(part_key_ptr + part, token, D, token < S + K, part_key, D, BLOCK_D)
                store_rows(part_value_ptr + part, token, D, token < S + K, part_value, D, BLOCK_D)
            else:
                # [D, tokens]: a tensor core cannot have so few tokens as its first side
                part_key = dot(tl.trans(query), dlogits.to(query.dtype), UPCAST) * scale
                part_value = dot(tl.trans(grad_out), weights.to(grad_out.dtype), UPCAST)
                offsets = part + token[None, :] * D + axis[:, None]
                mask = (token < S + K)[None, :]
                if D != BLOCK_D:
                    mask = mask & (axis[:, None] < D)
                tl.store(part_key_ptr + offsets, part_key, mask=mask)
                tl.store(part_value_ptr + offsets, part_value, mask=mask)

    if NEED_QUERY:
        key_ptr += batch * key_batch + key_head_number * key_head + from_start * key_row
        value_ptr += batch * value_batch + key_head_number * value_head + from_start * value_row
        text_begin, text_end = seen_tiles(first, length, window, BLOCK_Q, BLOCK_T, CAUSAL, WINDOWED)
        for text in range(text_begin, text_end, BLOCK_T):
            column = text + tl.arange(0, BLOCK_T)
            text_keys = load_rows(key_ptr, column, key_row, column < length, D, BLOCK_D)
            text_values = load_rows(value_ptr, column, value_row, column < length, D, BLOCK_D)
            text_logits = dot(query, tl.trans(text_keys), UPCAST) * log2_scale
            visible = (column < length)[None, :]
            visible = near(visible, row[:, None], column[None, :], window, CAUSAL, WINDOWED)
            text_weights = tl.exp2(tl.where(visible, text_logits, float("-inf")) - lse[:, None])
            text_dlogits = dot(grad_out, tl.trans(text_values), UPCAST)
            text_dlogits = text_weights * (text_dlogits - delta[:, None])
            grad_query += dot(text_dlogits.to(text_keys.dtype), text_keys, UPCAST)
        grad_query_ptr += batch * grad_query_batch + head * grad_query_head
        store_rows(
            grad_query_ptr, place.to(tl.int64), grad_query_row, written, grad_query * scale,
            D, BLOCK_D,
        )  # fmt: skip


@triton.jit
def backward_text(
    query_ptr,  # [B, H, T, D]
    key_ptr,  # [B, H / G, T, D]
    value_ptr,  # [B, H / G, T, D]
    grad_out_ptr,  # [B, H, T, D]
    lse_ptr,  # [B, H, T] float32
    delta_ptr,  # [B, H, T] float32
    grad_key_ptr,  # [B, H / G, T, D]
    grad_value_ptr,  # [B, H / G, T, D]
    start_ptr,  # [B] int32
    length_ptr,  # [B] int32
    scale,
    n_text,
    n_tiles,
    window,
    query_batch, query_head, query_row,
    key_batch, key_head, key_row,
    value_batch, value_head, value_row,
    grad_out_batch, grad_out_head, grad_out_row,
    grad_key_batch, grad_key_head, grad_key_row,
    grad_value_batch, grad_value_head, grad_value_row,
    lse_batch, lse_head,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    CAUSAL: tl.constexpr,
    WINDOWED: tl.constexpr,
    PACKED: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the keys and values of the text; `H` counts query heads."""
    tile = tl.program_id(0) % n_tiles
    key_head_number = tl.program_id(0) // n_tiles % (H // G)
    batch = (tl.program_id(0) // n_tiles // (H // G)).to(tl.int64)
    start, length = text_span(start_ptr, length_ptr, batch, n_text)
    first = tile * BLOCK_T
    if PACKED:
        if first >= length:
            return

    column = first + tl.arange(0, BLOCK_T)
    from_start = start.to(tl.int64)
    keys = load_rows(
        key_ptr + batch * key_batch + key_head_number * key_head + from_start * key_row,
        column, key_row, column < length, D, BLOCK_D,
    )  # [BLOCK_T, BLOCK_D]  # fmt: skip
    values = load_rows(
        value_ptr + batch * value_batch + key_head_number * value_head + from_start * value_row,
        column, value_row, column < length, D, BLOCK_D,
    )  # fmt: skip
    log2_scale = scale * LOG2E
    grad_key = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    grad_value = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)

    # the queries that see these keys: as in `seen_tiles`, but they come after the keys
    begin = 0
    end = length
    if CAUSAL:
        begin = first // BLOCK_Q * BLOCK_Q
    if WINDOWED:
        end = tl.minimum(end, first + BLOCK_T - 1 + window)
        if not CAUSAL:
            begin = tl.maximum(first - window + 1, 0) // BLOCK_Q * BLOCK_Q
    if first >= length:
        end = 0
    for member in range(G):
        head = (key_head_number * G + member).to(tl.int64)
        queries_ptr = query_ptr + batch * query_batch + head * query_head + from_start * query_row
        grads_ptr = (
            grad_out_ptr + batch * grad_out_batch + head * grad_out_head + from_start * grad_out_row
        )
        sums = batch * lse_batch + head * lse_head + from_start
        for text in range(begin, end, BLOCK_Q):
            row = text + tl.arange(0, BLOCK_Q)
            present = row < length
            query = load_rows(queries_ptr, row, query_row, present, D, BLOCK_D)
            grad_out = load_rows(grads_ptr, row, grad_out_row, present, D, BLOCK_D)
            lse = tl.load(lse_ptr + sums + row, mask=present, other=float("inf")) * LOG2E
            delta = tl.load(delta_ptr + sums + row, mask=present, other=0.0)
            logits = dot(keys, tl.trans(query), UPCAST) * log2_scale
            visible = (column < length)[:, None]
            visible = near(visible, row[None, :], column[:, None], window, CAUSAL, WINDOWED)
            # [BLOCK_T, BLOCK_Q]
            weights = tl.exp2(tl.where(visible, logits, float("-inf")) - lse[None, :])
            grad_value += dot(weights.to(grad_out.dtype), grad_out, UPCAST)
            dlogits = dot(values, tl.trans(grad_out), UPCAST)
            dlogits = weights * (dlogits - delta[None, :])
            grad_key += dot(dlogits.to(query.dtype), query, UPCAST)

    place, written = written_rows(column, start, length, n_text, PACKED)
    place = place.to(tl.int64)
    grad_key_ptr += batch * grad_key_batch + key_head_number * grad_key_head
    store_rows(grad_key_ptr, place, grad_key_row, written, grad_key * scale, D, BLOCK_D)
    grad_value_ptr += batch * grad_value_batch + key_head_number * grad_value_head
    store_rows(grad_value_ptr, place, grad_value_row, written, grad_value, D, BLOCK_D)
