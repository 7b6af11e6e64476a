"""Settings of the alignment of a language model."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Literal

from rarec.paths import require_folder_name
from rarec.settings.declaration import Seed, typed
from rarec.settings.language_model import DEFAULT_LLM
from rarec.settings.loss import LossSettings
from rarec.settings.model import ModelSettings
from rarec.settings.prompts import PromptSettings
from rarec.settings.training import TrainingSettings

#: Names that no aligned model may have: those of other rows, and one that safetensors keeps.
RESERVED_NAMES = ("popularity", "id", "id_held_out", "late_fusion", "__metadata__")
# end of the name of a fused row
_FUSED = "+id"


@typed
class AlignSettings:
    """How a language model is given the ID vectors."""

    llm: str = DEFAULT_LLM
    """Language model: all-MiniLM-L6-v2, smollm2-135m-instruct, a name on the Hugging Face hub, or
    the path of a folder or a GGUF file, which is absolute or begins with ./ ../ or ~ (./llm)."""
    llm_revision: str | None = None
    """Hub revision of the language model."""
    pooling: Literal["mean", "first", "last"] | None = None
    """How the states of a text become one vector: their mean, the first or the last token. By
    default what suits the architecture."""
    quantization: Literal["8bit", "4bit"] | None = None
    """Precision of the weights of the language model: 8bit or 4bit. By default they stay as they
    are."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the language model."""
    checkpoint_layers: bool = False
    """Compute the states inside the layers again in the backward pass. It takes less memory and
    more time."""
    model: ModelSettings = field(default_factory=ModelSettings)
    """What is trained."""
    prompts: PromptSettings = field(default_factory=PromptSettings)
    """How texts are made."""
    loss: LossSettings = field(default_factory=LossSettings)
    """What is minimised."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """How long and how fast is trained."""
    name: str = ""
    """Name of the model in tables and folders. By default it is `rarec`, or `text` without ID
    vectors."""
    seed: Seed = 0
    """Seed of the initial values, the batches and the negatives."""

    def __post_init__(self) -> None:
        if self.name:
            require_folder_name(self.name)
        if self.name in RESERVED_NAMES or self.name.endswith(_FUSED):
            raise ValueError(f"expected a name that no other row has, got {self.name!r}")
        tune = self.model.tune
        if self.loss.alignment and tune != "none":
            raise ValueError(
                f"expected loss.alignment 0 with tune={tune!r}, which changes the text-only states "
                f"that the alignment loss is computed from, got {self.loss.alignment}"
            )
        if tune != "none" and self.quantization is not None:
            raise ValueError(
                f"expected no quantization with tune={tune!r}, got {self.quantization!r}"
            )
        if tune == "full" and self.dtype != "float32":
            raise ValueError(
                f"expected dtype 'float32' with tune='full', whose small steps are lost in "
                f"{self.dtype}"
            )

    @property
    def member(self) -> str:
        """Name of the model in tables and folders."""
        return self.name or ("rarec" if self.model.use_ids else "text")

    def without_ids(self) -> AlignSettings:
        """Return the same settings for text alone, the baseline without ID vectors.

        The learnable vectors, all that is left to train, learn three times as fast: tuned for this
        baseline on the validation part of MovieLens-100K. Settings without ID vectors are returned
        as they are.
        """
        if not self.model.use_ids:
            return self
        model = dataclasses.replace(
            self.model, use_ids=False, prefix_rate=3 * self.model.prefix_rate, id_score="none"
        )
        loss = dataclasses.replace(self.loss, alignment=0.0, hard_negatives=0)
        return dataclasses.replace(self, model=model, loss=loss, name="")
