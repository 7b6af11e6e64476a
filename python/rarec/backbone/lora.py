"""LoRA: trained matrices of low rank beside the weights of a model's attention.

Hu et al. 2021 (arXiv:2106.09685), with the package `peft`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def require_peft() -> None:
    """Raise ValueError unless `peft` is installed.

    Raises:
        ValueError: If `peft` is not installed.
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
    """Add the product of two matrices to each linear layer inside the attention modules, in place.

    The product is initialised to zero, so the output of the model does not change.

    Args:
        model: The model. Afterwards only the new weights require gradients.
        modules: The attention modules of the model.
        rank: Rank of the product.
        alpha: The product is multiplied by `alpha / rank`.
        seed: Seed of the initial values of the matrices.

    Raises:
        ValueError: If `peft` is not installed.
    """
    require_peft()
    # imported here: peft is an optional dependency
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
