"""Prediction, alignment and distillation losses: pure functions (DESIGN.md sections 1.6 and 1.7).

Axes: B batch (users), C candidate items of the batch, L layers, H width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bpr_loss(scores: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the mean of `-log sigmoid(positive - negative)` over all pairs that count.

    Rendle et al. 2009 (arXiv:1205.2618); the paper's prediction loss, with in-batch negatives.

    Args:
        scores: `[B, C]` of users and candidate items.
        positives: `[B]` int64 column of each row's positive.
        negatives: `[B, C]` bool, true where a column is a negative of the row.

    Returns:
        Scalar; 0 where no pair counts.
    """
    _check(scores, positives, negatives)
    pairs = F.softplus(scores - scores.gather(1, positives[:, None]))
    return torch.where(negatives, pairs, 0.0).sum() / negatives.sum().clamp_min(1)


def sampled_softmax_loss(
    scores: Tensor,
    positives: Tensor,
    negatives: Tensor,
    log_probability: Tensor | None = None,
) -> Tensor:
    """Return the mean cross entropy of the positive among itself and its negatives.

    Args:
        scores: `[B, C]` of users and candidate items.
        positives: `[B]` int64 column of each row's positive.
        negatives: `[B, C]` bool, true where a column is a negative of the row.
        log_probability: `[C]` log of how often each candidate is expected in a batch; it is taken
            off the scores (log-Q correction, Yi et al. 2019, doi:10.1145/3298689.3346996).

    Returns:
        Scalar.
    """
    _check(scores, positives, negatives)
    scores = _corrected(scores, log_probability)
    kept = negatives.scatter(1, positives[:, None], True)
    return F.cross_entropy(scores.masked_fill(~kept, -torch.inf), positives)


def distillation_loss(
    scores: Tensor,
    teacher: Tensor,
    positives: Tensor,
    negatives: Tensor,
    log_probability: Tensor | None = None,
    *,
    temperature: float = 1.0,
) -> Tensor:
    """Return the mean divergence KL(teacher || model) over each row's positive and negatives.

    Hinton et al. 2015 (arXiv:1503.02531). The temperature divides the teacher's scores alone: the
    model's are over their own.

    Args:
        scores: `[B, C]` of users and candidate items.
        teacher: `[B, C]` scores of the teacher, which gets no gradient; a row with NaN, of which
            the teacher knows nothing, does not count.
        positives: `[B]` int64 column of each row's positive.
        negatives: `[B, C]` bool, true where a column is a negative of the row.
        log_probability: `[C]`, taken off both: see `sampled_softmax_loss`.
        temperature: Divides the teacher's scores.

    Returns:
        Scalar; 0 where no row counts.
    """
    _check(scores, positives, negatives)
    if teacher.shape != scores.shape:
        raise ValueError(f"expected teacher {list(scores.shape)}, got {list(teacher.shape)}")
    kept = negatives.scatter(1, positives[:, None], True)
    known = ~teacher.isnan().any(dim=1)
    # finite, as 0 * inf in the divergence would be no number
    lowest = torch.finfo(scores.dtype).min / 2
    log_model, log_teacher = (
        F.log_softmax(_corrected(each, log_probability).masked_fill(~kept, lowest)[known], dim=1)
        for each in (scores, teacher.detach().to(scores.dtype) / temperature)
    )
    divergence = F.kl_div(log_model, log_teacher, reduction="none", log_target=True)
    return divergence.masked_fill(~kept[known], 0.0).sum() / known.sum().clamp_min(1)


def alignment_loss(soft: Tensor, text: Tensor, same: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Return InfoNCE between pooled soft prompts and pooled text states, mean over layers.

    van den Oord et al. 2018 (arXiv:1807.03748); DESIGN.md section 1.7.

    Args:
        soft: `[B, L, H]` pooled `d[l]`.
        text: `[B, L, H]` pooled text states `g[l]`.
        same: `[B, B]` bool, true where two rows are the same entity: no negatives of each other.
        temperature: Divides the cosines.

    Returns:
        Scalar; 0 where there is no row, as in a batch of cold entities.
    """
    if soft.shape != text.shape or soft.ndim != 3:
        raise ValueError(f"expected [B, L, H] twice, got {list(soft.shape)}, {list(text.shape)}")
    if same.shape != (len(soft), len(soft)):
        raise ValueError(f"expected same {[len(soft), len(soft)]}, got {list(same.shape)}")
    if len(soft) == 0:
        return soft.float().sum()
    soft = F.normalize(soft.float(), dim=-1).transpose(0, 1)
    text = F.normalize(text.float(), dim=-1).transpose(0, 1)
    logits = soft @ text.transpose(1, 2) / temperature  # [L, B, B]
    target = torch.arange(logits.shape[1], device=logits.device)
    others = same.clone()
    others[target, target] = False
    logits = logits.masked_fill(others, -torch.inf)
    return F.cross_entropy(logits.flatten(0, 1), target.repeat(len(logits)))


def _corrected(scores: Tensor, log_probability: Tensor | None) -> Tensor:
    if log_probability is None:
        return scores
    if log_probability.shape != scores.shape[1:]:
        raise ValueError(
            f"expected log_probability {list(scores.shape[1:])}, got {list(log_probability.shape)}"
        )
    return scores - log_probability


def _check(scores: Tensor, positives: Tensor, negatives: Tensor) -> None:
    if scores.ndim != 2 or scores.shape != negatives.shape or len(positives) != len(scores):
        raise ValueError(
            f"expected scores [B, C], positives [B] and negatives [B, C], "
            f"got {list(scores.shape)}, {list(positives.shape)} and {list(negatives.shape)}"
        )
