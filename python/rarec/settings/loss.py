"""Settings of the loss that the alignment minimises."""

from __future__ import annotations

from typing import Literal

from rarec.settings.declaration import Count, CountOrZero, NotNegative, Positive, typed


@typed
class LossSettings:
    """The loss: prediction + alignment * (user alignment + item alignment), see docs/method.md."""

    prediction: Literal["softmax", "bpr"] = "softmax"
    """Prediction loss: the softmax over the items of the batch, or BPR (the paper's)."""
    log_q: bool = True
    """Correct the softmax for how often an item is expected in a batch (log-Q correction). It has
    no effect on BPR."""
    alignment: NotNegative = 0.0
    """Weight of the alignment loss. With 0 neither the loss nor its text-only pass is computed."""
    alignment_temperature: Positive = 0.1
    """The cosines of the alignment loss are divided by it."""
    extra_negatives: CountOrZero = 0
    """Number of unseen items that are drawn for each sample beside the items of the batch."""
    alpha: NotNegative = 0.75
    """Power of the popularity by which `extra_negatives` are drawn."""
    hard_negatives: CountOrZero = 0
    """Number of hard negatives drawn for each sample from the items that the ID model ranks highest
    among those its user has not seen (hard-negative mining)."""
    hard_pool: Count = 100
    """Number of highest ranked items from which hard negatives are drawn."""
    id_score_warmup: CountOrZero = 0
    """Number of steps over which the weight of the ID model's score rises from 0 (see
    `ModelSettings.id_score`)."""
    chunk_size: Count | None = None
    """Number of users or items that are in memory at once. The gradients stay the same and each
    text is read twice (gradient caching). By default a batch is read as a whole."""

    def __post_init__(self) -> None:
        if self.hard_negatives > self.hard_pool:
            raise ValueError(
                f"expected hard_negatives <= hard_pool, got {self.hard_negatives} "
                f"and {self.hard_pool}"
            )
