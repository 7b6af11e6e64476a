"""The members of a run, read from its folder when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rarec.ids import IDEmbeddings, load_ids
from rarec.members.aligned import AlignedModel
from rarec.model import RARec
from rarec.pipeline.fit_ids import baseline_part
from rarec.pipeline.session import Session
from rarec.run.folder import RunFolder, ids_address, model_address
from rarec.run.freshness import fresh_hash, read_fresh, require_inputs, why_not_fresh
from rarec.settings import VARIANTS


class RunMembers:
    """Reads what gives a score in a run; what was read is kept until it changes on disk.

    Args:
        run: The run.
        session: Session of the process.
    """

    def __init__(self, run: RunFolder, session: Session) -> None:
        self.run = run
        self.session = session
        self._ids: dict[str, tuple[str, IDEmbeddings]] = {}
        self._aligned: dict[str, tuple[str, AlignedModel]] = {}

    def names(self) -> list[str]:
        """Return the names of the aligned models that are fresh, in the order of tables."""
        found = self.run.model_names()
        return in_table_order(n for n in found if fresh_hash(self.run, model_address(n)))

    def ids(self, part: str) -> IDEmbeddings:
        """Return a part of the ID model.

        Raises:
            ValueError: If it is not fresh.
        """
        address = ids_address(part)
        now = self._required(address)
        if self._ids.get(part, ("", None))[0] != now:
            place = self.run.folder(address)
            self._ids[part] = read_fresh(self.run, address, lambda: load_ids(place))
        return self._ids[part][1]

    def baseline(self) -> tuple[str, IDEmbeddings]:
        """Return the address and the vectors of the ID model that is added to a score.

        It is the one of all samples; without it the one that held the tuning samples out.

        Raises:
            ValueError: If no ID model is fresh.
        """
        part = baseline_part(self.run)
        if part is None:
            raise ValueError(f"{self.run.path}: expected fresh ID vectors, got none")
        return ids_address(part), self.ids(part)

    def aligned(self, name: str) -> AlignedModel:
        """Return an aligned model.

        Raises:
            ValueError: If it is not fresh.
        """
        address = model_address(name)
        now = self._required(address)
        if self._aligned.get(name, ("", None))[0] != now:
            self._aligned[name] = read_fresh(self.run, address, lambda: self._read(name))
        return self._aligned[name][1]

    def chosen(self, name: str | None) -> str:
        """Return the name of the aligned model that a question is for: by default `rarec`.

        Raises:
            ValueError: If there is none of this name, or several and none was named.
        """
        known = self.names()
        if name is None and (len(known) == 1 or "rarec" in known):
            return "rarec" if "rarec" in known else known[0]
        if name is not None and name not in known and name in self.run.model_names():
            raise ValueError(f"{self.run.path}: {why_not_fresh(self.run, model_address(name))}")
        if not known:
            raise ValueError("expected an aligned model first: call align (rarec align)")
        if name not in known:
            raise ValueError(f"expected model to be one of {known}, got {name or 'none'!r}")
        return name

    def _read(self, name: str) -> AlignedModel:
        folder = self.run.folder(model_address(name))
        settings = RARec.settings_of(folder)
        backbone, tokenizer = self.session.language_model(
            RARec.language_model_of(folder), is_changed=settings.tune != "none"
        )
        return AlignedModel(
            RARec.from_pretrained(folder, backbone=backbone),
            tokenizer,
            self.run.dataset.titles,
            RARec.ids_of(folder) if settings.use_ids else None,
            progress=self.session.progress,
        )

    def _required(self, address: str) -> str:
        return require_inputs(self.run, [address])[address]


def in_table_order(names: Iterable[str]) -> list[str]:
    """Return names of aligned models in the order of tables: text, rarec, the variants, others."""
    known = ["text", "rarec", *VARIANTS]
    last = len(known)
    return sorted(names, key=lambda name: (known.index(name) if name in known else last, name))


def catalogue_part(vectors: NDArray, n_items: int, id_width: int) -> NDArray[np.float32]:
    """Return `[N, H]` float32: the vectors of a member in an index that holds ID vectors, too.

    Args:
        vectors: `[N + new, H + E]` vectors of the index.
        n_items: N.
        id_width: E.
    """
    return np.ascontiguousarray(vectors[:n_items, :-id_width], dtype=np.float32)
