"""Train an ID model: next item at every place, early stopping on validation NDCG@10.

Axes: U users, W windows of a history, B windows of a batch, T places, K vectors per user,
E width, N items, C cases.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rarec.data import Cases, Histories
from rarec.ids.checkpoint import Progress, read_checkpoint, write_checkpoint
from rarec.ids.comirec import ComiRec
from rarec.ids.encoder import HistoryEncoder
from rarec.ids.gru4rec import GRU4Rec
from rarec.ids.losses import Batch, Loss, full_loss, sampled_loss, shared_loss
from rarec.ids.sasrec import SASRec
from rarec.ids.text import TextItemEmbedding
from rarec.selection import NegativeSampler

MODELS: dict[str, Callable[..., HistoryEncoder]] = {
    "comirec": ComiRec,
    "gru4rec": GRU4Rec,
    "sasrec": SASRec,
}


@dataclass(frozen=True)
class IDConfig:
    """How an ID model is built and trained.

    Attributes:
        model: `gru4rec`, `sasrec` or `comirec`.
        dim: Width E of the vectors.
        max_history: Newest items of a history that the model reads.
        dropout: Share of inputs dropped.
        learning_rate: Of Adam.
        batch_size: Windows per step.
        max_epochs: Passes over the training histories at most.
        patience: Epochs without a better validation NDCG@10 before the training stops.
        negatives: 0 for the softmax over all items; else items drawn per user for a sampled one.
        shared_negatives: If not 0, the softmax over all items is estimated by the targets of a
            batch, exactly, and so many others, drawn evenly for it: on large catalogues a fraction
            of the time.
        alpha: The sampled negatives are drawn from popularity to this power.
        max_validation: Validation cases used for early stopping, chosen by the seed.
        seed: Of the start values, the batches, dropout and the negatives.
        options: Further arguments of the model, such as `n_interests` of ComiRec.
        text: Name of a language model (as `AlignConfig.llm`): an item's vector is its ID embedding
            plus a linear map of the vector that this one has for its title, frozen. So items
            without training events have vectors too, of their titles alone. "" for IDs alone.
        id_dropout: With `text`, share of the ID parts left out of the vectors in training.
    """

    model: str = "gru4rec"
    dim: int = 64
    max_history: int = 50
    dropout: float = 0.3
    learning_rate: float = 4e-3
    batch_size: int = 128
    max_epochs: int = 200
    patience: int = 15
    negatives: int = 0
    shared_negatives: int = 0
    alpha: float = 0.75
    max_validation: int = 10_000
    seed: int = 0
    options: Mapping[str, int] = field(default_factory=dict)
    text: str = ""
    id_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"expected model to be one of {sorted(MODELS)}, got {self.model!r}")
        counts = ("dim", "max_history", "batch_size", "max_epochs", "patience", "max_validation")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"expected learning_rate > 0, got {self.learning_rate}")
        if not self.alpha >= 0:
            raise ValueError(f"expected alpha >= 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected 0 <= dropout < 1, got {self.dropout}")
        if not isinstance(self.text, str):
            raise ValueError(f"expected text to be the name of a language model, got {self.text!r}")
        if not 0 <= self.id_dropout < 1:
            raise ValueError(f"expected 0 <= id_dropout < 1, got {self.id_dropout}")
        if self.id_dropout and not self.text:
            raise ValueError(f"expected id_dropout with text alone, got {self.id_dropout} without")
        for name in ("negatives", "shared_negatives"):
            if getattr(self, name) < 0:
                raise ValueError(f"expected {name} >= 0, got {getattr(self, name)}")
        if self.negatives and self.shared_negatives:
            raise ValueError(
                f"expected negatives or shared_negatives, got {self.negatives} and "
                f"{self.shared_negatives}"
            )
        accepted = set(signature(MODELS[self.model]).parameters) - {"n_items"}
        accepted -= {field.name for field in fields(self)}
        if unknown := set(self.options) - accepted:
            raise ValueError(
                f"expected options of {self.model} to be among {sorted(accepted)}, "
                f"got {sorted(unknown)}"
            )

    def build(
        self, n_items: int, text_vectors: NDArray[np.float32] | None = None
    ) -> HistoryEncoder:
        """Return a fresh model for a catalogue of `n_items`.

        Args:
            n_items: N.
            text_vectors: `[N, F]` float32 where `text` is set; zero for items without text.

        Raises:
            ValueError: If there are text vectors and no `text`, or the other way round, or they
                do not fit.
        """
        if (text_vectors is not None) != bool(self.text):
            got = "none" if text_vectors is None else list(text_vectors.shape)
            raise ValueError(f"expected text_vectors where text is set ({self.text!r}), got {got}")
        encoder = MODELS[self.model](
            n_items,
            dim=self.dim,
            max_history=self.max_history,
            dropout=self.dropout,
            **self.options,
        )
        if text_vectors is not None:
            encoder.read_text(torch.from_numpy(text_vectors), id_dropout=self.id_dropout)
        return encoder


@dataclass(frozen=True)
class IDReport:
    """What a training did.

    Attributes:
        epochs: Passes over the training histories.
        best_epoch: The one whose weights were kept, from 1.
        validation_ndcg: NDCG@10 of those weights on the validation cases.
        samples: Targets in the loss, per epoch.
        held_out: Targets left out of the loss.
        seconds: Wall time, earlier parts of a resumed run included.
    """

    epochs: int
    best_epoch: int
    validation_ndcg: float
    samples: int
    held_out: int
    seconds: float

    def as_dict(self) -> dict[str, float]:
        """Return the values by name."""
        return asdict(self)


def train_encoder(
    train: Histories,
    validation: Cases,
    n_items: int,
    config: IDConfig,
    *,
    held_out: NDArray[np.bool_] | None = None,
    text_vectors: NDArray[np.float32] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    on_epoch: Callable[[int, float, float], None] | None = None,
) -> tuple[HistoryEncoder, IDReport]:
    """Return an ID model trained on histories, with the weights of its best epoch.

    Args:
        train: Training histories.
        validation: Cases whose NDCG@10 (full ranking, seen items left out) decides when to stop.
        n_items: N.
        config: The model and how it is trained.
        held_out: `[E]` bool over `train.items`: events that are never a target of the loss. They
            stay in the histories (DESIGN.md section 1.9).
        text_vectors: `[N, F]` float32 where `config.text` is set (see `text.standardised`); zero
            for items without text.
        checkpoint: A file; written after each epoch, and gone on from where it exists.
        on_epoch: Called after each epoch with its number from 1, the loss and the NDCG@10.

    Raises:
        ValueError: If there is nothing to train on or to validate with, shapes do not fit, or the
            checkpoint is of another run.
    """
    windows = _Windows(train, config.max_history, n_items, held_out)
    if len(validation) == 0:
        raise ValueError("expected validation cases, got none")
    validation = validation.sample(config.max_validation, seed=config.seed)
    torch.manual_seed(config.seed)
    model = config.build(n_items, text_vectors)
    cold = None
    if isinstance(model.item_embedding, TextItemEmbedding):
        cold = torch.from_numpy(train.counts(n_items) == 0)
        model.item_embedding.leave_to_text(cold)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    loss_of = _loss(train, n_items, config, cold)
    progress = Progress()
    identity = {"config": asdict(config), "n_items": n_items, "data": windows.digest()}
    if text_vectors is not None:
        identity["text"] = hashlib.sha256(np.ascontiguousarray(text_vectors).tobytes()).hexdigest()
    if checkpoint is not None and Path(checkpoint).exists():
        progress = read_checkpoint(checkpoint, identity, model, optimizer)

    started = time.perf_counter() - progress.seconds
    while not progress.finished(config.max_epochs, config.patience):
        loss = _train_epoch(model, optimizer, windows, config, progress.epoch, loss_of)
        ndcg = validation_ndcg(model, validation)
        progress.record(ndcg, model, time.perf_counter() - started)
        if on_epoch is not None:
            on_epoch(progress.epoch, loss, ndcg)
        if checkpoint is not None:
            write_checkpoint(checkpoint, identity, model, optimizer, progress)
    model.load_state_dict(progress.best_state)
    report = IDReport(
        epochs=progress.epoch,
        best_epoch=progress.best_epoch,
        validation_ndcg=progress.best_ndcg,
        samples=windows.n_targets,
        held_out=windows.n_held_out,
        seconds=progress.seconds,
    )
    return model.cpu().eval(), report


@torch.no_grad()
def validation_ndcg(model: HistoryEncoder, cases: Cases, *, block: int = 256) -> float:
    """Return the mean NDCG@10 of the targets, ranked in the whole catalogue less the seen items.

    Ties count half. Users go in blocks, so memory stays at block x N.
    """
    model.eval()
    table = model.item_vectors
    device = table.device
    total = 0.0
    for start in range(0, len(cases), block):
        part = cases.take(np.arange(start, min(start + block, len(cases))))
        history = part.histories.padded(model.max_history, model.n_items)
        users = model.user_vectors(torch.from_numpy(history).to(device))  # [B, K, E]
        scores = (users @ table.T).amax(dim=1)
        target = torch.from_numpy(part.targets.astype(np.int64)).to(device)[:, None]
        reached = scores.gather(1, target)
        # nothing is above NaN: a training that diverged would get the best rank
        if not reached.isfinite().all():
            raise ValueError(
                "expected finite scores, got NaN or infinity: "
                "the training diverged, a lower learning_rate helps"
            )
        rows = torch.from_numpy(part.histories.rows).to(device)
        seen = torch.from_numpy(part.histories.items.astype(np.int64)).to(device)
        scores[rows, seen] = -torch.inf
        scores.scatter_(1, target, -torch.inf)
        above = (scores > reached).sum(dim=1) + 0.5 * (scores == reached).sum(dim=1)
        rank = 1.0 + above
        total += torch.where(rank <= 10, 1.0 / torch.log2(1.0 + rank), 0.0).sum().item()
    return total / len(cases)


class _Windows:
    """Training histories cut into windows of T targets, the newest window full.

    Consecutive windows of a user share one event: the last target of the older one is the first
    input of the newer one, so each event but a user's first is a target exactly once.
    """

    def __init__(
        self,
        train: Histories,
        length: int,
        n_items: int,
        held_out: NDArray[np.bool_] | None,
    ) -> None:
        if len(train.items) and train.items.max() >= n_items:
            raise ValueError(f"expected item numbers < {n_items}, got {train.items.max()}")
        if held_out is None:
            held_out = np.zeros(len(train.items), dtype=bool)
        if held_out.shape != train.items.shape:
            raise ValueError(f"expected held_out [{len(train.items)}], got {held_out.shape}")
        n_windows = -(-np.maximum(train.lengths - 1, 0) // length)
        self.users = np.repeat(np.arange(len(train)), n_windows)
        first = np.cumsum(n_windows) - n_windows
        age = np.arange(len(self.users)) - np.repeat(first, n_windows)  # 0 = newest
        ends = train.offsets[1:][self.users] - age * length
        starts = np.maximum(ends - length - 1, train.offsets[:-1][self.users])
        self.items = train.slices(starts, ends)
        flags = Histories(train.offsets, held_out.astype(np.int32))
        self.held_out = flags.slices(starts, ends)
        self.length = length
        self.n_items = n_items
        firsts = train.offsets[:-1][train.lengths > 0]
        self.n_held_out = int(held_out.sum() - held_out[firsts].sum())
        self.n_targets = len(train.items) - len(firsts) - self.n_held_out
        if self.n_targets < 1:
            raise ValueError(
                "expected a user with two training events or more, not all held out, got none"
            )

    def __len__(self) -> int:
        return len(self.users)

    def digest(self) -> str:
        """Return a hash of the events and of which of them are held out."""
        digest = hashlib.sha256()
        for array in (self.items.offsets, self.items.items, self.held_out.items):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def batch(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs `[B, T]`, targets `[B, T]` and which targets count `[B, T]`."""
        items = torch.from_numpy(self.items.take(rows).padded(self.length + 1, self.n_items))
        held_out = torch.from_numpy(self.held_out.take(rows).padded(self.length + 1, 1))
        inputs, targets = items[:, :-1], items[:, 1:]
        return inputs, targets, (inputs != self.n_items) & (held_out[:, 1:] == 0)


def _train_epoch(
    model: HistoryEncoder,
    optimizer: torch.optim.Optimizer,
    windows: _Windows,
    config: IDConfig,
    epoch: int,
    loss_of: Loss,
) -> float:
    model.train()
    device = next(model.parameters()).device
    # keyed by the epoch, so that a resumed run sees the same batches
    order = np.random.default_rng([config.seed, epoch]).permutation(len(windows))
    starts = range(0, len(windows), config.batch_size)
    total = 0.0
    for number, start in enumerate(starts):
        rows = order[start : start + config.batch_size]
        inputs, targets, counted = (part.to(device) for part in windows.batch(rows))
        if not counted.any():
            continue
        step = epoch * len(starts) + number
        batch = Batch(windows.users[rows], model(inputs), targets, counted, step)
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(starts)


def _loss(train: Histories, n_items: int, config: IDConfig, cold: Tensor | None) -> Loss:
    if config.shared_negatives:
        return shared_loss(n_items, config.shared_negatives, config.seed, cold)
    if not config.negatives:
        return full_loss(cold)
    sampler = NegativeSampler(train, n_items, alpha=config.alpha, seed=config.seed)
    return sampled_loss(sampler, config.negatives, cold)
