"""The arguments of a training: those of transformers, with other defaults, and where it runs."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import torch
from transformers import TrainingArguments


def training_arguments(output: str | os.PathLike[str], **changes: Any) -> TrainingArguments:
    """Return the arguments of transformers with the defaults of rarec.

    Args:
        output: Folder of checkpoints and logs.
        **changes: Any argument of `transformers.TrainingArguments`.
    """
    defaults: dict[str, Any] = {
        "max_steps": 120,
        "per_device_train_batch_size": 64,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 10,
        "weight_decay": 0.01,
        "logging_steps": 10,
        "save_steps": 50,
        "save_total_limit": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_drop_last": True,
        "dataloader_pin_memory": False,
        "train_sampling_strategy": "group_by_length",
    }
    return TrainingArguments(output_dir=str(output), **{**defaults, **changes})


def on_device(args: TrainingArguments, device: torch.device) -> TrainingArguments:
    """Return the arguments of a training where the language model is, which nobody moves.

    Args:
        args: As they are given.
        device: Of the language model.

    Raises:
        ValueError: If it is on a GPU, and transformers trains elsewhere.
    """
    if device.type == "cpu" and args.device.type != "cpu":
        return replace(args, use_cpu=True)
    if (device.type, device.index or 0) != (args.device.type, args.device.index or 0):
        raise ValueError(
            f"expected the language model on {args.device}, where transformers trains, got {device}"
        )
    return args
