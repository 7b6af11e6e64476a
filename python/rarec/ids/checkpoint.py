"""The state of an ID model in training: one safetensors file with a hash of all that is in it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import torch
from annotated_types import Interval
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rarec.artifacts import write_file
from rarec.paths import utf8_path
from rarec.settings.declaration import CountOrZero, NotNegative, typed


@typed
class StoredProgress:
    """What a checkpoint says of `Progress`, beside the best weights."""

    epoch: CountOrZero
    steps: CountOrZero
    best_epoch: CountOrZero
    best_ndcg: Annotated[float, Interval(ge=-1, le=1)]
    seconds: NotNegative


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
    stored = StoredProgress(
        epoch=progress.epoch,
        steps=progress.steps,
        best_epoch=progress.best_epoch,
        best_ndcg=progress.best_ndcg,
        seconds=progress.seconds,
    )
    metadata = {
        "identity": json.dumps(identity, sort_keys=True),
        "progress": json.dumps(asdict(stored)),  # type: ignore[call-overload]
    }
    metadata["sha256"] = _hash(metadata, tensors)
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
        ValueError: If the file is not a checkpoint, is damaged, or is one of another training.
    """
    anew = "restart (--restart) begins the training again"
    try:
        with utf8_path(path) as readable, safe_open(readable, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["sha256"] != _hash(metadata, tensors):
            raise ValueError("its content is not as it was written")
        stored = json.loads(metadata["identity"])
        known = StoredProgress(**json.loads(metadata["progress"]))
    except Exception as error:
        raise ValueError(
            f"{path}: expected a checkpoint of an ID training, got something else or a damaged "
            f"one ({error}); {anew}"
        ) from error
    expected = json.loads(json.dumps(identity))
    if stored != expected:
        other = sorted(name for name in expected if stored.get(name) != expected[name])
        raise ValueError(
            f"{path}: checkpoint of another training (different: {', '.join(other)}); {anew}"
        )
    model.load_state_dict(_part(tensors, "model/"))
    progress = Progress(**asdict(known), best_state=_part(tensors, "best/"))  # type: ignore[call-overload]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _part(tensors, "optimizer/").items():
        number, key = name.split("/", 1)
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    torch.set_rng_state(tensors["random"])
    return progress


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _hash(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return the hex sha256 of the texts and tensors of a checkpoint, with names and types."""
    found = hashlib.sha256()
    texts = {name: text for name, text in metadata.items() if name != "sha256"}
    found.update(json.dumps(texts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
