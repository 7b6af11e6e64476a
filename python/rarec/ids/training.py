"""Train ID models: the next item at every place, with early stopping on validation NDCG@10.

Axes: E events, N items, F width of the text vectors.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rarec.data import Cases, Histories
from rarec.ids.checkpoint import Progress, read_checkpoint, write_checkpoint
from rarec.ids.encoder import HistoryEncoder
from rarec.ids.items import ItemVectors
from rarec.ids.losses import Batch, Loss, full_loss, sampled_loss, shared_loss
from rarec.ids.models import build_encoder
from rarec.ids.validation import validation_ndcg
from rarec.ids.windows import HistoryWindows
from rarec.randomness import seeded
from rarec.selection import NegativeSampler
from rarec.settings import IDSettings, as_dict
from rarec.stopping import SavingLoop


@dataclass(frozen=True)
class IDReport:
    """Measurements of a training.

    Attributes:
        epochs: Number of passes over the training histories.
        steps: Number of optimizer steps in all epochs.
        best_epoch: Number of the epoch whose weights are kept, from 1.
        validation_ndcg: NDCG@10 of these weights on the validation cases.
        samples: Number of training samples in an epoch.
        held_out_samples: Number of samples that are held out of the loss.
        seconds: Wall time, with the earlier parts of a training that was resumed.
    """

    epochs: int
    steps: int
    best_epoch: int
    validation_ndcg: float
    samples: int
    held_out_samples: int
    seconds: float

    def as_dict(self) -> dict[str, float]:
        """Return the values by name."""
        return asdict(self)


def train_encoder(
    train: Histories,
    validation: Cases,
    n_items: int,
    settings: IDSettings,
    *,
    held_out: NDArray[np.bool_] | None = None,
    text_vectors: NDArray[np.float32] | None = None,
    make_items: Callable[[], ItemVectors] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    on_epoch: Callable[[int, float, float], None] | None = None,
) -> tuple[HistoryEncoder, IDReport]:
    """Return an ID model with the weights of its best epoch, and the report of its training.

    The global random generators are as before when it returns.

    Args:
        train: Training histories.
        validation: Cases whose NDCG@10 over the whole catalogue decides when the training stops.
        n_items: Number of items N.
        settings: The model, and how it is trained.
        held_out: `[E]` bool over `train.items`, true for events that are never a target of the
            loss. They stay in the histories (docs/method.md, held-out samples).
        text_vectors: `[N, F]` float32 if `settings.text` is set (see `standardise`); zero for
            items without text.
        make_items: Makes the item vectors, in place of those that the settings describe. It is
            called after the generators are seeded.
        checkpoint: A file that is written after each epoch. If it exists, the training goes on
            from there. The caller removes it. Ctrl-C waits for it if that takes less than a second.
        on_epoch: Called after each epoch with its number from 1, the loss and the NDCG@10.

    Raises:
        ValueError: If there is nothing to train on or to validate with, if shapes do not fit, if
            the checkpoint is of another training, or if the training diverges.
    """
    windows = HistoryWindows(train, settings.max_history, n_items, held_out)
    if len(validation) == 0:
        raise ValueError("expected validation cases, got none")
    cases = validation.sample(settings.max_validation, seed=settings.seed)
    with seeded(settings.seed):
        items = None if make_items is None else make_items()
        encoder = build_encoder(settings, n_items, text_vectors, items=items)
        training = _Training(encoder, train, windows, settings)
        return training.run(cases, checkpoint, on_epoch)


def train_encoders(
    train: Histories,
    validation: Cases,
    n_items: int,
    settings: IDSettings,
    held_out: Mapping[str, NDArray[np.bool_] | None],
    *,
    text_vectors: NDArray[np.float32] | None = None,
    make_items: Callable[[], ItemVectors] | None = None,
    folder: str | os.PathLike[str] | None = None,
    on_epoch: Callable[[str, int, float, float], None] | None = None,
) -> dict[str, tuple[HistoryEncoder, IDReport]]:
    """Return for each part an ID model that is trained without the samples that it holds out.

    All parts have the same initial values and the same order of batches, so two models differ in
    the samples they are trained on, and in nothing else.

    Args:
        train: See `train_encoder`.
        validation: See `train_encoder`.
        n_items: See `train_encoder`.
        settings: See `train_encoder`.
        held_out: For each part by name, the events that it holds out (see `train_encoder`), for
            example `{"all": None, "held-out": mask}`.
        text_vectors: See `train_encoder`.
        make_items: See `train_encoder`. It is called once for each part.
        folder: Folder of the checkpoints, one file `NAME.safetensors` for each part. A part that
            is finished is read from there. The caller removes the folder.
        on_epoch: Called after each epoch with the name of the part, and what `train_encoder` says.

    Raises:
        ValueError: As `train_encoder`, and if there is no part or a name is not a file name.
    """
    _check_parts(held_out, train)
    found: dict[str, tuple[HistoryEncoder, IDReport]] = {}
    for name, mask in held_out.items():
        found[name] = train_encoder(
            train,
            validation,
            n_items,
            settings,
            held_out=mask,
            text_vectors=text_vectors,
            make_items=make_items,
            checkpoint=None if folder is None else Path(folder) / f"{name}.safetensors",
            on_epoch=None if on_epoch is None else partial(on_epoch, name),
        )
    return found


def _check_parts(held_out: Mapping[str, NDArray[np.bool_] | None], train: Histories) -> None:
    """Refuse parts that cannot be trained, before the first one is."""
    if not held_out:
        raise ValueError("expected at least one part to train, got none")
    for name, mask in held_out.items():
        if not name or name.startswith(".") or Path(name).name != name:
            raise ValueError(f"expected a part's name that can name a file, got {name!r}")
        if mask is not None and mask.shape != train.items.shape:
            raise ValueError(
                f"expected held_out [{len(train.items)}] for {name!r}, got {list(mask.shape)}"
            )


class _Training:
    """The training of one ID model: the model, its optimizer and its progress."""

    def __init__(
        self,
        encoder: HistoryEncoder,
        train: Histories,
        windows: HistoryWindows,
        settings: IDSettings,
    ) -> None:
        cold = None
        if encoder.items.reads_text:
            cold = torch.from_numpy(train.counts(encoder.n_items) == 0)
            encoder.items.leave_to_text(cold)
        self.windows = windows
        self.settings = settings
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = encoder.to(self.device)
        self.optimizer = torch.optim.Adam(encoder.parameters(), lr=settings.learning_rate)
        self.loss = _loss(train, encoder.n_items, settings, cold)
        self.progress = Progress()
        # written at 50 MB/s, before it has been measured: the optimizer has two values for each
        # weight, and the best weights are kept
        self.stopping = SavingLoop(0.2 + 4 * sum(p.nbytes for p in encoder.parameters()) / 50e6)

    def run(
        self,
        cases: Cases,
        checkpoint: str | os.PathLike[str] | None,
        on_epoch: Callable[[int, float, float], None] | None,
    ) -> tuple[HistoryEncoder, IDReport]:
        """Return the trained model and the report; see `train_encoder` for the arguments.

        If the training is stopped, the epoch is finished and saved where that takes less than a
        second.
        """
        identity = self._identity()
        if checkpoint is not None and Path(checkpoint).exists():
            self.progress = read_checkpoint(checkpoint, identity, self.encoder, self.optimizer)
        progress = self.progress
        started = time.perf_counter() - progress.seconds
        # without a checkpoint there is nothing to wait for
        with self.stopping if checkpoint is not None else nullcontext():
            self.stopping.begin_step()
            while not progress.finished(self.settings.max_epochs, self.settings.patience):
                loss = self._epoch()
                ndcg = validation_ndcg(self.encoder, cases)
                progress.record(ndcg, self.encoder, time.perf_counter() - started)
                if on_epoch is not None:
                    on_epoch(progress.epoch, loss, ndcg)
                self.stopping.end_step()
                if checkpoint is not None:
                    with self.stopping.saving():
                        write_checkpoint(
                            checkpoint, identity, self.encoder, self.optimizer, progress
                        )
        self.encoder.load_state_dict(progress.best_state)
        return self.encoder.cpu().eval(), self._report()

    def _epoch(self) -> float:
        """Return the mean loss of the batches of one epoch, in which the model is trained."""
        size = self.settings.batch_size
        n_batches = -(-len(self.windows) // size)
        first_step = self.progress.epoch * n_batches
        batches = self.windows.batches(size, seed=self.settings.seed, epoch=self.progress.epoch)
        self.encoder.train()
        total = 0.0
        for number, rows in enumerate(batches):
            inputs, targets, counted = (part.to(self.device) for part in self.windows.batch(rows))
            if not counted.any():
                continue
            states = self.encoder(inputs)
            users = self.windows.users[rows]
            batch = Batch(users, states, targets, counted, first_step + number)
            loss = self.loss(self.encoder, batch)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.progress.steps += 1
            total += loss.item()
        return total / n_batches

    def _identity(self) -> dict[str, Any]:
        """Return what a checkpoint must share with this training; JSON values."""
        # the digest of its vectors tells which language model reads the titles, by whatever name
        settings = {k: v for k, v in as_dict(self.settings).items() if k != "text"}
        frozen = hashlib.sha256()
        for buffer in self.encoder.items.buffers():
            frozen.update(buffer.cpu().contiguous().numpy().tobytes())
        return {
            "settings": settings,
            "data": self.windows.digest(),
            "text": frozen.hexdigest(),
            "parameters": {n: list(p.shape) for n, p in self.encoder.named_parameters()},
        }

    def _report(self) -> IDReport:
        return IDReport(
            epochs=self.progress.epoch,
            steps=self.progress.steps,
            best_epoch=self.progress.best_epoch,
            validation_ndcg=self.progress.best_ndcg,
            samples=self.windows.n_targets,
            held_out_samples=self.windows.n_held_out,
            seconds=self.progress.seconds,
        )


def _loss(train: Histories, n_items: int, settings: IDSettings, cold: Tensor | None) -> Loss:
    if settings.shared_negatives:
        return shared_loss(n_items, settings.shared_negatives, settings.seed, cold)
    if not settings.negatives:
        return full_loss(cold)
    sampler = NegativeSampler(train, n_items, alpha=settings.alpha, seed=settings.seed)
    return sampled_loss(sampler, settings.negatives, cold)
