"""What a training minimises."""

from __future__ import annotations

from dataclasses import dataclass

PREDICTION_LOSSES = ("softmax", "bpr")


@dataclass(frozen=True)
class LossConfig:
    """What is minimised: prediction + alignment * (users + items) + distillation * ID model.

    DESIGN.md section 1.7, and `rarec.losses`.

    Attributes:
        prediction: `softmax` over the batch's items, or `bpr` (the paper's).
        log_q: Correct the softmax, and that of the distillation, for how often an item is expected
            in a batch; `bpr` has no such correction.
        alignment: Weight of the alignment loss; 0 leaves it, and the text-only pass, out.
        alignment_temperature: Divides its cosines.
        extra_negatives: Unseen items drawn for each row, on top of the batch's own.
        alpha: They are drawn from popularity to this power.
        hard_negatives: Items drawn for each row, evenly, from those that the ID model ranks
            highest for it among the items its user has not seen.
        hard_pool: So many of the highest.
        distillation: Weight of the divergence from the ID model's scores; 0 leaves it out.
        distillation_temperature: Divides the ID model's scores.
        id_score_warmup: Steps over which the ID model's score rises to its full weight, see
            `ModelConfig.id_score`.
        chunk_size: So many users or items are in memory at once, for batches that would not fit:
            the gradients stay the same, and each text is read twice (gradient caching). None
            keeps whole batches.

    Raises:
        ValueError: If a value is out of its range.
    """

    prediction: str = "softmax"
    log_q: bool = True
    alignment: float = 0.0
    alignment_temperature: float = 0.1
    extra_negatives: int = 0
    alpha: float = 0.75
    hard_negatives: int = 0
    hard_pool: int = 100
    distillation: float = 0.0
    distillation_temperature: float = 1.0
    id_score_warmup: int = 0
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTION_LOSSES:
            raise ValueError(
                f"expected prediction to be one of {list(PREDICTION_LOSSES)}, "
                f"got {self.prediction!r}"
            )
        if self.alignment < 0 or not self.alignment_temperature > 0:
            raise ValueError(
                f"expected alignment >= 0 and alignment_temperature > 0, "
                f"got {self.alignment} and {self.alignment_temperature}"
            )
        if self.extra_negatives < 0 or self.alpha < 0:
            raise ValueError(
                f"expected extra_negatives >= 0 and alpha >= 0, "
                f"got {self.extra_negatives} and {self.alpha}"
            )
        if not 0 <= self.hard_negatives <= self.hard_pool or self.hard_pool < 1:
            raise ValueError(
                f"expected 0 <= hard_negatives <= hard_pool and hard_pool >= 1, "
                f"got {self.hard_negatives} and {self.hard_pool}"
            )
        if self.distillation < 0 or not self.distillation_temperature > 0:
            raise ValueError(
                f"expected distillation >= 0 and distillation_temperature > 0, "
                f"got {self.distillation} and {self.distillation_temperature}"
            )
        if self.id_score_warmup < 0:
            raise ValueError(f"expected id_score_warmup >= 0, got {self.id_score_warmup}")
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"expected chunk_size >= 1, got {self.chunk_size}")
