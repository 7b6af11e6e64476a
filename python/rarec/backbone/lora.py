"""Trained matrices of low rank beside the weights of a model's attention.

Hu et al. 2021 (arXiv:2106.09685), through `peft`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def require_peft() -> None:
    """Do nothing, if `peft` is installed.

    Raises:
        ValueError: If it is not.
    """
    if find_spec("peft") is None:
        raise ValueError("LoRA needs peft: pip install 'rarec[lora]'")


def add_lora(
    model: PreTrainedModel,
    modules: Sequence[nn.Module],
    *,
    rank: int,
    alpha: int,
    seed: int,
) -> None:
    """Put a product of two matrices beside each linear layer inside some modules, in place.

    At the start it is zero, so the model stays what it was.

    Args:
        model: The model; of its weights the new ones alone ask for gradients.
        modules: Its attention modules.
        rank: Of the product.
        alpha: The product counts `alpha / rank` times.
        seed: Of the start values.

    Raises:
        ValueError: If `peft` is missing.
    """
    require_peft()
    # imported here: an extra
    from peft import LoraConfig, inject_adapter_in_model

    inside = {id(part) for module in modules for part in module.modules()}
    targets = [
        name
        for name, part in model.named_modules()
        if id(part) in inside and isinstance(part, nn.Linear | Conv1D)
    ]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    model.eval()
