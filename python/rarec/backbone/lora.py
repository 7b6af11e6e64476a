"""Trained matrices of low rank beside the weights of a model's attention.

Hu et al. 2021 (arXiv:2106.09685), through `peft`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def add_lora(
    model: PreTrainedModel,
    modules: Sequence[nn.Module],
    *,
    rank: int,
    alpha: float,
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
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError("tune='lora' needs peft: pip install 'rarec[lora]'") from error
    inside = {id(part) for module in modules for part in module.modules()}
    targets = [
        name
        for name, part in model.named_modules()
        if id(part) in inside and isinstance(part, nn.Linear | Conv1D)
    ]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0)  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    model.eval()
