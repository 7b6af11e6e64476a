"""Quantization: weights of linear layers in 8 or 4 bits.

8 bits are int8 with one scale for each row of a matrix (torchao). 4 bits are NF4 with one scale for
each 64 weights (bitsandbytes). Neither quantizes activations, so the states of a text do not depend
on its batch, and gradients reach the prefix. (With the 8 bits of bitsandbytes they would depend.)
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig

#: The package that each kind needs.
_PACKAGES = {"8bit": "torchao", "4bit": "bitsandbytes"}
QUANTIZATIONS = tuple(_PACKAGES)


def check_quantization(kind: str | None) -> None:
    """Raise ValueError unless weights can be quantized in this way on this machine.

    Args:
        kind: `8bit`, `4bit`, or None for no quantization.

    Raises:
        ValueError: If the kind is unknown, or its package is not installed.
    """
    if kind is None:
        return
    if kind not in _PACKAGES:
        raise ValueError(
            f"expected quantization to be one of {list(QUANTIZATIONS)} or None, got {kind!r}"
        )
    if find_spec(_PACKAGES[kind]) is None:
        raise ValueError(
            f"{kind} weights need {_PACKAGES[kind]}: pip install 'rarec[quantization]'"
        )


def quantization_config(kind: str, dtype: torch.dtype) -> Any:
    """Return the quantization configuration for transformers.

    Args:
        kind: A kind that `check_quantization` has accepted.
        dtype: Dtype of the activations.
    """
    if kind == "4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    # imported here: torchao is an optional dependency
    from torchao.quantization import Int8WeightOnlyConfig

    # torchao must not change the global settings of the compiler
    return TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False))


def quantized(model: PreTrainedModel, kind: str, device: str | torch.device) -> PreTrainedModel:
    """Return a copy of a model with its weights in 8 or 4 bits."""
    # transformers quantizes while it loads, also from a state dict in memory
    return type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=model.state_dict(),
        dtype=model.dtype,
        quantization_config=quantization_config(kind, model.dtype),
        device_map={"": device},
    )


def require_quantized(model: PreTrainedModel) -> None:
    """Raise ValueError unless a model has quantized weights.

    Raises:
        ValueError: If no weight is quantized, which happens because transformers skips layers that
            it does not know.
    """
    if all(type(parameter) is nn.Parameter for parameter in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no linear layers that can be quantized")
