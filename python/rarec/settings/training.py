"""Settings of the optimisation of the alignment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from rarec.settings.declaration import Count, CountOrZero, NotNegative, Positive, typed


@typed
class TrainingSettings:
    """How long and how fast is trained. Fields have their names in `transformers`."""

    max_steps: Count = 120
    """Number of optimizer steps."""
    per_device_train_batch_size: Count = 64
    """Number of samples in a step, on each device."""
    learning_rate: Positive = 3e-3
    """Learning rate of AdamW for the projectors."""
    lr_scheduler_type: str = "cosine"
    """Schedule of the learning rate."""
    warmup_steps: CountOrZero = 10
    """Number of steps in which the learning rate rises from 0."""
    weight_decay: NotNegative = 0.01
    """Weight decay of AdamW."""
    save_steps: Count = 50
    """Number of steps between two checkpoints."""
    logging_steps: Count = 10
    """Number of steps between two reports of the loss."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """Any other argument of `transformers.TrainingArguments`."""

    def __post_init__(self) -> None:
        stated = sorted(set(self.other) & {"seed", *self.__dataclass_fields__})  # type: ignore[attr-defined]
        if stated:
            raise ValueError(f"expected training.other without fields of settings, got {stated}")
