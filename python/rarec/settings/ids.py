"""Settings of the ID models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Ge

from rarec.settings.declaration import (
    Count,
    CountOrZero,
    NotNegative,
    Positive,
    Seed,
    Share,
    typed,
)
from rarec.settings.language_model import DEFAULT_LLM
from rarec.settings.selection import SelectionSettings

#: Further arguments of each ID model, which `IDSettings.options` may set.
ID_MODEL_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "comirec": ("hidden_dim", "n_interests"),
    "gru4rec": ("hidden_dim",),
    "sasrec": ("n_heads", "n_layers"),
}


@typed
class IDSettings:
    """How an ID model is built and trained."""

    model: Literal["gru4rec", "sasrec", "comirec"] = "gru4rec"
    """Architecture of the ID model."""
    dim: Count = 64
    """Width E of the ID vectors."""
    max_history: Count = 50
    """Number of newest items of a history that the model reads."""
    dropout: Share = 0.3
    """Share of the inputs that dropout sets to zero in training."""
    learning_rate: Positive = 4e-3
    """Learning rate of Adam."""
    batch_size: Count = 128
    """Number of history windows in a training step."""
    max_epochs: Count = 200
    """Most passes over the training histories."""
    patience: Count = 15
    """Number of epochs without a better validation NDCG@10 after which the training stops."""
    negatives: CountOrZero = 0
    """Number of negatives drawn for each user (sampled softmax). 0 takes the softmax over all
    items."""
    shared_negatives: CountOrZero = 0
    """Number of negatives drawn for each batch. The softmax over all items is estimated from them
    and the targets of the batch, which takes a fraction of the time on large catalogues. 0 takes
    the softmax over all items."""
    alpha: NotNegative = 0.75
    """Power of the popularity by which `negatives` are drawn."""
    max_validation: Count = 10_000
    """Most validation cases that early stopping looks at. The seed chooses them."""
    seed: Seed = 0
    """Seed of the initial values, the batches, the dropout and the negatives."""
    options: Mapping[str, Annotated[int, Ge(1)]] = field(default_factory=dict)
    """Further arguments of the architecture, such as `n_interests` of ComiRec."""
    text: str = DEFAULT_LLM
    """Language model whose vectors of the titles the ID model reads. The vector of an item is its
    ID embedding plus a trained map of its title vector, so items without training events have
    vectors too. It is named as for the alignment. Empty for ID embeddings alone."""
    text_layers: Count = 1
    """Number of layers of the map of the title vectors. 1 is a linear map."""
    id_dropout: Share = 0.0
    """Share of the ID embeddings that are left out of the item vectors in training, so that the
    titles learn to do without them. It needs `text`."""

    def __post_init__(self) -> None:
        if self.id_dropout and not self.text:
            raise ValueError(f"expected id_dropout 0 without text, got {self.id_dropout}")
        if self.negatives and self.shared_negatives:
            raise ValueError(
                f"expected negatives or shared_negatives, got {self.negatives} and "
                f"{self.shared_negatives}"
            )
        accepted = ID_MODEL_OPTIONS[self.model]
        if unknown := sorted(set(self.options) - set(accepted)):
            raise ValueError(
                f"expected options of {self.model} to be among {list(accepted)}, got {unknown}"
            )


@typed
class FitSettings:
    """What `rarec fit-ids` does: it chooses the tuning samples and trains the ID model."""

    selection: SelectionSettings = field(default_factory=SelectionSettings)
    """How the tuning samples are chosen."""
    ids: IDSettings = field(default_factory=IDSettings)
    """How the ID model is built and trained."""
    hold_out: bool = True
    """Train the ID model that the language model is given without the targets of the tuning
    samples."""
    all_samples: bool = True
    """Train the ID model on all samples, too. It is the baseline, and the one that is added to the
    score of the language model."""

    def __post_init__(self) -> None:
        if not (self.hold_out or self.all_samples):
            raise ValueError("expected hold_out or all_samples, got neither")
