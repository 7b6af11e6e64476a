"""The arguments of a training for transformers, and the device where it runs."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from rarec.settings import TrainingSettings

# what every training of rarec has unless `other` says something else
_DEFAULTS: dict[str, Any] = {
    "save_total_limit": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_drop_last": True,
    "dataloader_pin_memory": False,
    "train_sampling_strategy": "group_by_length",
}


def training_arguments(
    output: str | os.PathLike[str], settings: TrainingSettings | None = None, *, seed: int = 0
) -> TrainingArguments:
    """Return the arguments of transformers for the settings of a training.

    Args:
        output: Folder of checkpoints and logs.
        settings: How long and how fast is trained.
        seed: Seed of the batches and of the random numbers in the training.

    Raises:
        ValueError: If transformers has no argument that is in `settings.other`, or refuses it.
    """
    settings = settings or TrainingSettings()
    known = {field.name for field in fields(TrainingArguments) if field.init} - {"output_dir"}
    for name in settings.other:
        if name not in known:
            raise ValueError(
                f"expected training.other of transformers.TrainingArguments, got {name!r}"
            )
    stated = {
        field.name: getattr(settings, field.name)
        for field in fields(settings)  # type: ignore[arg-type]
        if field.name != "other"
    }
    return TrainingArguments(
        # absolute, because transformers reads ~ at the beginning of a path as the home folder
        output_dir=str(Path(output).absolute()),
        seed=seed,
        **{**_DEFAULTS, **stated, **settings.other},
    )


def on_device(args: TrainingArguments, device: torch.device) -> TrainingArguments:
    """Return the arguments of a training on the device of the language model.

    Args:
        args: The arguments as they are given.
        device: Device of the language model, which stays there.

    Raises:
        ValueError: If the model is on a GPU, and transformers trains elsewhere.
    """
    if device.type == "cpu" and args.device.type != "cpu":
        return replace(args, use_cpu=True)
    if (device.type, device.index or 0) != (args.device.type, args.device.index or 0):
        raise ValueError(
            f"expected the language model on {args.device}, where transformers trains, got {device}"
        )
    return args
