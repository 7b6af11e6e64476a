"""What the ID model thinks of the training samples: its scores, and the items it ranks first.

Axes: S samples, B batch, C candidate items, N items, K vectors of a sample, E width, M places of a
pool, h hard negatives of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# tells these draws from others of the same seed
_STREAM = 1


@dataclass(frozen=True, eq=False)
class IDScores:
    """Scores of the ID model: item `n` of sample `s` gets the largest `queries[s, k] . items[n]`.

    Attributes:
        queries: `[S, K, E]` float32.
        items: `[N, E]` float32.
        known: `[S]` bool, false where the row of `queries` means nothing.
    """

    queries: NDArray[np.float32]
    items: NDArray[np.float32]
    known: NDArray[np.bool_]

    def __post_init__(self) -> None:
        queries, items = self.queries, self.items
        if queries.ndim != 3 or items.ndim != 2 or queries.shape[2] != items.shape[1]:
            raise ValueError(
                f"expected queries [S, K, E] and items [N, E], "
                f"got {list(queries.shape)} and {list(items.shape)}"
            )
        if self.known.shape != queries.shape[:1]:
            raise ValueError(f"expected known [{len(queries)}], got {list(self.known.shape)}")

    def of(self, rows: NDArray[np.integer], items: NDArray[np.integer]) -> Tensor:
        """Return `[B, C]` float32: scores of the samples in `rows`; NaN without a query.

        Args:
            rows: `[B]` sample numbers.
            items: `[C]` item numbers.
        """
        scores = np.einsum("bke,ce->bkc", self.queries[rows], self.items[items]).max(axis=1)
        scores[~self.known[rows]] = np.nan
        return torch.from_numpy(scores)


class HardNegatives:
    """Draws items that the ID model ranks high for a sample, evenly from a pool of them.

    Args:
        pools: `[S, M]` int32 items, no two of a row the same; -1 at places that stay empty.
        n_items: N.
        n: Different items drawn for each row; all of a pool that has fewer.
        seed: Of the draws.

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
        #: `[N]` float64: how often one row of a batch is expected to bring the item.
        self.expected: NDArray[np.float64] = total / max(len(pools), 1)

    def sample(self, rows: NDArray[np.integer], *, step: int) -> NDArray[np.int32]:
        """Return `[B, h]` items; -1 where a pool is exhausted.

        Args:
            rows: `[B]` sample numbers.
            step: Number of the batch; with the seed it fixes the draws.
        """
        pools = self.pools[rows]
        order = np.random.default_rng([self.seed, step, _STREAM]).random(pools.shape)
        # empty places come last
        order[pools < 0] = 2.0
        return np.take_along_axis(pools, np.argsort(order, axis=1)[:, : self.n], axis=1)
