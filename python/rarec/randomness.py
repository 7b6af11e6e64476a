"""Random numbers from an explicit seed, which leave the caller's generators as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch inside the block, and restore them.

    Libraries draw from the global generators: layers their initial values, dropout its masks. What
    the caller draws after the block is what it would have drawn without it.

    Args:
        seed: Seed of all generators, from 0 to 2**32 - 1.

    Example:
        >>> before = random.getstate()
        >>> with seeded(0):
        ...     drawn = random.random()
        >>> random.getstate() == before
        True
    """
    # imported here: it takes seconds
    import torch

    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
