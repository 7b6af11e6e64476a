"""A study: named variants on several datasets and seeds, all checked before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rarec.backbone import require_peft
from rarec.paths import require_folder_name
from rarec.run.folder import PARTS
from rarec.settings import AlignSettings, FitSettings, variant, with_values
from rarec.study.sources import DataSource

#: Name of the variant without changes, unless the study names it otherwise.
BASE = "base"
_OF_FIT = ("selection.", "ids.")
_OF_ALIGN = "align."
# the study itself sets these
_OF_STUDY = ("selection.seed", "ids.seed", "align.seed", "align.name")


@dataclass(frozen=True)
class Study:
    """Which variants are run on which data.

    A variant is a named configuration: values by dotted name, of the selection (`selection.`), the
    ID model (`ids.`) and the alignment (`align.`). `align.variant` names the variant of the method
    that it begins with (`rarec.settings.VARIANTS`). `hold_out` says whether the ID model that the
    language model is given is trained without the targets of the tuning samples.

    Attributes:
        data: The datasets.
        variants: The values of each variant by its name.
        seeds: Seeds of the samples, the ID model, the initial values and the batches.
        part: Part of the data that is evaluated: `validation` or `test`.
        cases: Number of cases that are drawn evenly at random; None takes all.
        reference: Name of the variant that all others are compared with.
        names: Other names of rows in the results of all datasets together.
        id_models: Values of ID models that have rows of their own, trained on all samples.

    Raises:
        ValueError: If a name, a seed or a value is refused. The message names the variant.
    """

    data: tuple[DataSource, ...]
    variants: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...] = (0,)
    part: str = "validation"
    cases: int | None = None
    reference: str = BASE
    names: Mapping[str, str] = field(default_factory=dict)
    id_models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.data or not self.variants:
            raise ValueError("expected at least one dataset and one variant")
        if twice := sorted(self.variants.keys() & self.id_models.keys()):
            raise ValueError(f"expected different names of variants and ID models, got {twice}")
        if self.reference not in self.variants:
            raise ValueError(
                f"expected reference to be one of {list(self.variants)}, got {self.reference!r}"
            )
        for source in self.data:
            require_folder_name(source.name)
        whole = all(type(seed) is int and seed >= 0 for seed in self.seeds)
        if not whole or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"expected different seeds >= 0, at least one, got {list(self.seeds)}")
        if self.part not in PARTS:
            raise ValueError(f"expected part to be one of {list(PARTS)}, got {self.part!r}")
        if self.cases is not None and (type(self.cases) is not int or self.cases < 1):
            raise ValueError(f"expected cases >= 1, got {self.cases}")
        self._check_values()

    def _check_values(self) -> None:
        for name, values in self.id_models.items():
            if others := [key for key in values if not key.startswith("ids.")]:
                raise ValueError(f"{name}: expected settings of ids alone, got {others}")
        for source in self.data:
            for name in (*self.variants, *self.id_models):
                _, align = self.settings(name, source, self.seeds[0])
                if align.model.tune == "lora":
                    require_peft()

    def settings(
        self, name: str, source: DataSource, seed: int
    ) -> tuple[FitSettings, AlignSettings]:
        """Return the settings of a variant or an ID model on a dataset.

        Args:
            name: Name of the variant or the ID model.
            source: The dataset. Values of the variant come before those of the dataset.
            seed: Seed of all steps.

        Raises:
            ValueError: If a setting is unknown or a value is refused.
        """
        own = self.variants.get(name)
        if own is None:
            own = {**self.id_models[name], "hold_out": False}
        try:
            if source.imported_ids is not None:
                _require_no_id_model(own)
            return _settings(name, {**source.settings, **own}, seed)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _settings(name: str, values: Mapping[str, Any], seed: int) -> tuple[FitSettings, AlignSettings]:
    of_fit, of_align = {}, {}
    for key, value in values.items():
        if key in _OF_STUDY:
            raise ValueError(f"expected seeds and names of the study, got {key!r} = {value!r}")
        if key == "hold_out" or key.startswith(_OF_FIT):
            of_fit[key] = value
        elif key.startswith(_OF_ALIGN):
            of_align[key.removeprefix(_OF_ALIGN)] = value
        else:
            raise ValueError(
                f"expected settings of selection, ids or align, or hold_out, "
                f"got {key!r} = {value!r}"
            )
    first = of_align.pop("variant", "default")
    fit = with_values(FitSettings(), of_fit | {"selection.seed": seed, "ids.seed": seed})
    align = dataclasses.replace(variant(first, of_align), name=name, seed=seed)
    return fit, align


def _require_no_id_model(values: Mapping[str, Any]) -> None:
    found = [key for key in values if key == "hold_out" or key.startswith("ids.")]
    if found:
        raise ValueError(f"expected no settings of the ID model with imported vectors, got {found}")
