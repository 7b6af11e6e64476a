"""Settings of the whole path."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rarec.backbone import LanguageModel
from rarec.data import Dataset, Split, leave_one_out, split_by_time
from rarec.model import ModelConfig
from rarec.prompts import PromptConfig
from rarec.training import LossConfig, check_decay

SPLITS = ("leave-one-out", "time")
#: Layers that take a prefix by default: as good as all, for half the time (docs/decisions.md).
TOP_LAYERS = 3
# names of rows that are no aligned models
_OTHER_ROWS = ("popularity", "id", "id_held_out", "late_fusion")
_LABEL = re.compile(r"[a-z0-9][a-z0-9._-]*")


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
        quantization: `8bit` or `4bit` weights of the language model; by default as they are.
        dtype: Of its weights: `float32`, `bfloat16`, `float16`.
        checkpoint_layers: Compute states inside its layers again in the backward: less memory for
            more time.
        model: What is trained.
        prompts: How texts are made.
        loss: What is minimised.
        training: Changes to the defaults of `rarec.training.training_arguments`.
        average_decay: The model ends with an exponential moving average of its weights over the
            steps, of this decay (`rarec.training.WeightAverage`); by default with the last ones.
        label: What the model is called in tables and folders; by default `rarec`, or `text`
            without IDs.
        seed: Of the start values, the batches and the negatives.

    Raises:
        ValueError: If a folder cannot be called so, or the alignment loss meets a language model
            that is trained: it pulls towards states that are computed once. If weights in few
            bits were to be trained, or the decay of an average is not between 0 and 1.
    """

    llm: str = "all-MiniLM-L6-v2"
    llm_revision: str | None = None
    pooling: str | None = None
    quantization: str | None = None
    dtype: str = "float32"
    checkpoint_layers: bool = False
    model: ModelConfig = field(default_factory=lambda: ModelConfig(layers=TOP_LAYERS))
    prompts: PromptConfig = field(default_factory=PromptConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    training: Mapping[str, Any] = field(default_factory=dict)
    average_decay: float | None = None
    label: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.label and not _LABEL.fullmatch(self.label):
            raise ValueError(
                f"expected a label of small letters, digits and - _ ., got {self.label!r}"
            )
        if self.label in _OTHER_ROWS:
            raise ValueError(f"expected a label that is no other row's name, got {self.label!r}")
        if self.loss.alignment and self.model.tune != "none":
            raise ValueError(
                f"expected no alignment loss with tune={self.model.tune!r}, which changes the "
                f"text states it pulls towards, got a weight of {self.loss.alignment}"
            )
        if self.average_decay is not None:
            check_decay(self.average_decay)
        # which checks what it is made of
        language_model = self.language_model
        if self.model.tune != "none" and language_model.quantization is not None:
            raise ValueError(
                f"expected no quantization with tune={self.model.tune!r}, got {self.quantization!r}"
            )
        if self.model.tune == "full" and self.dtype != "float32":
            raise ValueError(
                f"expected dtype 'float32' with tune='full', whose small steps {self.dtype} would "
                "round away"
            )

    @property
    def language_model(self) -> LanguageModel:
        """Which language model, and how its weights are held."""
        return LanguageModel(
            self.llm, self.llm_revision, self.pooling, self.quantization, self.dtype
        )

    @property
    def name(self) -> str:
        """What the model is called in tables and folders."""
        return self.label or ("rarec" if self.model.use_ids else "text")

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON can hold it."""
        return json.loads(json.dumps(asdict(self), default=str))

    def without_ids(self) -> AlignConfig:
        """Return the same recipe for text alone: no ID vectors, and so nothing learnt from them.

        The layer prefixes, now all there is to train, learn three times as fast: tuned for this
        rival on the validation part of MovieLens-100K.
        """
        model = replace(
            self.model, use_ids=False, prefix_rate=3 * self.model.prefix_rate, id_score="none"
        )
        return replace(
            self,
            model=model,
            loss=replace(self.loss, alignment=0.0, hard_negatives=0, distillation=0.0),
            label="",
        )
