"""Prediction and alignment losses: pure functions (docs/method.md).

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
        scores: `[B, C]` scores of users and candidate items.
        positives: `[B]` int64 column of the positive of each row.
        negatives: `[B, C]` bool, true where a column is a negative of the row.

    Returns:
        Scalar. It is 0 if no pair counts.
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
        scores: `[B, C]` scores of users and candidate items.
        positives: `[B]` int64 column of the positive of each row.
        negatives: `[B, C]` bool, true where a column is a negative of the row.
        log_probability: `[C]` log of how often each candidate is expected in a batch. It is
            subtracted from the scores (log-Q correction, Yi et al. 2019,
            doi:10.1145/3298689.3346996).

    Returns:
        Scalar.
    """
    _check(scores, positives, negatives)
    if log_probability is not None:
        if log_probability.shape != scores.shape[1:]:
            raise ValueError(
                f"expected log_probability {list(scores.shape[1:])}, "
                f"got {list(log_probability.shape)}"
            )
        scores = scores - log_probability
    kept = negatives.scatter(1, positives[:, None], True)
    return F.cross_entropy(scores.masked_fill(~kept, -torch.inf), positives)


def alignment_loss(soft: Tensor, text: Tensor, same: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Return InfoNCE between pooled soft prompts and pooled text states, mean over layers.

    van den Oord et al. 2018 (arXiv:1807.03748), see docs/method.md.

    Args:
        soft: `[B, L, H]` pooled soft prompts `d[l]`.
        text: `[B, L, H]` pooled text-only states `g[l]`.
        same: `[B, B]` bool, true where two rows are the same entity. They are no negatives of each
            other.
        temperature: The cosines are divided by it.

    Returns:
        Scalar. It is 0 if there is no row, as in a batch of cold entities.
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


def _check(scores: Tensor, positives: Tensor, negatives: Tensor) -> None:
    if scores.ndim != 2 or scores.shape != negatives.shape or len(positives) != len(scores):
        raise ValueError(
            f"expected scores [B, C], positives [B] and negatives [B, C], "
            f"got {list(scores.shape)}, {list(positives.shape)} and {list(negatives.shape)}"
        )
