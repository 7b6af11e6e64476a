"""Negatives of a batch beside its own items: random ones, and hard-negative mining.

Axes: S samples, B batch, C candidate items, N items, M places of a pool, h hard negatives of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rarec.selection import NegativeSampler

# tells these random numbers from others of the same seed
_STREAM = 1


@dataclass(frozen=True, eq=False)
class ExtraNegatives:
    """Unseen items that are drawn by their popularity for each sample.

    Attributes:
        sampler: The sampler that draws them.
        n: Number of items drawn for each sample.

    Raises:
        ValueError: If `n < 1`.
    """

    sampler: NegativeSampler
    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"expected n >= 1, got {self.n}")

    def sample(self, users: NDArray[np.int32], *, step: int) -> NDArray[np.integer]:
        """Return `[B, n]` items that the users have not seen.

        Args:
            users: `[B]` user numbers.
            step: Number of the batch. With the seed of the sampler it fixes the draws.
        """
        return self.sampler.sample(users, self.n, step=step)

    def expected(self, items: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return `[C]`: how often one sample of a batch is expected to bring each item."""
        return self.n * np.exp(self.sampler.log_probability(items))


class HardNegatives:
    """Items that the ID model ranks high for a sample, drawn evenly from a pool of them.

    Args:
        pools: `[S, M]` int32 items. A row has no item twice, and -1 at places that stay empty.
        n_items: Number N of items.
        n: Number of different items drawn for each sample. A smaller pool is drawn whole.
        seed: Seed of the draws.

    Raises:
        ValueError: If `n < 1`, or an item is not from -1 to N - 1.
    """

    def __init__(self, pools: NDArray[np.int32], n_items: int, n: int, *, seed: int = 0) -> None:
        if n < 1:
            raise ValueError(f"expected n >= 1, got {n}")
        if pools.ndim != 2 or (pools.size and not -1 <= pools.min() <= pools.max() < n_items):
            raise ValueError(f"expected pools [S, M] of items from -1 to {n_items - 1}")
        self.pools = pools
        self.n = n
        self.seed = seed
        sizes = (pools >= 0).sum(axis=1)
        chance = np.broadcast_to(
            (np.minimum(n, sizes) / np.maximum(sizes, 1))[:, None], pools.shape
        )
        drawn = pools >= 0
        total = np.bincount(pools[drawn], weights=chance[drawn], minlength=n_items)
        #: `[N]` float64: how often one sample of a batch is expected to bring each item.
        self.expected: NDArray[np.float64] = total / max(len(pools), 1)

    def sample(self, rows: NDArray[np.integer], *, step: int) -> NDArray[np.int32]:
        """Return `[B, h]` items, with -1 at places where a pool has no more.

        Args:
            rows: `[B]` sample numbers.
            step: Number of the batch. With the seed it fixes the draws.
        """
        pools = self.pools[rows]
        order = np.random.default_rng([self.seed, step, _STREAM]).random(pools.shape)
        # empty places come last
        order[pools < 0] = 2.0
        return np.take_along_axis(pools, np.argsort(order, axis=1)[:, : self.n], axis=1)
