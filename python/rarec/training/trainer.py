"""The trainer: `transformers.Trainer` with its arguments, optimizer and loop.

Axes: B batch, C candidate items of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from rarec.artifacts import size_of, writing_to
from rarec.losses import alignment_loss, bpr_loss, sampled_softmax_loss
from rarec.model import RARec
from rarec.settings import LossSettings
from rarec.stopping import SavingLoop
from rarec.training.arguments import on_device
from rarec.training.batches import TrainingBatch, TrainingData
from rarec.training.callbacks import SaveWhenStopped
from rarec.training.checkpoints import (
    checkpoint_folder,
    mark_whole,
    remove_checkpoint,
    remove_older,
)
from rarec.training.gradient_caching import encode_in_chunks
from rarec.training.loss_record import LossRecord
from rarec.training.lower_states import TrainingLowerStates
from rarec.training.order import LengthSampler


class RARecTrainer(Trainer):
    """Trains the towers of a model on the device of its language model.

    Inside `with trainer.stopping:` a signal waits until a checkpoint is written, if that takes less
    than a second. It draws from the global random generators, as its parent does: see
    `rarec.randomness`.

    Args:
        model: The model.
        args: Arguments of transformers, see `training_arguments`.
        data: The chosen samples.
        loss: The loss that is minimised.
        callbacks: Callbacks of transformers.
        lower: Lower states of the texts. By default they are computed in each batch.

    Raises:
        ValueError: If the data lack what the loss needs, or the batches do not fit the data.
    """

    def __init__(
        self,
        model: RARec,
        args: TrainingArguments,
        data: TrainingData,
        loss: LossSettings | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        lower: TrainingLowerStates | None = None,
    ) -> None:
        self.loss = loss or LossSettings()
        args = on_device(args, model.backbone.device)
        _check_data(model, data, self.loss)
        _check_batches(args, data, self.loss)
        self.data = data
        self.lower = lower or TrainingLowerStates()
        self.stopping = SavingLoop(_save_seconds(model))
        self._last_batch = (-1, 0)
        super().__init__(
            model=model,
            args=args,
            train_dataset=data,
            data_collator=_rows,
            callbacks=[*callbacks, SaveWhenStopped(self.stopping)],
        )
        self.losses = LossRecord(lambda losses: self.accelerator.reduce(losses, "mean"))  # type: ignore[arg-type, return-value]
        # it prints each log entry as a dict; RichProgress shows the loss
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthSampler(self.data.lengths, self.args.train_batch_size, seed=seed)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the optimizer of transformers, with a learning rate for each kind of weights."""
        optimizer = super().create_optimizer(model)
        towers = self._towers
        kinds = [((towers.user.prefix, towers.item.prefix), towers.settings.prefix_rate)]
        if towers.settings.tune != "none":
            kinds.append((tuple(towers.llm.values()), towers.settings.llm_rate))
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
        """Return the loss of the samples in `inputs["rows"]`, and the scores if asked for."""
        batch = self.data.batch(inputs["rows"].cpu().numpy(), step=self._next_batch())
        users, items = self._representations(model, batch)
        scores = self._towers.scores(users, items)
        if batch.id_scores is not None and self._towers.settings.id_score != "none":
            # a sample without an ID vector is scored by its text alone
            by_id = batch.id_scores.to(scores.device).nan_to_num(nan=0.0)
            scores = scores + self._id_weight() * by_id
        loss = self._prediction(scores, batch)
        if self.loss.alignment:
            loss = loss + self.loss.alignment * self._alignment(batch)
        return (loss, {"scores": scores}) if return_outputs else loss

    def _id_weight(self) -> Tensor | float:
        """Return the weight of the score of the ID model in this step."""
        warmup = self.loss.id_score_warmup
        share = min(1.0, self.state.global_step / warmup) if warmup else 1.0
        return share * self._towers.id_weight

    def _prediction(self, scores: Tensor, batch: TrainingBatch) -> Tensor:
        """Return the prediction loss of scores `[B, C]`."""
        device = scores.device
        positives, negatives = batch.positives.to(device), batch.negatives.to(device)
        if self.loss.prediction == "bpr":
            return bpr_loss(scores, positives, negatives)
        log_q = batch.log_probability.to(device) if self.loss.log_q else None
        return sampled_softmax_loss(scores, positives, negatives, log_q)

    def _alignment(self, batch: TrainingBatch) -> Tensor:
        """Return the alignment loss of both towers."""
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

    def _representations(self, model: nn.Module, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Return the representations of the users and of the items of a batch."""
        if self.loss.chunk_size is None:
            filled = self.lower.fill(batch)
            return model(filled.users, filled.items)
        towers, size = self._towers, self.loss.chunk_size
        users = (towers, towers.user, batch.users, size)
        items = (towers, towers.item, batch.items, size)
        # as the forward of the model is
        with self.accelerator.autocast():
            return (
                encode_in_chunks(*users, lower=self.lower.users, numbers=batch.user_rows),
                encode_in_chunks(*items, lower=self.lower.items, numbers=batch.item_rows),
            )

    @property
    def _towers(self) -> RARec:
        return self.accelerator.unwrap_model(self.model)  # type: ignore[return-value]

    def _next_batch(self) -> int:
        """Return the number of this batch, counted over the whole training, resumed or not."""
        step, number = self.state.global_step, 0
        # an epoch can end amid a step, where a plain count would differ from a resumed training
        if step == self._last_batch[0]:
            number = self._last_batch[1] + 1
        self._last_batch = (step, number)
        return step * self.args.gradient_accumulation_steps + number

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        """Return the loss of a batch, divided by the number of batches in a step; record it."""
        loss = super().training_step(*arguments, **options)
        self.losses.add(self.state.global_step + 1, loss)
        return loss

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        """Log values, and fetch the losses of the steps from the device."""
        super().log(logs, *arguments, **options)
        self.losses.collect(self.state.log_history)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint, mark it as whole, and only then remove older ones.

        If that fails, the checkpoint is removed, and older ones stay.
        """
        output, writes = self._get_output_dir(trial=trial), self.args.should_save
        folder = checkpoint_folder(output, self.state.global_step)
        with self.stopping.saving():
            try:
                with writing_to(folder, written=lambda: size_of(folder)):
                    self._write_checkpoint(folder, model, trial)
            except BaseException:
                if writes:
                    remove_checkpoint(folder)
                raise
            if writes:
                remove_older(output, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _write_checkpoint(self, folder: Path, model: nn.Module, trial: Any) -> None:
        writes = self.args.should_save
        if writes:
            # one that an earlier training left here
            remove_checkpoint(folder)
        self.accelerator.wait_for_everyone()
        most, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = most
        self.losses.collect(self.state.log_history)
        # every process writes its random state
        self.accelerator.wait_for_everyone()
        if writes:
            self.losses.write(folder)
            mark_whole(folder)


def _check_data(model: RARec, data: TrainingData, loss: LossSettings) -> None:
    """Refuse data that lack what the loss needs."""
    if loss.alignment and data.text is None:
        raise ValueError("expected text-only states in data for the alignment loss, got none")
    if model.settings.id_score != "none" and data.id_scores is None:
        raise ValueError(
            f"expected ID scores in data with id_score={model.settings.id_score!r}, got none"
        )
    for name, wanted, found in (
        ("extra", loss.extra_negatives, data.extra),
        ("hard", loss.hard_negatives, data.hard),
    ):
        if wanted and (found is None or found.n != wanted):
            raise ValueError(
                f"expected {wanted} {name} negatives for each sample in data, "
                f"got {'none' if found is None else found.n}"
            )


def _check_batches(args: TrainingArguments, data: TrainingData, loss: LossSettings) -> None:
    """Refuse batches that do not fit the processes or the data."""
    if loss.chunk_size is not None and max(args.world_size, args.n_gpu) > 1:
        raise ValueError(
            f"expected one process and one GPU with chunk_size, "
            f"got {args.world_size} and {args.n_gpu}"
        )
    if len(data) < args.train_batch_size and args.dataloader_drop_last:
        raise ValueError(
            f"expected at least {args.train_batch_size} samples for a batch, got {len(data)}"
        )


def _save_seconds(model: RARec) -> float:
    """Return how long a checkpoint takes at most on a slow disk, before it has been measured."""
    n_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    # the optimizer has two values for each weight
    return 0.2 + 3 * n_bytes / 50e6


def _rows(numbers: list[int]) -> dict[str, Tensor]:
    return {"rows": torch.tensor(numbers)}
