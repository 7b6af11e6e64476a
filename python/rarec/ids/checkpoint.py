"""State of a running ID training on disk, in one safetensors file: nothing is unpickled."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        epoch: Epochs done.
        best_epoch: The one with the best validation NDCG@10, from 1; 0 before the first.
        best_ndcg: Its NDCG@10.
        best_state: Its weights.
        seconds: Wall time so far.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_ndcg: float = -1.0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    def finished(self, max_epochs: int, patience: int) -> bool:
        """Return whether the training is over."""
        return self.epoch >= max_epochs or self.epoch - self.best_epoch >= patience

    def record(self, ndcg: float, model: nn.Module, seconds: float) -> None:
        """Note the end of an epoch, and keep the weights if they are the best so far."""
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
    """Write the state of a training; the file is replaced whole.

    Args:
        path: Of the file.
        identity: What must be the same when the training goes on; JSON values.
        model: Its weights.
        optimizer: Its state.
        progress: How far it is, and the best weights.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in progress.best_state.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": tensor for name, tensor in state.items()}
    tensors["random"] = torch.get_rng_state()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    scalars = {
        "epoch": progress.epoch,
        "best_epoch": progress.best_epoch,
        "best_ndcg": progress.best_ndcg,
        "seconds": progress.seconds,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    metadata = {"identity": json.dumps(identity, sort_keys=True), "progress": json.dumps(scalars)}
    try:
        save_file(tensors, temporary, metadata=metadata)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(
    path: str | os.PathLike[str],
    identity: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Return how far a training was, after its state was put back into model and optimizer.

    Raises:
        ValueError: If the file is not a checkpoint, or one of a training with other settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
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
