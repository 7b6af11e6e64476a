"""Losses against loops."""

import math

import pytest
import torch
from torch.nn import functional as F

from rarec.losses import alignment_loss, bpr_loss, sampled_softmax_loss

B, C = 5, 7


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(B, C, generator=generator, dtype=torch.float64, requires_grad=True)
    positives = torch.tensor([3, 0, 6, 3, 1])
    negatives = torch.rand(B, C, generator=generator) < 0.7
    negatives[torch.arange(B), positives] = False
    return scores, positives, negatives


def test_bpr_is_the_mean_over_the_pairs_that_count(batch):
    scores, positives, negatives = batch
    pairs = [
        math.log(1 + math.exp((scores[row, column] - scores[row, positives[row]]).item()))
        for row in range(B)
        for column in range(C)
        if negatives[row, column]
    ]
    assert bpr_loss(scores, positives, negatives).item() == pytest.approx(sum(pairs) / len(pairs))


def test_softmax_is_over_the_positive_and_its_negatives(batch):
    scores, positives, negatives = batch
    log_q = torch.linspace(-3, -1, C, dtype=torch.float64)
    expected = []
    for row in range(B):
        corrected = scores[row].detach() - log_q
        kept = [column for column in range(C) if negatives[row, column]] + [int(positives[row])]
        total = sum(math.exp(corrected[column]) for column in kept)
        expected.append(math.log(total) - corrected[positives[row]].item())
    loss = sampled_softmax_loss(scores, positives, negatives, log_q)
    assert loss.item() == pytest.approx(sum(expected) / B)


def test_a_constant_log_probability_changes_nothing(batch):
    scores, positives, negatives = batch
    plain = sampled_softmax_loss(scores, positives, negatives)
    constant = sampled_softmax_loss(scores, positives, negatives, torch.full((C,), -4.0))
    torch.testing.assert_close(plain, constant)
    everything = torch.ones(B, C, dtype=torch.bool)
    torch.testing.assert_close(
        sampled_softmax_loss(scores, positives, everything), F.cross_entropy(scores, positives)
    )


@pytest.mark.parametrize("loss", [bpr_loss, sampled_softmax_loss])
def test_what_is_no_negative_gets_no_gradient(batch, loss):
    scores, positives, negatives = batch
    negatives[2] = False  # a row without any negative
    (gradient,) = torch.autograd.grad(loss(scores, positives, negatives), scores)
    assert gradient.isfinite().all()
    kept = negatives.scatter(1, positives[:, None], True)
    assert gradient[~kept].eq(0).all()
    assert gradient[negatives].gt(0).all()
    assert gradient[2].eq(0).all()


@pytest.mark.parametrize("loss", [bpr_loss, sampled_softmax_loss])
def test_shapes_that_do_not_fit_are_refused(batch, loss):
    scores, positives, negatives = batch
    with pytest.raises(ValueError, match="expected scores"):
        loss(scores, positives[:-1], negatives)
    with pytest.raises(ValueError, match="expected scores"):
        loss(scores, positives, negatives[:, :-1])


def test_a_log_probability_per_row_is_refused(batch):
    scores, positives, negatives = batch
    with pytest.raises(ValueError, match=r"expected log_probability \[7\], got \[5, 1\]"):
        sampled_softmax_loss(scores, positives, negatives, torch.zeros(B, 1))


def test_alignment_is_info_nce_in_each_layer():
    generator = torch.Generator().manual_seed(0)
    soft = torch.randn(B, 2, 4, generator=generator, dtype=torch.float64)
    text = torch.randn(B, 2, 4, generator=generator, dtype=torch.float64)
    same = torch.eye(B, dtype=torch.bool)
    same[0, 4] = same[4, 0] = True
    expected = []
    for layer in range(2):
        for row in range(B):
            cosines = [
                F.cosine_similarity(soft[row, layer], text[other, layer], dim=0).item() / 0.5
                for other in range(B)
                if other == row or not same[row, other]
            ]
            own = F.cosine_similarity(soft[row, layer], text[row, layer], dim=0).item() / 0.5
            expected.append(math.log(sum(map(math.exp, cosines))) - own)
    loss = alignment_loss(soft, text, same, temperature=0.5)
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_perfect_alignment_costs_little():
    states = torch.eye(B)[:, None].expand(B, 3, B)
    same = torch.eye(B, dtype=torch.bool)
    assert alignment_loss(states, states, same, temperature=0.05).item() < 1e-6
    assert alignment_loss(states, states.roll(1, 0), same, temperature=0.05).item() > 10
    nobody = alignment_loss(states[:0].requires_grad_(), states[:0], same[:0, :0])
    assert nobody.item() == 0
    nobody.backward()
    with pytest.raises(ValueError, match=r"expected \[B, L, H\] twice"):
        alignment_loss(states, states[:, :2], same)
    with pytest.raises(ValueError, match=r"expected same \[5, 5\], got \[1, 5\]"):
        alignment_loss(states, states, same[:1])
