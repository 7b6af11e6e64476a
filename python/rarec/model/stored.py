"""What the config of a model in a folder says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rarec.artifacts import CONFIG_NAME, read_config
from rarec.backbone import LanguageModel
from rarec.settings import (
    CountOrZero,
    ModelSettings,
    PromptSettings,
    Seed,
    from_dict,
    typed,
)

FORMAT = "rarec.model/4"


@typed
class StoredModel:
    """How a model is built. The tensors lie beside it."""

    llm: str
    """Name of the language model; a folder is an absolute path."""
    llm_revision: str | None
    """Hub revision of the language model."""
    llm_sha256: str | None
    """Hash of the content of the language model."""
    llm_quantization: str | None
    """Quantization of the language model."""
    llm_dtype: str
    """Dtype of the weights of the language model."""
    pooling: str
    """Pooling of the token states."""
    user_id_dim: CountOrZero
    """Width of the ID vectors of users."""
    item_id_dim: CountOrZero
    """Width of the ID vectors of items."""
    model: Mapping[str, Any]
    """Settings of the model."""
    prompts: Mapping[str, Any]
    """Settings of the texts."""
    seed: Seed
    """Seed of the initial values."""
    ids: str | None
    """Path from the folder to the ID embeddings."""

    @property
    def settings(self) -> ModelSettings:
        """Settings of the model."""
        return from_dict(ModelSettings, self.model)

    @property
    def prompt_settings(self) -> PromptSettings:
        """Settings of the texts."""
        return from_dict(PromptSettings, self.prompts)

    def language_model(self, folder: str | os.PathLike[str]) -> LanguageModel:
        """Return the language model of a folder, with the content that it must have.

        Args:
            folder: The folder, for messages.
        """
        return LanguageModel(
            name=self.llm,
            revision=self.llm_revision,
            pooling=self.pooling,
            quantization=self.llm_quantization,
            dtype=self.llm_dtype,
            sha256=self.llm_sha256,
            tuned_as=os.fspath(folder),
        )


def read_stored_model(folder: str | os.PathLike[str]) -> StoredModel:
    """Return what the config of a model says; all files of the folder are checked.

    Raises:
        ValueError: If the folder holds no model, or a file was changed or damaged later. The
            message names the file.
    """
    stored = read_config(folder, FORMAT, StoredModel)
    try:
        # of which each is checked now
        _ = stored.settings, stored.prompt_settings
    except ValueError as error:
        raise ValueError(f"{Path(folder) / CONFIG_NAME}: {error}") from error
    return stored
