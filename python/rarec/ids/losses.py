"""The losses of the ID models: the softmax over all items, or over a few that are drawn.

Axes: B users of a batch, T places, K vectors per user, E width, N items, M targets, n negatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rarec.ids.encoder import HistoryEncoder
from rarec.ids.softmax import catalogue_cross_entropy
from rarec.selection import NegativeSampler

# makes these draws independent of others with the same seed
_STREAM = 2


@dataclass(frozen=True)
class Batch:
    """The inputs of a loss.

    Attributes:
        users: `[B]` row numbers in the training histories.
        states: `[B, T, K, E]` user vectors after each place of a history.
        targets: `[B, T]` int64, the item after each place.
        counted: `[B, T]` bool, true for the M targets that count.
        step: Number of the batch in the training. The negatives depend on it.
    """

    users: NDArray[np.int64]
    states: Tensor
    targets: Tensor
    counted: Tensor
    step: int


# -> scalar
Loss = Callable[[HistoryEncoder, Batch], Tensor]


def full_loss(cold: Tensor | None = None) -> Loss:
    """Return the cross entropy over the whole catalogue.

    Args:
        cold: `[N]` bool, true for items that are never a target. They are no negatives: otherwise
            the model would learn that texts such as theirs are not wanted.
    """
    offset = _offset(cold)

    def loss(model: HistoryEncoder, batch: Batch) -> Tensor:
        target = batch.targets[batch.counted]
        table = model.item_vectors
        chosen = _chosen(batch.states[batch.counted], table[target])
        bias = None if offset is None else offset.to(table.device)
        return catalogue_cross_entropy(chosen, table, target, bias)

    return loss


def sampled_loss(sampler: NegativeSampler, negatives: int, cold: Tensor | None = None) -> Loss:
    """Return a loss over the target and a few items the user has not seen, log-Q corrected.

    Args:
        sampler: Draws the negatives.
        negatives: Number of negatives n that are drawn for each user.
        cold: See `full_loss`.
    """
    log_probability = torch.from_numpy(sampler.log_probability(np.arange(sampler.n_items))).float()
    offset = _offset(cold)

    def loss(model: HistoryEncoder, batch: Batch) -> Tensor:
        drawn = sampler.sample(batch.users.astype(np.int32), negatives, step=batch.step)
        row = batch.counted.nonzero()[:, 0]
        target = batch.targets[batch.counted]
        negative = torch.from_numpy(drawn.astype(np.int64)).to(target.device)[row]  # [M, n]
        log_q = log_probability.to(target.device)
        table = model.item_vectors
        chosen = _chosen(batch.states[batch.counted], table[target])
        positive_score = (chosen * table[target]).sum(dim=1, keepdim=True)
        negative_score = torch.einsum("me,mne->mn", chosen, table[negative])
        # the positive counts once; each of the n draws stands for 1 / (n Q) items
        correction = log_q[negative] + np.log(negatives)
        if offset is not None:
            negative_score = negative_score + offset.to(target.device)[negative]
        logits = torch.cat([positive_score, negative_score - correction], dim=1)
        return F.cross_entropy(logits, torch.zeros_like(target))

    return loss


def shared_loss(n_items: int, negatives: int, seed: int, cold: Tensor | None = None) -> Loss:
    """Return the cross entropy over the targets of a batch and other items drawn for the batch.

    In the sum of the softmax, the targets of the batch count once each. The other items are
    estimated: n of them are drawn uniformly without replacement, and count for all of them.

    Args:
        n_items: Number of items N.
        negatives: Number of items n that are drawn for each batch.
        seed: Seed of the draws.
        cold: See `full_loss`.
    """
    free = np.ones(n_items, dtype=bool) if cold is None else ~cold.numpy()

    def loss(model: HistoryEncoder, batch: Batch) -> Tensor:
        items, target = torch.unique(batch.targets[batch.counted], return_inverse=True)
        others = free.copy()
        others[items.cpu().numpy()] = False
        rest = np.flatnonzero(others)
        drawn = rest
        if len(rest) > negatives:
            rng = np.random.default_rng([seed, batch.step, _STREAM])
            drawn = rng.choice(rest, negatives, replace=False, shuffle=False)
        table = model.items(torch.cat([items, torch.from_numpy(drawn).to(items.device)]))
        bias = table.new_zeros(len(table))
        bias[len(items) :] = np.log(max(len(rest), 1) / max(len(drawn), 1))
        chosen = _chosen(batch.states[batch.counted], table[target])
        return catalogue_cross_entropy(chosen, table, target, bias)

    return loss


def _offset(cold: Tensor | None) -> Tensor | None:
    """Return `[N]` to add to the scores: zero, or minus infinity for cold items."""
    return None if cold is None else torch.zeros(len(cold)).masked_fill(cold, -torch.inf)


def _chosen(states: Tensor, target_vectors: Tensor) -> Tensor:
    """Return `[M, E]`: the user vector with the highest score of the target (ComiRec eq. 8)."""
    if states.shape[1] == 1:
        return states[:, 0]
    nearest = (states * target_vectors[:, None]).sum(dim=-1).argmax(dim=1)
    return states[torch.arange(len(states), device=states.device), nearest]
