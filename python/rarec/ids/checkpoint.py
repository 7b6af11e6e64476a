"""The state of an ID model in training, in one safetensors file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rarec.artifacts import write_file
from rarec.paths import utf8_path


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        epoch: Number of epochs that are done.
        steps: Number of optimizer steps in these epochs.
        best_epoch: Number of the epoch with the best validation NDCG@10, from 1; 0 before the
            first one.
        best_ndcg: NDCG@10 of the best epoch.
        best_state: Weights after the best epoch.
        seconds: Wall time so far.
    """

    epoch: int = 0
    steps: int = 0
    best_epoch: int = 0
    best_ndcg: float = -1.0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    def finished(self, max_epochs: int, patience: int) -> bool:
        """Return whether the training is over."""
        return self.epoch >= max_epochs or self.epoch - self.best_epoch >= patience

    def record(self, ndcg: float, model: nn.Module, seconds: float) -> None:
        """Record the end of an epoch, and keep the weights if they are the best so far."""
        self.epoch += 1
        self.seconds = seconds
        if ndcg > self.best_ndcg:
            self.best_ndcg = ndcg
            self.best_epoch = self.epoch
            self.best_state = {name: t.detach().clone() for name, t in model.state_dict().items()}


def write_checkpoint(
    path: str | os.PathLike[str],
    identity: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write the state of a training, completely or not at all.

    Args:
        path: The file; its folder is made if it is absent.
        identity: What must be the same when the training is resumed; JSON values.
        model: The model in training.
        optimizer: The optimizer of the model.
        progress: How far the training is, and the best weights.
    """
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in progress.best_state.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": tensor for name, tensor in state.items()}
    tensors["random"] = torch.get_rng_state()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    scalars = {
        "epoch": progress.epoch,
        "steps": progress.steps,
        "best_epoch": progress.best_epoch,
        "best_ndcg": progress.best_ndcg,
        "seconds": progress.seconds,
    }
    metadata = {"identity": json.dumps(identity, sort_keys=True), "progress": json.dumps(scalars)}
    with write_file(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def read_checkpoint(
    path: str | os.PathLike[str],
    identity: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Return how far a training was, and restore the model, the optimizer and the generator.

    Args:
        path: The file.
        identity: What must be the same as when the file was written.
        model: The model, which gets the stored weights.
        optimizer: The optimizer, which gets the stored state.

    Raises:
        ValueError: If the file is not a checkpoint, or is one of another training.
    """
    try:
        with utf8_path(path) as readable, safe_open(readable, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        stored = json.loads(metadata["identity"])
        progress = Progress(**json.loads(metadata["progress"]))
    except Exception as error:
        raise ValueError(f"{path}: expected a checkpoint of an ID training ({error})") from error
    expected = json.loads(json.dumps(identity))
    if stored != expected:
        other = sorted(name for name in expected if stored.get(name) != expected[name])
        raise ValueError(f"{path}: checkpoint of another training (different: {', '.join(other)})")
    model.load_state_dict(_part(tensors, "model/"))
    progress.best_state = _part(tensors, "best/")
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _part(tensors, "optimizer/").items():
        number, key = name.split("/", 1)
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    torch.set_rng_state(tensors["random"])
    return progress


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
