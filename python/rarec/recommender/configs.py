"""Settings of the whole path, and the named recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rarec.data import Dataset, Split, leave_one_out, split_by_time
from rarec.model import ModelConfig
from rarec.prompts import PromptConfig
from rarec.training import LossConfig

SPLITS = ("leave-one-out", "time")


@dataclass(frozen=True)
class SplitConfig:
    """How a dataset is cut into training, validation and test.

    Attributes:
        kind: `leave-one-out` or `time`.
        min_history: Events that must come before a target.
        validation: Share of the events, for `time`.
        test: Share of the events, for `time`.
    """

    kind: str = "leave-one-out"
    min_history: int = 1
    validation: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in SPLITS:
            raise ValueError(f"expected split to be one of {list(SPLITS)}, got {self.kind!r}")

    def split(self, dataset: Dataset) -> Split:
        """Return the dataset cut in three."""
        if self.kind == "time":
            return split_by_time(
                dataset,
                validation=self.validation,
                test=self.test,
                min_history=self.min_history,
            )
        return leave_one_out(dataset, min_history=self.min_history)


@dataclass(frozen=True)
class AlignConfig:
    """How a language model is given the ID embeddings.

    Attributes:
        llm: A folder, a name of `rarec.assets`, or a name on the Hugging Face hub.
        llm_revision: Of the hub.
        pooling: `mean`, `first`, `last`; by default what suits the architecture.
        model: What is trained.
        prompts: How texts are made.
        loss: What is minimised.
        training: Changes to the defaults of `rarec.training.training_arguments`.
        seed: Of the start values, the batches and the negatives.
    """

    llm: str = "all-MiniLM-L6-v2"
    llm_revision: str | None = None
    pooling: str | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    training: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def name(self) -> str:
        """What the model is called in tables and folders: `rarec`, or `text` without IDs."""
        return "rarec" if self.model.use_ids else "text"

    def without_ids(self) -> AlignConfig:
        """Return the same recipe for text alone: no ID vectors, and so no alignment with them.

        The layer prefixes, now all there is to train, learn three times as fast: tuned for this
        rival on the validation part of MovieLens-100K.
        """
        return replace(
            self,
            model=replace(self.model, use_ids=False, prefix_rate=3 * self.model.prefix_rate),
            loss=replace(self.loss, alignment=0.0),
        )


def recipe(preset: str = "default", **changes: Any) -> AlignConfig:
    """Return a named recipe, with changes.

    `default`: cosine over a learned temperature, softmax in the batch with log-Q correction.
    `paper`: dot product, BPR with in-batch negatives, alignment loss (arXiv:2402.04527).

    Args:
        preset: `default` or `paper`.
        **changes: Fields of `AlignConfig`.

    Raises:
        ValueError: If the preset is unknown.
    """
    presets = {
        "default": AlignConfig(),
        "paper": AlignConfig(
            model=ModelConfig(similarity="dot", temperature=1.0),
            loss=LossConfig(prediction="bpr", alignment=0.1),
        ),
    }
    if preset not in presets:
        raise ValueError(f"expected preset to be one of {list(presets)}, got {preset!r}")
    return replace(presets[preset], **changes)
