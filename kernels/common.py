"""Functions that the prefix attention kernels share: addresses of rows, masks, products.

Rows count from the beginning of a text: row `r` is at place `start + r` of the tensor. In a padded
batch the rows past the text, `length <= r < T`, are the padding. A place past the end of the tensor
continues at its beginning, so every row of the result is written once.

Axes: D head dimension, S prefix tokens of the first tensor, K of the second.
"""

import os

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@triton.jit
def dot(left, right, UPCAST: tl.constexpr):
    """Return the float32 product.

    The interpreter would multiply the bit patterns of bfloat16, so there UPCAST is true.
    """
    if UPCAST:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def load_rows(pointer, row, row_stride, allowed, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return the allowed rows of `[.., D]`, with zeros in place of the other rows."""
    axis = tl.arange(0, BLOCK_D)
    mask = allowed[:, None]
    # a mask along the contiguous axis prevents asynchronous copies: set it only where D needs it
    if D != BLOCK_D:
        mask = mask & (axis[None, :] < D)
    return tl.load(pointer + row[:, None] * row_stride + axis[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(pointer, row, row_stride, allowed, values, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Write the allowed rows of `[.., D]` in the dtype of the output."""
    axis = tl.arange(0, BLOCK_D)
    mask = allowed[:, None]
    if D != BLOCK_D:
        mask = mask & (axis[None, :] < D)
    pointer += row[:, None] * row_stride + axis[None, :]
    tl.store(pointer, values.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def load_prefix(
    pointer,
    row_stride,
    own_pointer,
    own_row_stride,
    token,
    S: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Return the rows `token`: S rows of the first tensor, then K of the second, then zeros."""
    if K == 0:
        return load_rows(pointer, token, row_stride, token < S, D, BLOCK_D)
    if S == 0:
        return load_rows(own_pointer, token, own_row_stride, token < K, D, BLOCK_D)
    axis = tl.arange(0, BLOCK_D)
    pointers = tl.where(
        (token < S)[:, None],
        pointer + token[:, None] * row_stride + axis[None, :],
        own_pointer + (token - S)[:, None] * own_row_stride + axis[None, :],
    )
    mask = (token < S + K)[:, None]
    if D != BLOCK_D:
        mask = mask & (axis[None, :] < D)
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def text_span(start_ptr, length_ptr, batch, n_text):
    """Return the place and the length of a text, cut to its tensor."""
    start = tl.load(start_ptr + batch)
    end = tl.minimum(start + tl.load(length_ptr + batch), n_text)
    start = tl.maximum(start, 0)
    return start, tl.maximum(end - start, 0)


@triton.jit
def written_rows(row, start, length, n_text, PACKED: tl.constexpr):
    """Return the places of rows in their tensor, and whether the program writes each of them."""
    place = start + row
    if PACKED:
        # the places after the text belong to the next text
        return place, row < length
    return tl.where(place >= n_text, place - n_text, place), row < n_text


@triton.jit
def near(visible, row, column, window, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr):
    """Return `visible` without the text tokens `column` that the queries `row` may not see."""
    if CAUSAL:
        visible = visible & (column <= row)
    if WINDOWED:
        visible = visible & (row - column < window)
        if not CAUSAL:
            visible = visible & (column - row < window)
    return visible


@triton.jit
def seen_tiles(
    first, length, window, SIZE: tl.constexpr, STEP: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr,
):  # fmt: skip
    """Return the begin and the end of the text that the SIZE queries from `first` on may see.

    The begin is a multiple of STEP. Queries past the text see nothing: then the end is 0.
    """
    begin = 0
    end = length
    if CAUSAL:
        end = tl.minimum(end, first + SIZE)
    if WINDOWED:
        begin = tl.maximum(first - window + 1, 0) // STEP * STEP
        if not CAUSAL:
            end = tl.minimum(end, first + SIZE - 1 + window)
    if first >= length:
        end = 0
    return begin, end
