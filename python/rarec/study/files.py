"""What a study file says: datasets, seeds, and variants as changes to one base.

part = "validation"                # or "test": once, for what was chosen
seeds = [0]
cases = 1500                       # users that are evaluated; all, if left out
reference = "base"                 # what each variant is compared with

[data.beauty]                      # as `rarec prepare` reads it
source = "data/beauty"
min_user_interactions = 5
set.ids.model = "sasrec"           # of this dataset alone

[set]                              # of all variants
selection.fraction = 0.07
align.model.layers = 3

[levers.id-dropout]                # a variant for each value
align.model.id_dropout = [0.1, 0.3]

[variants.both]                    # a variant
align.model.id_dropout = 0.3
align.loss.hard_negatives = 2

[parts.gate]                       # `all` has all parts; and variants: all but it, only it
align.model.gate = true

[id_models.reads-text]             # an ID model on all samples, to compare with
ids.text = "all-MiniLM-L6-v2"
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rarec.data import Columns, Dataset, ReadOptions, read_dataset
from rarec.ids import IDConfig
from rarec.recommender import PARTS, AlignConfig, flatten, recipe, with_settings
from rarec.selection import SelectionConfig

BASE = "base"
# folders of ID models and lower states stand beside those of variants
_NAME = re.compile(r"(?!ids-|lower-states$)[\w=+-][\w.=+-]*")
_KEYS = (
    "part",
    "seeds",
    "cases",
    "reference",
    "names",
    "data",
    "set",
    "levers",
    "variants",
    "parts",
    "id_models",
)

_OF_TABLES = ("data", "levers", "variants", "parts", "id_models")


@dataclass(frozen=True)
class DataSource:
    """One dataset of a study.

    Attributes:
        name: What it is called.
        source: A folder, a file, or the name of a public dataset.
        options: What is kept of it.
        columns: Names of its columns.
        settings: Changes to every variant on this dataset.
    """

    name: str
    source: str
    options: ReadOptions = field(default_factory=ReadOptions)
    columns: Columns = field(default_factory=Columns)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def read(self) -> Dataset:
        """Return the dataset."""
        from rarec.assets import fetch, names

        source = fetch(self.source) if self.source in names() else Path(self.source)
        return read_dataset(source, columns=self.columns, options=self.options)


@dataclass(frozen=True)
class Variant:
    """One setting of a study.

    Attributes:
        name: What it is called.
        settings: Values by dotted name: of the selection (`selection.`), the ID model (`ids.`) and
            the alignment (`align.`); `align.preset` names a recipe to begin with, `hold_out` says
            whether the tuning samples are left out of the ID model's loss.
    """

    name: str
    settings: Mapping[str, Any]

    def configs(self, seed: int) -> Configs:
        """Return the configurations of a run.

        Raises:
            ValueError: If a setting is unknown or a value is refused.
        """
        parts: dict[str, dict[str, Any]] = {"selection": {}, "ids": {}, "align": {}}
        hold_out = True
        for name, value in self.settings.items():
            part, _, rest = name.partition(".")
            if name == "hold_out" and isinstance(value, bool):
                hold_out = value
            elif part in parts and rest:
                parts[part][rest] = value
            else:
                raise ValueError(
                    f"{self.name}: expected settings of selection, ids or align, or hold_out "
                    f"(true or false), got {name!r} = {value!r}"
                )
        preset = parts["align"].pop("preset", "default")
        try:
            align = with_settings(recipe(preset), parts["align"])
            return Configs(
                selection=replace(with_settings(SelectionConfig(), parts["selection"]), seed=seed),
                ids=replace(with_settings(IDConfig(), parts["ids"]), seed=seed),
                align=replace(
                    align, model=replace(align.model, seed=seed), seed=seed, label="variant"
                ),
                hold_out=hold_out,
            )
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error


@dataclass(frozen=True)
class Configs:
    """The configurations of one run.

    Attributes:
        selection: How samples are chosen.
        ids: The ID model.
        align: The recipe.
        hold_out: Whether the samples are left out of the ID model's loss.
    """

    selection: SelectionConfig
    ids: IDConfig
    align: AlignConfig
    hold_out: bool


@dataclass(frozen=True)
class Study:
    """What is tried on what.

    Attributes:
        data: The datasets.
        variants: The settings, `base` first.
        seeds: Of samples, ID model, start values and batches.
        part: Which cases are evaluated: `validation` or `test`.
        cases: So many of them, chosen evenly at random; None takes all.
        reference: The variant that all others are compared with.
        names: Other names of rows in the results.
        id_models: ID models that are rows of their own, trained on all samples.
    """

    data: tuple[DataSource, ...]
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...] = (0,)
    part: str = "validation"
    cases: int | None = None
    reference: str = BASE
    names: Mapping[str, str] = field(default_factory=dict)
    id_models: tuple[Variant, ...] = ()

    def __post_init__(self) -> None:
        if not self.data or not self.variants:
            raise ValueError("expected a dataset and a variant at least")
        names = [variant.name for variant in (*self.variants, *self.id_models)]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"expected variants of different names, got {twice} twice")
        if self.reference not in (known := [variant.name for variant in self.variants]):
            raise ValueError(f"expected reference to be one of {known}, got {self.reference!r}")
        for name in (*names, *(source.name for source in self.data)):
            if not _NAME.fullmatch(name) or name.endswith("+id"):
                raise ValueError(f"expected a name that a folder can have, got {name!r}")
        whole = all(type(seed) is int and seed >= 0 for seed in self.seeds)
        if not whole or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"expected different seeds >= 0, at least one, got {self.seeds}")
        if self.part not in PARTS:
            raise ValueError(f"expected part to be one of {list(PARTS)}, got {self.part!r}")
        if self.cases is not None and (type(self.cases) is not int or self.cases < 1):
            raise ValueError(f"expected cases >= 1, got {self.cases}")
        for model in self.id_models:
            others = [key for key in model.settings if not key.startswith(("ids.", "hold_out"))]
            if others:
                raise ValueError(f"{model.name}: expected settings of ids alone, got {others}")
        # now, and not when its turn comes
        for source in self.data:
            for variant in (*self.variants, *self.id_models):
                self.on(variant, source).configs(0)

    def on(self, variant: Variant, source: DataSource) -> Variant:
        """Return a variant with what is set for a dataset; its own settings come before that."""
        return replace(variant, settings={**source.settings, **variant.settings})


def read_study(
    path: str | os.PathLike[str],
    *,
    sources: Mapping[str, str] | None = None,
    data: Sequence[str] | None = None,
) -> Study:
    """Return the study of a file.

    Args:
        path: A TOML file.
        sources: Other places of its datasets, by name.
        data: Names of the datasets that are wanted; None for all.

    Raises:
        ValueError: If it cannot be read, or says something unknown (the file is named).
    """
    path, sources = Path(path), dict(sources or {})
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: expected a study file ({error})") from error
    try:
        if unknown := sorted(content.keys() - set(_KEYS)):
            raise ValueError(f"expected keys of {list(_KEYS)}, got {unknown}")
        for key in ("names", "set", *_OF_TABLES):
            table = content.get(key, {})
            deep = key in _OF_TABLES
            inner = table.values() if deep and isinstance(table, Mapping) else ()
            if not all(isinstance(one, Mapping) for one in (table, *inner)):
                raise ValueError(f"expected tables in {key}, got {table!r}")
        tables = content.get("data", {})
        if missing := sorted({*sources, *(data or ())} - tables.keys()):
            raise ValueError(f"expected datasets of {sorted(tables)}, got {missing}")
        if data is not None:
            tables = {name: tables[name] for name in data}
        common = flatten(content.get("set", {}))
        found = [_source(name, table, sources.get(name)) for name, table in tables.items()]
        # what a dataset sets comes before what all variants have
        found = [replace(one, settings={**common, **one.settings}) for one in found]
        given = {
            name: content[name]
            for name in ("part", "cases", "reference", "names")
            if name in content
        }
        if "seeds" in content:
            given["seeds"] = tuple(content["seeds"])
        given["id_models"] = tuple(
            Variant(name, {**flatten(table), "hold_out": False})
            for name, table in content.get("id_models", {}).items()
        )
        return Study(tuple(found), tuple(_variants(content)), **given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _source(name: str, table: Mapping[str, Any], elsewhere: str | None) -> DataSource:
    values = dict(table)
    settings = flatten(values.pop("set", {}))
    source = elsewhere or values.pop("source", None)
    values.pop("source", None)
    if not isinstance(source, str):
        raise ValueError(f"data.{name}: expected a source, got {source!r}")
    read = {field.name for field in fields(ReadOptions)}
    options = {key: value for key, value in values.items() if key in read}
    columns = {key: value for key, value in values.items() if key not in read}
    try:
        return DataSource(
            name,
            source,
            options=with_settings(ReadOptions(), options),
            columns=with_settings(Columns(), columns),
            settings=settings,
        )
    except ValueError as error:
        raise ValueError(f"data.{name}: {error}") from error


def _variants(content: Mapping[str, Any]) -> list[Variant]:
    found = [Variant(BASE, {})]
    for name, table in content.get("levers", {}).items():
        found += _of_lever(name, flatten(table))
    found += [Variant(name, flatten(table)) for name, table in content.get("variants", {}).items()]
    parts = {name: flatten(table) for name, table in content.get("parts", {}).items()}
    if parts:
        everything = {key: value for part in parts.values() for key, value in part.items()}
        found.append(Variant("all", everything))
        for name, own in parts.items():
            others = {
                key: value
                for other, part in parts.items()
                if other != name
                for key, value in part.items()
            }
            found += [Variant(f"all-but-{name}", others), Variant(f"only-{name}", own)]
    return found


def _of_lever(name: str, settings: Mapping[str, Any]) -> list[Variant]:
    """Return a variant for each value of the one setting that is a list; others stand by it."""
    several = [key for key, value in settings.items() if isinstance(value, list)]
    if len(several) != 1:
        raise ValueError(
            f"levers.{name}: expected one setting with a list of values, got {several}"
        )
    key = several[0]
    # a name is a folder's, and the value may be a path
    return [
        Variant(f"{name}={str(value).replace('/', '_')}", {**settings, key: value})
        for value in settings[key]
    ]
