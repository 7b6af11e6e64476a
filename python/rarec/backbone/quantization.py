"""Weights of linear layers in 8 or 4 bits.

8 bits are int8 with a scale for each row of a matrix (torchao); 4 bits are NF4 with a scale for
each 64 weights (bitsandbytes). Both leave activations as they are: a text does not depend on its
batch, which with the 8 bits of bitsandbytes it does, and gradients reach the prefix.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig

#: What each kind needs installed.
_PACKAGES = {"8bit": "torchao", "4bit": "bitsandbytes"}
QUANTIZATIONS = tuple(_PACKAGES)


def check_quantization(kind: str | None) -> None:
    """Do nothing, if weights can be loaded in this kind here.

    Args:
        kind: `8bit`, `4bit`, or None for weights as they are.

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
    """Return what transformers is given to load weights in 8 or 4 bits.

    Args:
        kind: One that `check_quantization` has let through.
        dtype: That of the activations.
    """
    if kind == "4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    # imported here: an extra
    from torchao.quantization import Int8WeightOnlyConfig

    # settings of the compiler are for its user to choose
    return TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False))


def quantized(model: PreTrainedModel, kind: str, device: str | torch.device) -> PreTrainedModel:
    """Return a copy of a model with its weights in 8 or 4 bits."""
    # transformers quantizes what it loads, from memory too
    return type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=model.state_dict(),
        dtype=model.dtype,
        quantization_config=quantization_config(kind, model.dtype),
        device_map={"": device},
    )


def require_quantized(model: PreTrainedModel) -> None:
    """Do nothing, if a model has weights in 8 or 4 bits.

    Raises:
        ValueError: If it has none: transformers passes over layers that it does not know.
    """
    if all(type(parameter) is nn.Parameter for parameter in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no linear layers that can be quantized")
