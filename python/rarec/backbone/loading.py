"""Backbones by the names of their models."""

from __future__ import annotations

import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from rarec import assets
from rarec.backbone.backbone import Backbone


def load_backbone(
    name: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    pooling: str | None = None,
) -> tuple[Backbone, PreTrainedTokenizerBase]:
    """Return the named model as a backbone, and its tokenizer.

    Args:
        name: A folder, a name of `rarec.assets`, or a name on the Hugging Face hub.
        revision: Of the hub.
        dtype: Of the weights; by default float32.
        device: Where to put it; by default a GPU if there is one.
        pooling: See `Backbone`.

    Raises:
        ValueError: If no model of that name can be had; the message says what was tried.
    """
    path = str(assets.fetch(name)) if name in assets.names() else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        model = AutoModel.from_pretrained(path, revision=revision, dtype=dtype or torch.float32)
    except (OSError, ValueError) as error:
        cause = str(error).strip().splitlines()[0]
        raise ValueError(
            f"no language model {name!r}: expected a folder with config.json, one of "
            f"{assets.names()}, or a model of the Hugging Face hub ({cause})"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = Backbone(model.to(device), pooling=pooling, name=name, revision=revision)
    return backbone, tokenizer
