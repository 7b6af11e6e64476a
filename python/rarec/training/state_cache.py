"""Lower states that several trainings share: computed once, then only read.

Trainings that differ in what they put into the top layers read the same texts through the same
layers below. A study has many of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rarec.encoding import length_batches
from rarec.model import EntityBatch, RARec
from rarec.prompts import Tokens
from rarec.training.lower_states import LIMIT, LowerStates
from rarec.training.text_states import texts_hash


class LowerStateCache:
    """A folder of lower states, each file named by a hash of the model, the layer and the texts.

    Args:
        folder: Where they are kept; for its owner to remove.
        limit: Bytes of a file at most; what does not fit is computed each time.
    """

    def __init__(self, folder: str | os.PathLike[str], *, limit: int = LIMIT) -> None:
        self.folder = Path(folder)
        self.limit = limit

    def of(
        self, model: RARec, tokens: Tokens, *, on_rows: Callable[[int], None] | None = None
    ) -> LowerStates | None:
        """Return the states of texts below a model's lowest prefix, computed now if they are new.

        None if they change in training, or the model cannot be begun there.

        Args:
            model: Whose prefixes stand in the top layers.
            tokens: R texts.
            on_rows: Called after each batch that is computed with the number of rows it had.
        """
        if not model.keeps_lower_states:
            return None
        backbone, below = model.backbone, model.prompted_layers.start
        kind = f"entering layer {below} in {backbone.dtype}"
        name = texts_hash(kind, backbone, tokens)
        file, table = self.folder / name, self.folder / f"{name}.safetensors"
        if not table.exists():
            self._make(LowerStates(backbone, tokens, file, below=below), table, on_rows)
        states = LowerStates(backbone, tokens, file, below=below)
        states.load(table)
        # others read the same file
        states.read_only = True
        return states

    def _make(
        self, states: LowerStates, table: Path, on_rows: Callable[[int], None] | None
    ) -> None:
        """Compute and write the states of all texts; they are there once the table is."""
        final, states.limit = states.file, self.limit
        # two trainings may begin at once: each makes its own, and the last one stays
        mark = f".{os.getpid()}"
        states.file = final.with_name(f".{final.name}{mark}")
        temporary = table.with_name(f".{table.name}{mark}")
        try:
            for rows in length_batches(states.tokens.lengths, 4096):
                states.fill(EntityBatch(*states.tokens.batch(rows)), np.asarray(rows))
                if on_rows is not None:
                    on_rows(len(rows))
            states.save(temporary)
            states.file.replace(final)
            temporary.replace(table)
        finally:
            states.file.unlink(missing_ok=True)
            temporary.unlink(missing_ok=True)
