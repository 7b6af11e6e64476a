"""The loss of each step, which a resumed training goes on with: its mean is equal in every digit.

The trainer of transformers adds up the loss in float32 since its last log, and forgets the sum when
it is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rarec.artifacts import read_json, write_json
from rarec.settings.declaration import Count, typed

LOSSES_NAME = "losses.json"
_FORMAT = "rarec.losses/1"


@typed
class StoredLosses:
    """The losses in a checkpoint."""

    format: str
    """Name and version of the format."""
    first: Count
    """Number of the first step, from 1."""
    losses: Sequence[float | None]
    """Loss of each step; None for one that is not finite."""


class LossRecord:
    """The losses of the optimizer steps since the log before the newest one.

    Losses stay on their device until somebody asks for them, so that no step waits for a GPU.

    Args:
        mean_over_processes: Returns the mean of a tensor over all processes of the training, which
            call it together.
    """

    def __init__(self, mean_over_processes: Callable[[Tensor], Tensor] = lambda loss: loss) -> None:
        self._mean_over_processes = mean_over_processes
        self._losses: dict[int, float] = {}
        self._pending: dict[int, Tensor] = {}

    def add(self, step: int, loss: Tensor) -> None:
        """Add to the loss of a step.

        Args:
            step: Number of the step, from 1.
            loss: `[]` the part of one batch, whose sum over the batches of the step is its loss.
        """
        loss = loss.detach()
        self._pending[step] = self._pending[step] + loss if step in self._pending else loss

    def collect(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Fetch the losses from the device, and forget those before the log before the newest.

        Args:
            history: `log_history` of the state of transformers.
        """
        if self._pending:
            losses = self._mean_over_processes(torch.stack(list(self._pending.values())))
            self._losses |= dict(zip(self._pending, losses.tolist(), strict=True))
            self._pending.clear()
        before, _ = _newest_logs(history)
        self._losses = {step: loss for step, loss in self._losses.items() if step > before}

    def mean(self, history: Sequence[Mapping[str, Any]]) -> float:
        """Return the mean loss of the steps between the two newest logs, or of all without a log.

        Losses that are not finite are left out, as in the logs of transformers. Without a loss it
        is NaN.

        Args:
            history: `log_history` of the state of transformers.
        """
        self.collect(history)
        _, newest = _newest_logs(history)
        losses = [
            loss
            for step, loss in self._losses.items()
            if math.isfinite(loss) and (newest == 0 or step <= newest)
        ]
        return math.fsum(losses) / len(losses) if losses else math.nan

    def write(self, folder: Path) -> None:
        """Write the collected losses into a checkpoint."""
        first = min(self._losses, default=1)
        losses = [loss if math.isfinite(loss) else None for _, loss in sorted(self._losses.items())]
        stored = StoredLosses(format=_FORMAT, first=first, losses=losses)
        write_json(folder / LOSSES_NAME, asdict(stored))  # type: ignore[call-overload]

    def read(self, folder: Path) -> None:
        """Take the losses from a checkpoint.

        Raises:
            ValueError: If the file is missing or damaged. The message names it.
        """
        file = folder / LOSSES_NAME
        try:
            stored = StoredLosses(**read_json(file))
            if stored.format != _FORMAT:
                raise ValueError(f"expected format {_FORMAT!r}, got {stored.format!r}")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}: {error}") from error
        self._pending.clear()
        self._losses = {
            step: math.nan if loss is None else loss
            for step, loss in enumerate(stored.losses, start=stored.first)
        }


def _newest_logs(history: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Return the steps of the two newest logs of the loss, the older one first; 0 for none."""
    steps = [entry["step"] for entry in history if "loss" in entry]
    older, newest = [0, 0, *steps][-2:]
    return older, newest
