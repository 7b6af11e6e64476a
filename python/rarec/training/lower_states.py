"""States of texts below the lowest prefix: computed when a batch first needs them, kept in a file.

With prefixes in the top layers alone a frozen model gives a text the same states below them in each
epoch. What a batch of texts gives differs in the last bits from what other batches give, so a
checkpoint notes what is in the file: a training that goes on reads the very states it would have.

Axes: R rows (texts), B batch, T tokens, N tokens of all texts of a batch, H hidden size.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments

from rarec.backbone import Backbone
from rarec.model import EntityBatch, RARec
from rarec.prompts import Tokens
from rarec.training.batches import TrainingBatch, TrainingData
from rarec.training.text_states import texts_hash

#: Bytes of one side's states on disk at most.
LIMIT = 4 * 2**30


class LowerStates:
    """States entering a layer of R texts, in a file that grows as batches need them.

    Args:
        backbone: The frozen model.
        tokens: R texts.
        file: Where the states are kept; made when the first are.
        below: Number of the layer, from 0.
        limit: Bytes of the file at most; what does not fit is computed each time.
    """

    def __init__(
        self, backbone: Backbone, tokens: Tokens, file: Path, *, below: int, limit: int = LIMIT
    ) -> None:
        self.backbone = backbone
        self.tokens = tokens
        self.file = file
        self.below = below
        self.limit = limit
        self.read_only = False
        self._forget()

    def _forget(self) -> None:
        self._starts = np.full(len(self.tokens), -1, dtype=np.int64)
        self._sums = np.zeros(len(self.tokens), dtype=np.int64)
        self._end = 0

    def fill(self, batch: EntityBatch, rows: ArrayLike) -> EntityBatch:
        """Return a batch with its lower states, those that are not kept yet computed.

        Args:
            batch: B texts, not on another device than the processor.
            rows: `[B]` which of the R texts they are.
        """
        numbers = np.asarray(rows, dtype=np.int64)
        present = batch.attention_mask.bool()
        states = torch.empty(
            int(present.sum()), self.backbone.hidden_size, dtype=self.backbone.dtype
        )
        parts = states.split(present.sum(dim=1).tolist())
        missing = [place for place, row in enumerate(numbers) if self._starts[row] < 0]
        with self._open() as file:
            for row, part in zip(numbers, parts, strict=True):
                if self._starts[row] >= 0:
                    self._read(file, row, part)
            if missing:
                computed = self._compute(batch.take(torch.tensor(missing)))
                for place, part in zip(missing, computed, strict=True):
                    parts[place].copy_(part)
                    self._keep(file, numbers[place], parts[place])
        lower = states.new_zeros(*present.shape, states.shape[1])
        lower[present] = states
        return replace(batch, lower=lower)

    def _compute(self, texts: EntityBatch) -> tuple[Tensor, ...]:
        """Return `[tokens, H]` of each text."""
        texts = texts.to(self.backbone.device)
        states = self.backbone.lower_states(texts.input_ids, texts.attention_mask, below=self.below)
        present = texts.attention_mask.bool()
        return states[present].cpu().split(present.sum(dim=1).tolist())

    def _open(self) -> FileIO:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        # not mapped: pages read through a mapping would count as memory of the process, and a full
        # disk would end it
        if self.read_only:
            return FileIO(self.file, "r")
        return FileIO(self.file, "r+" if self._end else "w+")

    def _keep(self, file: FileIO, row: int, states: Tensor) -> None:
        data = states.view(torch.uint8).numpy().data
        # a row can come twice in a batch
        if self._starts[row] >= 0 or self.read_only or self._end + data.nbytes > self.limit:
            return
        file.seek(self._end)
        n_written = 0
        with suppress(OSError):
            n_written = file.write(data)
        if n_written < data.nbytes:
            # a full disk: the training goes on with what is there
            self.limit = self._end
            return
        self._starts[row], self._sums[row] = self._end, crc32(data)
        self._end += data.nbytes

    def _read(self, file: FileIO, row: int, states: Tensor) -> int:
        """Return how many bytes of a row's states there were; `[tokens, H]` is filled with them."""
        file.seek(int(self._starts[row]))
        return file.readinto(states.view(torch.uint8).numpy().data)

    @cached_property
    def _identity(self) -> str:
        kind = f"entering layer {self.below} in {self.backbone.dtype}"
        return texts_hash(kind, self.backbone, self.tokens)

    def save(self, path: Path) -> None:
        """Write which texts are in the file, and where."""
        tables = {"starts": self._starts, "sums": self._sums}
        save_file(tables, path, metadata={"identity": self._identity})

    def load(self, path: Path) -> None:
        """Take over what the file has of what `save` wrote; nothing if it is of other texts.

        Raises:
            ValueError: If `save` wrote something else.
        """
        self._forget()
        if not path.exists() or not self.file.exists():
            return
        try:
            with safe_open(path, framework="numpy") as stored:
                if (stored.metadata() or {}).get("identity") != self._identity:
                    return
                starts, sums = stored.get_tensor("starts"), stored.get_tensor("sums")
        except SafetensorError as error:
            raise ValueError(f"{path}: expected the table of lower states ({error})") from error
        self._starts[:], self._sums[:] = starts, sums
        width, dtype = self.backbone.hidden_size, self.backbone.dtype
        lengths = self.tokens.lengths
        self._end = int((starts + lengths * width * dtype.itemsize)[starts >= 0].max(initial=0))
        with self._open() as file:
            for row in np.flatnonzero(starts >= 0).tolist():
                states = torch.zeros(int(lengths[row]), width, dtype=dtype)
                self._read(file, row, states)
                # the file can have been cut or written over since
                if crc32(states.view(torch.uint8).numpy().data) != sums[row]:
                    self._starts[row] = -1

    def remove(self) -> None:
        """Remove the file, and forget what was in it."""
        self.file.unlink(missing_ok=True)
        self._forget()


class KeptLowerStates(TrainerCallback):
    """Lower states of the users and the items of a training, over its checkpoints.

    Args:
        users: Of the samples.
        items: Of the catalogue.
        name: Tells the processes of a training apart.
        shared: They are there already and stay there, for other trainings too.
    """

    def __init__(
        self, users: LowerStates, items: LowerStates, *, name: str = "", shared: bool = False
    ) -> None:
        self.users = users
        self.items = items
        self.name = name
        self.shared = shared

    @classmethod
    def of(
        cls, model: RARec, data: TrainingData, args: TrainingArguments
    ) -> KeptLowerStates | None:
        """Return those of a training; None if they change, or if nothing is gained by them.

        Args:
            model: The model.
            data: The chosen samples.
            args: Its output folder holds the files.
        """
        if not model.keeps_lower_states:
            return None
        backbone, below = model.backbone, model.prompted_layers.start
        folder = Path(args.output_dir or ".") / "lower-states"
        name = str(args.process_index)
        users, items = (
            LowerStates(backbone, entities.tokens, folder / f"{side}-{name}", below=below)
            for side, entities in (("users", data.users), ("items", data.items))
        )
        return cls(users, items, name=name)

    def fill(self, batch: TrainingBatch) -> TrainingBatch:
        """Return a batch whose texts have their lower states."""
        return replace(
            batch,
            users=self.users.fill(batch.users, batch.user_rows),
            items=self.items.fill(batch.items, batch.item_rows),
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Take over what the checkpoint knows of, or start anew."""
        for states, path in self._tables(args, state):
            states.load(path)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Note in the checkpoint what is there."""
        for states, path in self._tables(args, state):
            states.save(path)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Remove the files."""
        if self.shared:
            return
        for states in (self.users, self.items):
            states.remove()
        # another process of the training may still have its own there
        with suppress(OSError):
            self.users.file.parent.rmdir()

    def _tables(self, args: Any, state: Any) -> list[tuple[LowerStates, Path]]:
        if self.shared:
            return []
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        return [
            (states, folder / f"lower-{side}-{self.name}.safetensors")
            for side, states in (("users", self.users), ("items", self.items))
        ]
