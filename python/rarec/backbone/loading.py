"""Loading of language models by name: from safetensors or GGUF, with or without quantization."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file, is_gguf_available

from rarec import assets
from rarec.backbone.backbone import POOLINGS, Backbone
from rarec.backbone.quantization import (
    check_quantization,
    quantization_config,
    quantized,
    require_quantized,
)
from rarec.backbone.versions import older_than

# older versions make a different tokenizer from a GGUF file: it adds a token before each text
_GGUF_TRANSFORMERS = "5.6"

_POOLING_FILE = "1_Pooling/config.json"
#: Poolings of rarec by the names that sentence-transformers uses.
_POOLINGS = {
    "mean": "mean",
    "mean_tokens": "mean",
    "cls": "first",
    "cls_token": "first",
    "lasttoken": "last",
}

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LanguageModel:
    """The name of a language model, and how to load it.

    Attributes:
        name: Folder, GGUF file, asset name or hub name of the model (see `load_backbone`).
        revision: Hub revision of the model.
        pooling: Pooling of the token states (see `load_backbone`).
        quantization: `8bit`, `4bit` or None.
        dtype: Dtype of the weights: `float32`, `bfloat16` or `float16`.
    """

    name: str
    revision: str | None = None
    pooling: str | None = None
    quantization: str | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.pooling is not None and self.pooling not in POOLINGS:
            raise ValueError(
                f"expected pooling to be one of {list(POOLINGS)}, got {self.pooling!r}"
            )
        check_quantization(self.quantization)
        if self.dtype not in DTYPES:
            raise ValueError(f"expected dtype to be one of {list(DTYPES)}, got {self.dtype!r}")

    def load(self) -> tuple[Backbone, PreTrainedTokenizerBase]:
        """Return the model as a backbone, and its tokenizer (see `load_backbone`)."""
        return load_backbone(
            self.name,
            revision=self.revision,
            dtype=getattr(torch, self.dtype),
            pooling=self.pooling,
            quantization=self.quantization,
        )


def load_backbone(
    name: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    pooling: str | None = None,
    quantization: str | None = None,
) -> tuple[Backbone, PreTrainedTokenizerBase]:
    """Return the named model as a backbone, and its tokenizer.

    Args:
        name: Folder, GGUF file, name in `rarec.assets`, or name on the Hugging Face hub.
        revision: Hub revision of the language model.
        dtype: Dtype of the weights; float32 by default.
        device: Device of the model; by default a GPU if there is one.
        pooling: Pooling of the token states (see `Backbone`). The default is the pooling in
            `1_Pooling/config.json`, a file of sentence-transformers, if the model has that file.
        quantization: `8bit` or `4bit` for the weights of linear layers; by default they are not
            quantized.

    Raises:
        ValueError: If no model of that name is found; the message says what was tried. Also if a
            package that it needs is not installed, or if its pooling is unknown.
    """
    check_quantization(quantization)
    path = Path(assets.fetch(name) if name in assets.names() else name)
    gguf = _gguf_file(path)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = dtype or torch.float32
    if gguf is not None:
        source, options = str(gguf.parent), {"gguf_file": gguf.name}
        weights = _dequantized(options)
    else:
        source, options = str(path) if path.exists() else name, {"revision": revision}
        weights = options
        if quantization is not None:
            weights = {
                **options,
                "quantization_config": quantization_config(quantization, dtype),
                "device_map": {"": device},
            }
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModel.from_pretrained(source, dtype=dtype, **weights)
    except (OSError, ValueError, ImportError) as error:
        cause = str(error).strip().splitlines()[0]
        raise ValueError(
            f"no language model {name!r}: expected a folder with config.json or a .gguf file, one "
            f"of {assets.names()}, or a model on the Hugging Face hub ({cause})"
        ) from error
    if quantization is None:
        model = model.to(device)
    else:
        if gguf is not None:
            model = quantized(model, quantization, device)
        require_quantized(model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    backbone = Backbone(
        model,
        pooling=pooling or _pooling_beside(source, revision),
        name=name,
        revision=revision,
        quantization=quantization,
    )
    return backbone, tokenizer


def _gguf_file(path: Path) -> Path | None:
    """Return the GGUF file at a path or in a folder; None if the weights have another format.

    Raises:
        ValueError: If a folder has several GGUF files, or if a package that reads them is missing
            or too old.
    """
    if path.suffix == ".gguf" and path.is_file():
        files = [path]
    elif path.is_dir() and not any(path.glob("*.safetensors")):
        files = sorted(path.glob("*.gguf"))
    else:
        return None
    if len(files) > 1:
        raise ValueError(
            f"expected one .gguf file in {path}, got {', '.join(file.name for file in files)}: "
            "give the path of the file"
        )
    if files and (not is_gguf_available() or older_than(_GGUF_TRANSFORMERS)):
        raise ValueError(
            f"{files[0]}: reading GGUF needs gguf and transformers {_GGUF_TRANSFORMERS} or newer: "
            "pip install 'rarec[gguf]'"
        )
    return files[0] if files else None


def _dequantized(options: dict[str, Any]) -> dict[str, Any]:
    """Return loading options that unpack the quantized blocks of a GGUF file."""
    if not hasattr(transformers, "GgufConfig"):
        return options
    # else newer versions compute with the quantized blocks, and those kernels have no gradients
    return {**options, "quantization_config": transformers.GgufConfig(dequantize=True)}


def _pooling_beside(source: str, revision: str | None) -> str | None:
    """Return the pooling in a model's file of sentence-transformers; None if there is no file.

    Raises:
        ValueError: If rarec does not have that pooling.
    """
    file = cached_file(
        source,
        _POOLING_FILE,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is None:
        return None
    config = json.loads(Path(file).read_text(encoding="utf-8"))
    # newer files hold the name of the pooling, older ones a boolean for each pooling
    modes = config.get("pooling_mode") or [
        key.removeprefix("pooling_mode_")
        for key, on in config.items()
        if key.startswith("pooling_mode_") and on
    ]
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ValueError(
            f"{file}: expected one pooling of mean, cls and lasttoken, got {modes}: choose "
            "one with the argument pooling"
        )
    return _POOLINGS[modes[0]]
