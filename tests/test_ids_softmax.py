"""The cross entropy over a whole catalogue."""

import pytest
import torch
from torch.nn import functional as F

from rarec.ids import softmax
from rarec.ids.softmax import catalogue_cross_entropy


@pytest.mark.parametrize("block", [1, 7, 64])
@pytest.mark.parametrize(("rows", "width", "items"), [(1, 1, 1), (13, 5, 31), (64, 3, 2)])
@pytest.mark.parametrize("biased", [False, True])
def test_it_is_the_cross_entropy_of_the_logits(rows, width, items, block, biased, monkeypatch):
    monkeypatch.setattr(softmax, "_BLOCK", block)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        tensor = 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)
        return tensor.requires_grad_()

    states, table = normal(rows, width), normal(items, width)
    targets = torch.randint(0, items, (rows,), generator=generator)
    bias = None
    if biased:
        bias = torch.zeros(items, dtype=torch.float64)
        bias[[item for item in range(items) if item % 3 == 1 and item not in targets]] = -torch.inf
    found = catalogue_cross_entropy(states, table, targets, bias)
    logits = F.linear(states, table, bias)
    expected = F.cross_entropy(logits, targets)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    # not the loss itself alone, but what is made of it
    for mine, other in zip(
        torch.autograd.grad(2 * found, (states, table)),
        torch.autograd.grad(2 * expected, (states, table)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-12)


def test_large_scores_do_not_overflow():
    states, table = torch.tensor([[500.0]]), torch.tensor([[2.0], [-2.0]])
    loss = catalogue_cross_entropy(states, table, torch.tensor([1]))
    torch.testing.assert_close(loss, torch.tensor(2000.0))


def test_gradients_reach_what_a_table_is_made_of():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    made_of = torch.randn(9, 4, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(0, 9, (5,), generator=generator)
    (found,) = torch.autograd.grad(
        catalogue_cross_entropy(states, made_of.tanh(), targets), made_of
    )
    plain = F.cross_entropy(states @ made_of.tanh().T, targets)
    (expected,) = torch.autograd.grad(plain, made_of)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
