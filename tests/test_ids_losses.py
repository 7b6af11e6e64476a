"""The losses of the ID models."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rarec.ids import build_encoder
from rarec.ids.losses import Batch, full_loss, shared_loss
from rarec.settings import IDSettings

N = 40


@pytest.fixture(scope="module")
def batch():
    """Return a model and the inputs of a loss, with states that have no gradients."""
    torch.manual_seed(0)
    model = build_encoder(IDSettings(dim=8, max_history=5, text=""), N).eval()
    history = torch.randint(0, N, (6, 5))
    # of four items alone, so that most are no target of the batch
    targets = torch.tensor([3, 4, 9, 20])[torch.randint(0, 4, (6, 5))]
    counted = torch.rand(6, 5) < 0.7
    return model, Batch(np.arange(6), model(history).detach(), targets, counted, 0)


def value_and_gradient(loss, batch, step=0):
    model, taken = batch
    found = loss(model, replace(taken, step=step))
    (gradient,) = torch.autograd.grad(found, model.items.table())
    return found, gradient[:N]


@pytest.mark.parametrize("cold", [None, [5, 30]])
def test_all_others_drawn_is_the_whole_softmax(batch, cold):
    mask = None
    if cold is not None:
        mask = torch.zeros(N, dtype=torch.bool)
        mask[cold] = True
    for mine, exact in zip(
        value_and_gradient(shared_loss(N, N, 0, mask), batch),
        value_and_gradient(full_loss(mask), batch),
        strict=True,
    ):
        torch.testing.assert_close(mine, exact, rtol=1e-5, atol=1e-7)


def test_a_few_others_stand_for_all(batch):
    model, taken = batch
    one = torch.zeros_like(taken.counted)
    one[0, 2] = True
    single = replace(taken, counted=one)
    loss = shared_loss(N, 6, 3)
    with torch.no_grad():
        exact = full_loss()(model, single).exp()
        drawn = torch.stack([loss(model, replace(single, step=step)).exp() for step in range(2000)])
    # one over the target's probability is the sum of the softmax: estimated without bias
    assert abs(drawn.mean() - exact) < 4 * drawn.std() / 2000**0.5
    assert drawn.std() > 0


def test_the_draws_depend_on_seed_and_step_alone_and_spare_the_cold(batch):
    cold = torch.zeros(N, dtype=torch.bool)
    cold[25:] = True
    loss = shared_loss(N, 5, 3, cold)
    _, first = value_and_gradient(loss, batch)
    _, again = value_and_gradient(shared_loss(N, 5, 3, cold), batch)
    _, later = value_and_gradient(loss, batch, step=1)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, later)
    touched = first.abs().sum(dim=1) > 0
    _, taken = batch
    assert touched.sum() == len(taken.targets[taken.counted].unique()) + 5
    assert not touched[25:].any()
