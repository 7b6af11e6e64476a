"""The order of the samples in a training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler


class LengthSampler(Sampler[int]):
    """Sample numbers in an order in which each batch holds texts of like length.

    The order depends on seed and epoch alone, so a resumed training sees the same batches.

    Args:
        lengths: `[S]` number of tokens of each sample.
        batch_size: Number of samples in a batch.
        seed: Seed of the order.
        pool: Number of batches that are sorted together. With more there is less padding, with
            fewer the batches are more random.
    """

    def __init__(
        self, lengths: NDArray[np.int64], batch_size: int, *, seed: int, pool: int = 16
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.pool = pool
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Set which pass over the samples comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(len(self.lengths))
        # the short batch is set aside before the sorting: it may be dropped, and must not always
        # be the longest texts. It comes last, as the loader cuts the order into full batches.
        n_batches = len(order) // self.batch_size
        order, short = np.split(order, [n_batches * self.batch_size])
        for start in range(0, len(order), self.pool * self.batch_size):
            pool = order[start : start + self.pool * self.batch_size]
            pool[:] = pool[np.argsort(self.lengths[pool], kind="stable")]
        batches = order.reshape(n_batches, self.batch_size)
        yield from batches[generator.permutation(n_batches)].ravel().tolist()
        yield from short.tolist()
