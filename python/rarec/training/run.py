"""A whole training: lower states, the steps from the newest checkpoint on, and the report."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from rarec.memory import peak_memory_mb
from rarec.model import RARec
from rarec.paths import utf8_path
from rarec.randomness import seeded
from rarec.settings import LossSettings
from rarec.training.batches import TrainingData
from rarec.training.callbacks import RichProgress, StepCounter
from rarec.training.checkpoints import newest_checkpoint
from rarec.training.lower_states import TrainingLowerStates, training_lower_states
from rarec.training.trainer import RARecTrainer


@dataclass(frozen=True)
class TrainingReport:
    """Measurements of a training.

    Attributes:
        steps: Number of optimizer steps, those before a checkpoint included.
        loss: Mean loss of the steps between the last two logs, or of all steps if none were logged.
        seconds: Wall time of this process.
        samples: Number of samples in the data.
        trainable_parameters: Number of trained parameters.
        samples_per_second: Samples that this process has trained on, divided by its time.
        peak_rss_mb: Largest memory of the process so far in MB, or None where it is not known.
        cut_users: Share of the texts of users that lost titles to the limit of tokens.
        cut_items: Share of the texts of items that lost tokens to the limit.
    """

    steps: int
    loss: float
    seconds: float
    samples: int
    trainable_parameters: int
    samples_per_second: float
    peak_rss_mb: float | None
    cut_users: float
    cut_items: float


def train(
    model: RARec,
    data: TrainingData,
    args: TrainingArguments,
    loss: LossSettings | None = None,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    resume: bool = False,
) -> TrainingReport:
    """Return the measurements of a training; the model is trained in place.

    The global random generators of the caller stay as they are.

    Args:
        model: The model.
        data: The chosen samples.
        args: Arguments of transformers, see `training_arguments`.
        loss: The loss that is minimised.
        callbacks: Callbacks of transformers. `RichProgress` shows bars.
        resume: Go on from the newest whole checkpoint in the output folder, if there is one.

    Raises:
        ValueError: If the data lack what the loss needs, the batches do not fit the data, or the
            newest checkpoint is damaged.
    """
    started = time.perf_counter()
    counter = StepCounter()
    with seeded(args.seed):
        trainer = RARecTrainer(model, args, data, loss, [*callbacks, counter])
        checkpoint = newest_checkpoint(str(args.output_dir)) if resume else None
        if checkpoint is not None:
            trainer.losses.read(checkpoint)
        state = None if checkpoint is None else _finished(checkpoint, args)
        if state is not None and checkpoint is not None:
            # the trainer of transformers would take one more step
            with utf8_path(checkpoint / SAFE_WEIGHTS_NAME) as path:
                model.load_state_dict(load_file(path))
        else:
            state = _run(trainer, checkpoint, callbacks)
    seconds = time.perf_counter() - started
    return TrainingReport(
        steps=state.global_step,
        loss=trainer.losses.mean(state.log_history),
        seconds=seconds,
        samples=len(data),
        trainable_parameters=model.n_trainable(),
        samples_per_second=_n_samples(args, counter.steps) / seconds,
        peak_rss_mb=peak_memory_mb(),
        cut_users=data.users.tokens.n_cut / len(data.users),
        cut_items=data.items.tokens.n_cut / max(1, len(data.items)),
    )


def _run(
    trainer: RARecTrainer, checkpoint: Path | None, callbacks: Sequence[TrainerCallback]
) -> TrainerState:
    """Return the state of a trainer after all steps.

    If it is stopped, its newest state is saved first, where that takes less than a second.
    """
    bars = [callback for callback in callbacks if isinstance(callback, RichProgress)]
    trainer.lower = training_lower_states(
        trainer.model,  # type: ignore[arg-type]
        trainer.data,
        _n_read(trainer.args, trainer.data),
        progress=bool(bars),
    )
    try:
        # other processes would wait for the checkpoint of this one
        with trainer.stopping if trainer.args.world_size == 1 else nullcontext():
            if checkpoint is None:
                trainer.train()
            else:
                with utf8_path(checkpoint) as path:
                    trainer.train(resume_from_checkpoint=str(path))
    finally:
        trainer.lower.close()
        trainer.lower = TrainingLowerStates()
        for bar in bars:
            bar.close()
    return trainer.state


def _n_samples(args: TrainingArguments, steps: int) -> int:
    """Return the number of samples in so many steps."""
    return steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def _n_read(args: TrainingArguments, data: TrainingData) -> int:
    """Return the number of samples in all steps of a training."""
    if args.max_steps > 0:
        return _n_samples(args, args.max_steps)
    return math.ceil(args.num_train_epochs * len(data))


def _finished(checkpoint: Path, args: TrainingArguments) -> TrainerState | None:
    """Return the state in a checkpoint if it was written after the last step."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    last = args.max_steps if args.max_steps > 0 else state.max_steps
    return state if state.global_step >= last else None
