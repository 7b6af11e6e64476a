"""Reads a study from a file.

part = "validation"                # or "test"
seeds = [0]
cases = 1500                       # number of users that are evaluated; by default all
base = "rarec"                     # name of the variant without changes; by default "base"
reference = "rarec"                # what each variant is compared with; by default the base

[data.beauty]                      # as `rarec prepare` reads it, or a run folder
source = "data/beauty"
min_user_interactions = 5
set.ids.model = "sasrec"           # for this dataset alone

[set]                              # for all variants
selection.fraction = 0.07
align.model.layers = 3

[variants.both]                    # a variant: changes of the base
align.model.id_dropout = 0.3
align.loss.hard_negatives = 2

[grid.id-dropout]                  # a variant for each value: id-dropout-0.1, id-dropout-0.3
align.model.id_dropout = [0.1, 0.3]

[ablation.softmax]                 # variants: `all` of [ablation], all but this, only this
align.loss.prediction = "softmax"

[id_models.ids-alone]              # an ID model on all samples, with a row of its own
ids.text = ""

[names]                            # other names of rows in the results of all datasets together
id = "unisrec_like"
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rarec.settings import flatten
from rarec.study.plan import BASE, Study
from rarec.study.sources import DataSource, data_source

_VALUES = ("part", "seeds", "cases", "base", "reference")
_TABLES = ("names", "set")
# tables of tables
_NAMED_TABLES = ("data", "variants", "grid", "ablation", "id_models")


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
        ValueError: If the file cannot be read, or says something unknown. The message names it.
    """
    try:
        content = read_content(path)
        tables = content.get("data", {})
        if missing := sorted({*(sources or ()), *(data or ())} - tables.keys()):
            raise ValueError(f"expected datasets of {sorted(tables)}, got {missing}")
        wanted = tables if data is None else {name: tables[name] for name in data}
        moved = {
            name: {**table, "source": (sources or {}).get(name, table.get("source"))}
            for name, table in wanted.items()
        }
        return study_of({**content, "data": moved})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def data_names(path: str | os.PathLike[str]) -> list[str]:
    """Return the names of the datasets of a study file.

    Raises:
        ValueError: If the file cannot be read. The message names it.
    """
    try:
        return list(read_content(path).get("data", {}))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_content(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the tables of a study file.

    Raises:
        ValueError: If the file cannot be read, has unknown keys, or has a value in place of a
            table.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"expected a study file ({error})") from error
    known = (*_VALUES, *_TABLES, *_NAMED_TABLES)
    if unknown := sorted(content.keys() - set(known)):
        raise ValueError(f"expected keys of {list(known)}, got {unknown}")
    for key in (*_TABLES, *_NAMED_TABLES):
        table = content.get(key, {})
        is_deep = key in _NAMED_TABLES and isinstance(table, Mapping)
        inner = table.values() if is_deep else ()
        if not all(isinstance(one, Mapping) for one in (table, *inner)):
            raise ValueError(f"expected tables in {key}, got {table!r}")
    return content


def study_of(content: Mapping[str, Any]) -> Study:
    """Return the study that the tables of a study file describe.

    Args:
        content: The tables, see `read_content`.

    Raises:
        ValueError: If a name or a value is refused.
    """
    base = content.get("base", BASE)
    common = flatten(content.get("set", {}))
    data = [_source(name, table, common) for name, table in content.get("data", {}).items()]
    given = {name: content[name] for name in ("part", "cases", "names") if name in content}
    if "seeds" in content:
        given["seeds"] = tuple(content["seeds"])
    return Study(
        tuple(data),
        _variants(base, content),
        reference=content.get("reference", base),
        id_models={name: flatten(table) for name, table in content.get("id_models", {}).items()},
        **given,
    )


def _source(name: str, table: Mapping[str, Any], common: Mapping[str, Any]) -> DataSource:
    reading = dict(table)
    own = flatten(reading.pop("set", {}))
    source = reading.pop("source", None)
    if not isinstance(source, str):
        raise ValueError(f"data.{name}: expected a source, got {source!r}")
    try:
        return data_source(name, source, reading, {**common, **own})
    except ValueError as error:
        raise ValueError(f"data.{name}: {error}") from error


def _variants(base: str, content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the values of each variant by its name, the base first."""
    found: list[tuple[str, dict[str, Any]]] = [(base, {})]
    for name, table in content.get("grid", {}).items():
        found += _of_grid(name, flatten(table))
    found += [(name, flatten(table)) for name, table in content.get("variants", {}).items()]
    found += _of_ablation(content.get("ablation", {}))
    names = [name for name, _ in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"expected variants of different names, got {twice} twice")
    return dict(found)


def _of_grid(name: str, values: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return a variant for each value of the one setting that is a list; the others stay."""
    several = [key for key, value in values.items() if isinstance(value, list)]
    if len(several) != 1:
        raise ValueError(f"grid.{name}: expected one setting with a list of values, got {several}")
    key = several[0]
    return [(f"{name}-{_in_a_name(value)}", {**values, key: value}) for value in values[key]]


def _in_a_name(value: Any) -> str:
    """Return a value as it can be in the name of a folder; it may be a path."""
    return re.sub(r"[^a-z0-9._-]", "_", str(value).lower())


def _of_ablation(tables: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    parts = {name: flatten(table) for name, table in tables.items()}
    if not parts:
        return []
    found = [("all", _together(parts.values()))]
    for name, own in parts.items():
        others = [part for other, part in parts.items() if other != name]
        found += [(f"all-but-{name}", _together(others)), (f"only-{name}", own)]
    return found


def _together(parts: Any) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.items()}
