"""How the launches of the kernels are cut, for each head dimension.

What fits is known from compiling, not from running: `make compile-kernels` compiles every entry for
every target and refuses one that spills (docs/kernels.md has the table).
"""

from __future__ import annotations

from typing import NamedTuple

from triton.runtime.driver import driver

from rarec.kernels.common import INTERPRETED


class Tile(NamedTuple):
    """Queries and text tokens of a tile, warps of a program, stages of its pipeline."""

    query: int
    text: int
    warps: int
    stages: int


#: By kernel and head dimension, rounded up to a power of two; clean on every target.
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
#: In their place on sm_90, whose largest products read shared memory and want 64 rows.
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
    """Return the tile of a launch on the current device, no larger than the text needs.

    Args:
        kernel: `forward`, `backward_query` or `backward_text`.
        n_text: Tokens of the longest text.
        dim: Head dimension, at most 128.
    """
    width = padded_dim(dim)
    tile = TILES[kernel][width]
    if _is_hopper():
        tile = TILES_90[kernel].get(width, tile)
    limit = power_of_two(n_text)
    return tile._replace(query=min(tile.query, limit), text=min(tile.text, limit))


def parts_by_row() -> bool:
    """Return whether `backward_query` makes its parts of the prefix's gradients as `[tokens, D]`.

    As `[D, tokens]` they need no narrower product, but on sm_90 that product has both operands
    transposed in shared memory, and the ptxas of Triton 3.6 reads one of them from a wrong address
    (docs/kernels.md).
    """
    return _is_hopper()


def _is_hopper() -> bool:
    # the interpreter has no device
    return not INTERPRETED and driver.active.get_current_target().arch == 90


def padded_dim(dim: int) -> int:
    """Return the head dimension as the kernels hold it: a power of two from 16 on."""
    return power_of_two(dim)


def power_of_two(size: int) -> int:
    """Return the least power of two that is no less, from 16 on: no tile has a smaller side.

    Triton's own function takes ten times as long, and each launch asks several times.
    """
    return max(16, 1 << (size - 1).bit_length())
