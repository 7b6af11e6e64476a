"""Average of the trained weights over the steps of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

AVERAGE = "average.safetensors"


class WeightAverage(TrainerCallback):
    """Keeps an exponential moving average of what is trained; at the end the model has it.

    Polyak & Juditsky 1992 (doi:10.1137/0330046). After step `t` the average keeps
    `min(decay, (1 + t) / (10 + t))` of itself, so that it soon forgets the start values. Each
    checkpoint holds it, so a resumed training ends with the same weights.

    Args:
        model: Its trained weights are averaged.
        decay: What the average keeps of itself in a long training; above 0 and below 1.

    Raises:
        ValueError: If it is not.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        check_decay(decay)
        self.decay = decay
        self._weights = {
            name: weight for name, weight in model.named_parameters() if weight.requires_grad
        }
        self._average: dict[str, Tensor] = {}

    @torch.no_grad()
    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Start from the weights, or from what the checkpoint holds."""
        self._average = {
            # small steps would be lost in 16 bits
            name: weight.to(torch.promote_types(weight.dtype, torch.float32), copy=True)
            for name, weight in self._weights.items()
        }
        if state.global_step:
            self._load(_file(args, state))

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Take the step's weights in."""
        kept = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        for name, average in self._average.items():
            average.lerp_(self._weights[name].to(average.dtype), 1 - kept)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Write the average into the checkpoint."""
        if args.should_save:
            tensors = {name: average.cpu() for name, average in self._average.items()}
            save_file(tensors, _file(args, state))

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Give the model the average."""
        for name, average in self._average.items():
            self._weights[name].copy_(average)

    def restore(self, args: Any, state: Any) -> None:
        """Give the model the average that the checkpoint of a finished training holds."""
        self.on_train_begin(args, state, None)
        self.on_train_end(args, state, None)

    def _load(self, file: Path) -> None:
        try:
            stored = load_file(file)
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"{file}: expected the average of the weights, which a checkpoint of a training "
                f"with average_decay holds ({error})"
            ) from error
        if {name: t.shape for name, t in stored.items()} != {
            name: t.shape for name, t in self._average.items()
        }:
            raise ValueError(f"{file}: expected an average of this model's weights, got another's")
        for name, average in self._average.items():
            average.copy_(stored[name])


def check_decay(decay: float) -> None:
    """Refuse what is no decay of an average.

    Raises:
        ValueError: If it is not above 0 and below 1.
    """
    if not 0 < decay < 1:
        raise ValueError(f"expected 0 < average_decay < 1, got {decay}")


def _file(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / AVERAGE
