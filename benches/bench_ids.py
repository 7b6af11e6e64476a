"""The loss of an ID model over a whole catalogue, forward and backward, on one CPU thread.

The shapes are those of a batch of 128 users of MovieLens-100K, MovieTweetings and Amazon Beauty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from rarec.ids.softmax import catalogue_cross_entropy

WIDTH = 64
SHAPES = {
    "ml-100k": (6000, 1682),
    "MovieTweetings": (2600, 9111),
    "Beauty": (900, 12101),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", SHAPES)
def test_catalogue_cross_entropy(race: Any, name: str) -> None:
    n_targets, n_items = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(n_targets, WIDTH, generator=generator).requires_grad_()
    table = (0.1 * torch.randn(n_items, WIDTH, generator=generator)).requires_grad_()
    targets = torch.randint(0, n_items, (n_targets,), generator=generator)

    def step(loss: Callable[[], torch.Tensor]) -> Callable[[], tuple[torch.Tensor, ...]]:
        return lambda: torch.autograd.grad(loss(), (states, table))

    ours = step(lambda: catalogue_cross_entropy(states, table, targets))
    plain = step(lambda: F.cross_entropy(F.linear(states, table), targets))
    for mine, other in zip(ours(), plain(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)
    job = f"catalogue_cross_entropy {name} {n_targets} x {n_items}, E {WIDTH}"
    race(job, ours, {"torch cross_entropy of all logits": plain}, rounds=9)
