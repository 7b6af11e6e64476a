"""A run folder: the parts of a recommender on disk, each written whole as soon as it is done."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarec.artifacts import CONFIG_NAME, read_config, write_text
from rarec.data import Dataset
from rarec.ids import load_ids
from rarec.index import ItemIndex
from rarec.model import ADAPTER, RARec
from rarec.recommender.aligned import AlignedModel
from rarec.recommender.configs import SplitConfig
from rarec.recommender.samples import load_samples, save_samples

if TYPE_CHECKING:
    from rarec.recommender.recommender import Recommender

FORMAT = "rarec.run/3"
PARTS = ("samples", "ids", "baseline")
_MODELS = "models"
_INDEX = "index"


def claim(recommender: Recommender) -> None:
    """Make the folder a run of this data and split, or refuse.

    Raises:
        ValueError: If the folder has other content, or is a run on other data or another split.
    """
    folder = recommender.folder
    assert folder is not None
    if (folder / CONFIG_NAME).exists():
        stored = read_config(folder, FORMAT)
        mine = _start(recommender)
        different = [name for name in mine if stored.get(name) != mine[name]]
        if different:
            raise ValueError(f"{folder}: expected a run of the same {' and '.join(different)}")
        return
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f"{folder}: expected a new folder or a run of rarec")
    recommender.dataset.save(folder / "dataset")
    _write_config(recommender)


def write_part(recommender: Recommender, part: str) -> None:
    """Write one part if it is there, and note what is known of it."""
    assert recommender.folder is not None
    target = recommender.folder / part
    if part == "samples" and recommender.samples is not None and recommender.selection is not None:
        save_samples(recommender.samples, *recommender.selection, target)
    elif part == "ids" and recommender.ids is not None:
        recommender.ids.save(target)
    elif part == "baseline" and recommender.baseline is not None:
        recommender.baseline.save(target)
    _write_config(recommender)


def write_model(recommender: Recommender, name: str) -> None:
    """Write an aligned model, and note what is known of it."""
    assert recommender.folder is not None
    model = recommender.models[name].model
    ids = "../../ids" if model.model_config.use_ids else None
    folder = recommender.folder / _MODELS / name
    model.save_pretrained(folder, ids=ids)
    recommender.facts[name]["adapter_bytes"] = (folder / ADAPTER).stat().st_size
    _write_config(recommender)


def write_index(recommender: Recommender, name: str) -> None:
    """Write the index of a model into its folder."""
    assert recommender.folder is not None
    recommender.indexes[name].save(recommender.folder / _MODELS / name / _INDEX)


def write_state(recommender: Recommender) -> None:
    """Write what is known of the parts and models."""
    _write_config(recommender)


def has_part(recommender: Recommender, part: str) -> bool:
    """Return whether a part has been made, in memory or in the folder."""
    folder = recommender.folder
    made = getattr(recommender, part) is not None
    return made or (folder is not None and (folder / part).is_dir())


def remove_part(recommender: Recommender, part: str) -> None:
    """Remove a part from memory, and from the folder."""
    setattr(recommender, part, None)
    if recommender.folder is not None:
        shutil.rmtree(recommender.folder / part, ignore_errors=True)
        _write_config(recommender)


def remove_models(recommender: Recommender) -> list[str]:
    """Remove all aligned models and their indexes from memory and folder; return their names."""
    names = list(recommender.models)
    for name in names:
        for known in (
            recommender.models,
            recommender.indexes,
            recommender.recipes,
            recommender.weights,
        ):
            # not `pop`: it would read a model in order to forget it
            if name in known:
                del known[name]
        recommender.facts.pop(name, None)
    if recommender.folder is not None:
        shutil.rmtree(recommender.folder / _MODELS, ignore_errors=True)
        _write_config(recommender)
    return names


def read_start(folder: str | os.PathLike[str]) -> tuple[Dataset, SplitConfig]:
    """Return the dataset and the split of a run folder.

    Raises:
        ValueError: If it is none.
    """
    stored = read_config(folder, FORMAT)
    return Dataset.load(Path(folder) / "dataset"), SplitConfig(**stored["split"])


def read_parts(recommender: Recommender) -> None:
    """Read into the recommender all parts its folder has."""
    folder = recommender.folder
    assert folder is not None
    stored = read_config(folder, FORMAT)
    recommender.facts, recommender.seeds = stored["facts"], stored["seeds"]
    recommender.recipes, recommender.weights = stored["recipes"], stored["weights"]
    if (folder / "samples").is_dir():
        samples, config, report = load_samples(folder / "samples", recommender.split.train)
        recommender.samples, recommender.selection = samples, (config, report)
    if (folder / "ids").is_dir():
        recommender.ids = load_ids(folder / "ids")
    if (folder / "baseline").is_dir():
        recommender.baseline = load_ids(folder / "baseline")
    for file in sorted((folder / _MODELS).glob(f"[!.]*/{CONFIG_NAME}")):
        recommender.models.announce(file.parent.name)
        if (file.parent / _INDEX).is_dir():
            recommender.indexes.announce(file.parent.name)


def read_model(recommender: Recommender, name: str) -> AlignedModel:
    """Return an aligned model of the folder."""
    assert recommender.folder is not None
    folder = recommender.folder / _MODELS / name
    backbone, tokenizer = recommender.language_model(
        RARec.language_model_of(folder), of_its_own=RARec.config_of(folder).tune != "none"
    )
    return AlignedModel(
        RARec.from_pretrained(folder, backbone=backbone),
        tokenizer,
        recommender.dataset.titles,
        recommender.ids,
        progress=recommender.progress,
    )


def read_index(recommender: Recommender, name: str) -> ItemIndex:
    """Return the index of an aligned model of the folder."""
    assert recommender.folder is not None
    return ItemIndex.load(recommender.folder / _MODELS / name / _INDEX)


def _start(recommender: Recommender) -> dict[str, Any]:
    return {"data": recommender.dataset.content_hash, "split": asdict(recommender.split_config)}


def _write_config(recommender: Recommender) -> None:
    assert recommender.folder is not None
    values = {
        "format": FORMAT,
        **_start(recommender),
        "facts": recommender.facts,
        "seeds": recommender.seeds,
        "recipes": recommender.recipes,
        "weights": recommender.weights,
    }
    write_text(recommender.folder / CONFIG_NAME, json.dumps(values, indent=2) + "\n")
