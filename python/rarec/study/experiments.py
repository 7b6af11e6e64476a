"""The experiments of a study: one variant on one dataset with one seed, and what is done of it.

OUTPUT/DATA/seed-S/run-HASH/    a run folder for all variants with the same samples and ID model
    study/baselines/            ranks of popularity and the ID models
    study/variants/NAME/        ranks, weights and measurements of a variant
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rarec.artifacts import remove
from rarec.members.fusion import fused_name
from rarec.pipeline.finished import what_differs
from rarec.run import RunFolder, fresh_record, read_record
from rarec.run.folder import ids_address, index_address, model_address, weights_address
from rarec.settings import AlignSettings, FitSettings, as_dict
from rarec.study.plan import Study
from rarec.study.sources import DataSource

BASELINES = "study/baselines"


@dataclass(frozen=True)
class Experiment:
    """One variant, or one ID model, on one dataset with one seed.

    Attributes:
        name: Name of the variant.
        source: The dataset.
        seed: The seed.
        fit: Settings of the samples and the ID model.
        align: Settings of the alignment.
        cases: Which cases are evaluated: their `part` and their number.
        run: Folder of the run that it shares with others of the same `fit`.
    """

    name: str
    source: DataSource
    seed: int
    fit: FitSettings
    align: AlignSettings
    cases: Mapping[str, Any]
    run: Path

    @property
    def title(self) -> str:
        """DATA/seed-S/NAME."""
        return f"{self.source.name}/seed-{self.seed}/{self.name}"

    def folder(self, address: str) -> Path:
        """Return the folder of an artifact of the run."""
        return RunFolder(self.run).folder(address)

    def has_baselines(self) -> bool:
        """Return whether the ID models are trained and the cases are ranked with them."""
        if not RunFolder.exists(self.run):
            return False
        run = RunFolder(self.run)
        record = fresh_record(run, BASELINES)
        if record is None or record.settings != self.cases:
            return False
        parts = [fresh_record(run, ids_address(part)) for part in run.id_parts()]
        # imported vectors have no settings
        return not any(
            what_differs(self.fit.ids, part.settings, part.language_models)
            for part in parts
            if part is not None and part.settings
        )

    def is_done(self) -> bool:
        """Return whether the model is aligned and the cases are ranked with it."""
        if not self.has_baselines():
            return False
        run = RunFolder(self.run)
        record = fresh_record(run, variant_address(self.name))
        if record is None or record.settings != self.cases:
            return False
        return not has_other_model(run, self.align)

    def forget(self, *, whole_run: bool) -> None:
        """Remove what was done of it.

        Args:
            whole_run: Remove the run that it shares, with the samples and ID models, too.
        """
        if whole_run:
            remove(self.run)
        if RunFolder.exists(self.run):
            fused = fused_name(self.align.member)
            for address in (
                variant_address(self.name),
                model_address(self.align.member),
                index_address(self.align.member),
                weights_address(fused),
                f"checkpoints/{model_address(self.align.member)}",
            ):
                remove(self.folder(address))


def experiments(study: Study, folder: Path, names: Iterable[str]) -> Iterator[Experiment]:
    """Yield the experiments of variants or ID models, on each dataset with each seed.

    Args:
        study: The study.
        folder: Folder of the study.
        names: Names of variants or ID models.
    """
    names = list(names)
    cases = {"part": study.part, "cases": study.cases}
    for source in study.data:
        for seed in study.seeds:
            for name in names:
                fit, align = study.settings(name, source, seed)
                run = folder / source.name / f"seed-{seed}" / _run_name(fit, source)
                yield Experiment(name, source, seed, fit, align, cases, run)


def variant_address(name: str) -> str:
    """Return the address of what a study writes for a variant into its run."""
    return f"study/variants/{name}"


def has_other_model(run: RunFolder, settings: AlignSettings) -> bool:
    """Return whether the run has a fresh model of this name that was made in another way."""
    record = fresh_record(run, model_address(settings.member))
    return record is not None and bool(
        what_differs(settings, record.settings, record.language_models)
    )


def _run_name(fit: FitSettings, source: DataSource) -> str:
    """Return the name of the run folder for samples and ID vectors, the same for all seeds."""
    values = as_dict(fit)
    for step in ("selection", "ids"):
        del values[step]["seed"]
    if source.imported_ids is not None:
        record = read_record(source.imported_ids)
        values["ids"] = None if record is None else record.hash
    text = json.dumps(values, sort_keys=True)
    return f"run-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
