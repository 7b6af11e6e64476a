"""Loading of language models by name: from safetensors or GGUF, with or without quantization."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file, is_gguf_available

from rarec import assets
from rarec.backbone.backbone import POOLINGS, Backbone
from rarec.backbone.content import content_sha256, gguf_files, short_hash
from rarec.backbone.names import (
    POOLING_FILE,
    fetched,
    full_name,
    hub_source,
    path_hint,
    place_of,
)
from rarec.backbone.quantization import (
    check_quantization,
    quantization_config,
    quantized,
    require_quantized,
)
from rarec.backbone.versions import older_than

# older versions make a different tokenizer from a GGUF file: it adds a token before each text
_GGUF_TRANSFORMERS = "5.6"

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
        name: Path, asset name or hub name of the model (see `load_backbone`).
        revision: Hub revision of the model.
        pooling: Pooling of the token states (see `load_backbone`).
        quantization: `8bit`, `4bit` or None.
        dtype: Dtype of the weights: `float32`, `bfloat16` or `float16`.
        sha256: Hash of the content that the model must have (see `content_sha256`); None takes any.
        tuned_as: Folder of the model that was tuned with this content, for messages.
    """

    name: str
    revision: str | None = None
    pooling: str | None = None
    quantization: str | None = None
    dtype: str = "float32"
    sha256: str | None = None
    tuned_as: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.pooling is not None and self.pooling not in POOLINGS:
            raise ValueError(
                f"expected pooling to be one of {list(POOLINGS)}, got {self.pooling!r}"
            )
        check_quantization(self.quantization)
        if self.dtype not in DTYPES:
            raise ValueError(f"expected dtype to be one of {list(DTYPES)}, got {self.dtype!r}")

    def load(self) -> tuple[Backbone, PreTrainedTokenizerBase]:
        """Return the model as a backbone, and its tokenizer (see `load_backbone`).

        Raises:
            ValueError: If the model cannot be loaded, or has another content than it must have.
        """
        # before the weights are loaded, if they are on this machine
        self.resolved()
        try:
            backbone, tokenizer = load_backbone(
                self.name,
                revision=self.revision,
                dtype=getattr(torch, self.dtype),
                pooling=self.pooling,
                quantization=self.quantization,
            )
        except ValueError as error:
            if not self.tuned_as:
                raise
            raise ValueError(f"{self.tuned_as}: {error}") from error
        self.require(backbone.sha256)
        return backbone, tokenizer

    def content(self) -> str | None:
        """Return the hash of the content that the name has now; None if it is not here."""
        place = place_of(self.name, self.revision)
        return None if place is None else content_sha256(place)

    def resolved(self) -> LanguageModel:
        """Return the same model with its name in any working directory and its content now.

        Raises:
            ValueError: If the model has another content than it must have.
        """
        content = self.content()
        self.require(content)
        return replace(self, name=full_name(self.name), sha256=content)

    def require(self, content: str | None, place: str | None = None) -> None:
        """Refuse another content than the model must have.

        Args:
            content: Hash of the content that was found; None, which is not known, is taken.
            place: Where it was found; by default the place that the name means.

        Raises:
            ValueError: If it is another one.
        """
        if None in (content, self.sha256) or content == self.sha256:
            return
        place = place or str(place_of(self.name, self.revision) or self.name)
        raise ValueError(
            f"{self.tuned_as or self.name}: expected the language model {self.name!r} with the "
            f"content {short_hash(str(self.sha256))}, with which it was tuned, got other content "
            f"{short_hash(str(content))} in {place!r}"
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
        name: Path of a folder or a GGUF file, name in `rarec.assets`, or name on the Hugging Face
            hub. A path is absolute or begins with `./`, `../` or `~`; a folder `llm` is `./llm`.
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
    try:
        place = fetched(name)
    except FileNotFoundError as error:
        raise _not_found(name, error) from None
    gguf = None if place is None else _gguf_file(place)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = dtype or torch.float32
    if gguf is not None:
        options: dict[str, Any] = {"gguf_file": gguf.name}
        weights = _dequantized(options)
    else:
        options = weights = {"revision": revision}
        if quantization is not None:
            weights = {
                **options,
                "quantization_config": quantization_config(quantization, dtype),
                "device_map": {"": device},
            }
    try:
        if place is None:
            source = hub_source(name, revision)
        else:
            source = str(place if gguf is None else gguf.parent)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModel.from_pretrained(source, dtype=dtype, **weights)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise _not_found(name, error) from error
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
        sha256=LanguageModel(name, revision).content(),
    )
    return backbone, tokenizer


def _not_found(name: str, error: Exception) -> ValueError:
    """Return the error of one line about a model that cannot be loaded."""
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ValueError(
        f"no language model {name!r}: expected the path of a folder with config.json or of a .gguf "
        f"file, one of {assets.names()}, or a model on the Hugging Face hub ({cause})"
        f"{path_hint(name)}"
    )


def _gguf_file(path: Path) -> Path | None:
    """Return the GGUF file at a path or in a folder; None if the weights have another format.

    Raises:
        ValueError: If a folder has several GGUF files, or if a package that reads them is missing
            or too old.
    """
    files = gguf_files(path)
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
        POOLING_FILE,
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
