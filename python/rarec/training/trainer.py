"""The trainer: `transformers.Trainer` with its arguments, checkpoints and resume.

Axes: B batch, C candidate items of a batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import SAFE_WEIGHTS_NAME

from rarec.losses import alignment_loss, bpr_loss, distillation_loss, sampled_softmax_loss
from rarec.memory import peak_memory_mb
from rarec.model import RARec
from rarec.progress import progress_bar
from rarec.training.arguments import on_device
from rarec.training.averaging import WeightAverage
from rarec.training.batches import LengthSampler, TrainingBatch, TrainingData
from rarec.training.config import LossConfig
from rarec.training.gradient_caching import encode_in_chunks
from rarec.training.lower_states import KeptLowerStates


class RARecTrainer(Trainer):
    """Trains the towers of a model where its language model is; that stays as it is.

    Args:
        model: The model.
        args: See `training_arguments`.
        data: The chosen samples.
        loss: What is minimised.
        callbacks: Of transformers.
        lower: Lower states that are there already; by default they are kept beside the checkpoints.
    """

    def __init__(
        self,
        model: RARec,
        args: TrainingArguments,
        data: TrainingData,
        loss: LossConfig | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        lower: KeptLowerStates | None = None,
    ) -> None:
        self.loss = loss or LossConfig()
        args = on_device(args, model.backbone.device)
        if self.loss.alignment and (data.user_text is None or data.item_text is None):
            raise ValueError("expected text-only states in data for the alignment loss, got none")
        needs_id_scores = self.loss.distillation or model.model_config.id_score != "none"
        if needs_id_scores and data.id_scores is None:
            raise ValueError("expected ID scores in data to learn beside or from them, got none")
        if self.loss.hard_negatives and data.hard is None:
            raise ValueError(
                f"expected hard negatives in data for {self.loss.hard_negatives} a row, got none"
            )
        if self.loss.chunk_size is not None and max(args.world_size, args.n_gpu) > 1:
            raise ValueError(
                f"expected one process and one GPU with chunk_size, "
                f"got {args.world_size} and {args.n_gpu}"
            )
        if len(data) < args.train_batch_size and args.dataloader_drop_last:
            raise ValueError(
                f"expected at least {args.train_batch_size} samples for a batch, got {len(data)}"
            )
        self.data = data
        self.lower = lower or KeptLowerStates.of(model, data, args)
        self._last_batch = (-1, 0)
        super().__init__(
            model=model,
            args=args,
            train_dataset=data,
            data_collator=_rows,
            callbacks=[*callbacks, *filter(None, [self.lower])],
        )
        # it prints each log entry as a dict; RichProgress shows the loss
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthSampler(self.data.lengths, self.args.train_batch_size, seed=seed)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the optimizer of transformers, each kind of weights at its own learning rate."""
        optimizer = super().create_optimizer(model)
        towers = self._towers
        kinds = [((towers.user.prefix, towers.item.prefix), towers.model_config.prefix_rate)]
        if towers.model_config.tune != "none":
            kinds.append((tuple(towers.llm.values()), towers.model_config.llm_rate))
        for weights, rate in kinds:
            names = {id(weight) for weight in weights}
            for group in list(optimizer.param_groups):
                own = [weight for weight in group["params"] if id(weight) in names]
                if own:
                    group["params"] = [w for w in group["params"] if id(w) not in names]
                    rate_of_own = self.args.learning_rate * rate
                    optimizer.add_param_group({**group, "params": own, "lr": rate_of_own})
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002 (losses are means)
    ) -> Any:
        """Return the loss of the samples in `inputs["rows"]`, and if asked the scores."""
        batch = self.data.batch(inputs["rows"].cpu().numpy(), step=self._next_batch())
        users, items = self._representations(model, batch)
        scores = self._towers.scores(users, items)
        device = scores.device
        positives, negatives = batch.positives.to(device), batch.negatives.to(device)
        alone = scores
        if batch.id_scores is not None and self._towers.model_config.id_score != "none":
            # a sample without an ID vector is scored by its text alone
            by_id = batch.id_scores.to(device).nan_to_num(nan=0.0)
            scores = scores + self._id_weight() * by_id
        log_q = None
        if self.loss.prediction == "bpr":
            loss = bpr_loss(scores, positives, negatives)
        else:
            log_q = batch.log_probability.to(device) if self.loss.log_q else None
            loss = sampled_softmax_loss(scores, positives, negatives, log_q)
        if self.loss.distillation and batch.id_scores is not None:
            loss = loss + self.loss.distillation * distillation_loss(
                alone,
                batch.id_scores.to(device),
                positives,
                negatives,
                log_q,
                temperature=self.loss.distillation_temperature,
            )
        if self.loss.alignment:
            loss = loss + self.loss.alignment * self._alignment(batch)
        return (loss, {"scores": scores}) if return_outputs else loss

    def _id_weight(self) -> Tensor | float:
        """Return the weight of the ID model's score in this step."""
        warmup = self.loss.id_score_warmup
        share = min(1.0, self.state.global_step / warmup) if warmup else 1.0
        return share * self._towers.id_weight

    def _representations(self, model: nn.Module, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Return those of the users and the items of a batch."""
        # as the forward of the model is
        with self.accelerator.autocast():
            if self.loss.chunk_size is not None:
                return self._in_chunks(batch, self.loss.chunk_size)
            if self.lower is not None:
                batch = self.lower.fill(batch)
        return model(batch.users, batch.items)

    def _in_chunks(self, batch: TrainingBatch, size: int) -> tuple[Tensor, Tensor]:
        towers, kept = self._towers, self.lower
        users, items = (None, None) if kept is None else (kept.users, kept.items)
        return (
            encode_in_chunks(
                towers, towers.user, batch.users, size, lower=users, numbers=batch.user_rows
            ),
            encode_in_chunks(
                towers, towers.item, batch.items, size, lower=items, numbers=batch.item_rows
            ),
        )

    @property
    def _towers(self) -> RARec:
        return self.accelerator.unwrap_model(self.model)  # type: ignore[return-value]

    def _next_batch(self) -> int:
        """Return the number of this batch, counted over the whole training, resumed or not."""
        step, number = self.state.global_step, 0
        # an epoch can end amid a step, so a plain count would part from that of a resumed run
        if step == self._last_batch[0]:
            number = self._last_batch[1] + 1
        self._last_batch = (step, number)
        return step * self.args.gradient_accumulation_steps + number

    def _alignment(self, batch: TrainingBatch) -> Tensor:
        towers = self._towers
        device = towers.backbone.device
        same_item = torch.eye(len(batch.items), dtype=torch.bool)
        total = torch.zeros((), device=device)
        for tower, entities, text, same in (
            (towers.user, batch.users, batch.user_text, batch.same_user),
            (towers.item, batch.items, batch.item_text, same_item),
        ):
            if entities.id_vectors is None or text is None:
                raise ValueError("expected ID vectors and text states for the alignment loss")
            known = slice(None) if entities.has_id is None else entities.has_id
            soft = tower.soft_prompts(entities.id_vectors[known].to(device))
            same = same[known][:, known].to(device)
            text = text[known][:, towers.prompted_layers].to(device)
            total = total + alignment_loss(
                soft, text, same, temperature=self.loss.alignment_temperature
            )
        return total


@dataclass(frozen=True)
class TrainingReport:
    """What a training did.

    Attributes:
        steps: Optimiser steps, earlier parts of a resumed run included.
        loss: Mean loss of the last logged steps; NaN if none were.
        seconds: Wall time of this run.
        samples: Samples there were.
        trainable_parameters: Trained parameters.
        samples_per_second: Samples that this run has trained on, over its time.
        peak_rss_mb: Largest memory of the process so far.
        cut_users: Share of the users' texts that lost titles to the limit of tokens.
        cut_items: Share of the items' texts that lost tokens to it.
    """

    steps: int
    loss: float
    seconds: float
    samples: int
    trainable_parameters: int
    samples_per_second: float
    peak_rss_mb: float
    cut_users: float
    cut_items: float


def train(
    model: RARec,
    data: TrainingData,
    args: TrainingArguments,
    loss: LossConfig | None = None,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    resume: bool = False,
    average_decay: float | None = None,
    lower: KeptLowerStates | None = None,
) -> TrainingReport:
    """Return what the training of a model did; the model is trained in place.

    Args:
        model: The model.
        data: The chosen samples.
        args: See `training_arguments`.
        loss: What is minimised.
        callbacks: Of transformers; `RichProgress` shows a bar.
        resume: Go on from the newest checkpoint in the output folder, if there is one.
        average_decay: End with the average of the weights over the steps, of this decay: see
            `WeightAverage`. None ends with the last weights.
        lower: See `RARecTrainer`.
    """
    average = None if average_decay is None else WeightAverage(model, average_decay)
    trainer = RARecTrainer(model, args, data, loss, [*callbacks, *filter(None, [average])], lower)
    checkpoint = get_last_checkpoint(str(args.output_dir)) if _has_folder(args) else None
    started = time.perf_counter()
    counter = _StepsOfThisRun()
    trainer.add_callback(counter)
    state = _finished(checkpoint, args) if resume else None
    if state is not None and checkpoint is not None:
        # the trainer of transformers would take one more step
        model.load_state_dict(load_file(Path(checkpoint) / SAFE_WEIGHTS_NAME))
        if average is not None:
            average.restore(args, state)
    else:
        try:
            trainer.train(resume_from_checkpoint=checkpoint if resume else None)
        finally:
            for callback in callbacks:
                if isinstance(callback, RichProgress):
                    callback.close()
        state = trainer.state
    seconds = time.perf_counter() - started
    n_samples = (
        counter.steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    )
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    # of a training shorter than its logging
    mean = [entry["train_loss"] for entry in state.log_history if "train_loss" in entry]
    return TrainingReport(
        steps=state.global_step,
        loss=float([math.nan, *mean, *losses][-1]),
        seconds=seconds,
        samples=len(data),
        trainable_parameters=model.n_trainable(),
        samples_per_second=n_samples / seconds,
        peak_rss_mb=peak_memory_mb(),
        cut_users=data.users.tokens.n_cut / len(data.users),
        cut_items=data.items.tokens.n_cut / max(1, len(data.items)),
    )


def _finished(checkpoint: str | None, args: TrainingArguments) -> TrainerState | None:
    """Return the state in a checkpoint that no step is left after."""
    if checkpoint is None:
        return None
    state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    last = args.max_steps if args.max_steps > 0 else state.max_steps
    return state if state.global_step >= last else None


class RichProgress(TrainerCallback):
    """A progress bar with the loss, in place of the bar of transformers.

    Args:
        title: Stands before the bar.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._stack = ExitStack()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Show the bar."""
        bar = progress_bar(self.title, state.max_steps, done=state.global_step)
        self._advance = self._stack.enter_context(bar)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Move the bar."""
        self._advance()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Show the loss."""
        if logs and "loss" in logs:
            self._advance(0, note=f"loss {float(logs['loss']):.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Leave the full bar on the screen."""
        self.close()

    def close(self) -> None:
        """Give the terminal back, also after a training that was stopped."""
        self._stack.close()


class _StepsOfThisRun(TrainerCallback):
    """Counts the steps since the start, or since a resumed training went on."""

    def __init__(self) -> None:
        self.steps = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Count one."""
        self.steps += 1


def _rows(numbers: list[int]) -> dict[str, Tensor]:
    return {"rows": torch.tensor(numbers)}


def _has_folder(args: TrainingArguments) -> bool:
    return args.output_dir is not None and Path(args.output_dir).is_dir()
