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
from rarec.model import RARec
from rarec.recommender.aligned import AlignedModel
from rarec.recommender.configs import SplitConfig
from rarec.recommender.samples import load_samples, save_samples

if TYPE_CHECKING:
    from rarec.recommender.recommender import Recommender

FORMAT = "rarec.run/1"
MODELS = ("rarec", "text")
PARTS = ("samples", "ids", "baseline", *MODELS, "index")


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
    elif part in recommender.models:
        model = recommender.models[part].model
        model.save_pretrained(target, ids="../ids" if model.model_config.use_ids else None)
    elif part == "index" and recommender.index is not None:
        recommender.index.save(target)
    _write_config(recommender)


def has_part(recommender: Recommender, part: str) -> bool:
    """Return whether a part has been made, in memory or in the folder."""
    folder = recommender.folder
    return (
        part in recommender.models
        or (part not in MODELS and getattr(recommender, part) is not None)
        or (folder is not None and (folder / part).is_dir())
    )


def remove_part(recommender: Recommender, part: str) -> None:
    """Remove a part from memory, and from the folder."""
    if part in MODELS:
        recommender.models.pop(part, None)
        recommender.facts.pop(part, None)
    else:
        setattr(recommender, part, None)
    if recommender.folder is not None:
        shutil.rmtree(recommender.folder / part, ignore_errors=True)
        _write_config(recommender)


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
    if (folder / "samples").is_dir():
        samples, config, report = load_samples(folder / "samples", recommender.split.train)
        recommender.samples, recommender.selection = samples, (config, report)
    if (folder / "ids").is_dir():
        recommender.ids = load_ids(folder / "ids")
    if (folder / "baseline").is_dir():
        recommender.baseline = load_ids(folder / "baseline")
    for name in MODELS:
        if (folder / name).is_dir():
            recommender.models[name] = _read_model(recommender, folder / name)
    if (folder / "index").is_dir():
        recommender.index = ItemIndex.load(folder / "index")


def _read_model(recommender: Recommender, folder: Path) -> AlignedModel:
    backbone, tokenizer = recommender.language_model(*RARec.language_model_of(folder))
    return AlignedModel(
        RARec.from_pretrained(folder, backbone=backbone),
        tokenizer,
        recommender.dataset.titles,
        recommender.ids,
        progress=recommender.progress,
    )


def _start(recommender: Recommender) -> dict[str, Any]:
    return {"data": recommender.dataset.content_hash, "split": asdict(recommender.split_config)}


def _write_config(recommender: Recommender) -> None:
    assert recommender.folder is not None
    values = {
        "format": FORMAT,
        **_start(recommender),
        "facts": recommender.facts,
        "seeds": recommender.seeds,
    }
    write_text(recommender.folder / CONFIG_NAME, json.dumps(values, indent=2) + "\n")
