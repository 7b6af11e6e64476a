"""The tiles of the kernels for each head dimension.

The tables come from compiling, not from running: `make compile-kernels` compiles every entry for
every target and refuses an entry that spills registers (see the table in docs/kernels.md).
"""

from __future__ import annotations

from typing import NamedTuple

from triton.runtime.driver import driver

from rarec.kernels.common import INTERPRETED


class Tile(NamedTuple):
    """Number of queries and text tokens of a tile, of warps, and of pipeline stages."""

    query: int
    text: int
    warps: int
    stages: int


#: Tiles by kernel and head dimension, rounded up to a power of two. None spills on any target.
TILES = {
    "forward": {
        16: Tile(64, 64, 4, 2),
        32: Tile(64, 64, 4, 2),
        64: Tile(128, 64, 8, 3),
        128: Tile(64, 32, 8, 2),
    },
    "backward_query": {
        16: Tile(64, 64, 4, 2),
        32: Tile(64, 64, 4, 2),
        64: Tile(64, 64, 8, 2),
        128: Tile(64, 32, 4, 2),
    },
    "backward_text": {
        16: Tile(32, 32, 4, 2),
        32: Tile(32, 32, 4, 2),
        64: Tile(64, 32, 4, 2),
        128: Tile(32, 32, 4, 2),
    },
}
#: Other tiles for sm_90, whose largest products read shared memory and need 64 rows.
TILES_90 = {
    "forward": {128: Tile(128, 64, 8, 2)},
    "backward_query": {64: Tile(64, 64, 4, 2)},
    "backward_text": {
        32: Tile(64, 64, 4, 2),
        64: Tile(64, 64, 4, 2),
        128: Tile(64, 64, 8, 2),
    },
}


def choose_tile(kernel: str, n_text: int, dim: int) -> Tile:
    """Return the tile for a launch on the current device, not larger than the text needs.

    Args:
        kernel: `forward`, `backward_query` or `backward_text`.
        n_text: Number of tokens of the longest text.
        dim: Head dimension, at most 128.
    """
    width = padded_dim(dim)
    tile = TILES[kernel][width]
    if _is_hopper():
        tile = TILES_90[kernel].get(width, tile)
    limit = power_of_two(n_text)
    return tile._replace(query=min(tile.query, limit), text=min(tile.text, limit))


def parts_by_row() -> bool:
    """Return whether `backward_query` computes its parts as `[tokens, D]`, not as `[D, tokens]`.

    `[D, tokens]` is better for tensor cores. But on sm_90 that product has both operands transposed
    in shared memory, and the ptxas of Triton 3.6 reads one of them from a wrong address
    (docs/kernels.md).
    """
    return _is_hopper()


def _is_hopper() -> bool:
    # the interpreter has no device to ask
    return not INTERPRETED and driver.active.get_current_target().arch == 90


def padded_dim(dim: int) -> int:
    """Return the head dimension rounded up to a power of two, at least 16."""
    return power_of_two(dim)


def power_of_two(size: int) -> int:
    """Return `size` rounded up to a power of two, at least 16, the smallest side of a tile.

    The function of Triton takes ten times as long, and each launch needs it several times.
    """
    return max(16, 1 << (size - 1).bit_length())
