"""What variants share: a run folder with samples and ID models, the ID models alone ranked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rarec.artifacts import CONFIG_NAME, read_config, write_text
from rarec.data import Cases, Dataset
from rarec.evaluation import write_ranks
from rarec.ids import IDConfig, TrainedIDs, load_ids
from rarec.recommender import Recommender, ranks_without_model
from rarec.recommender.storage import FORMAT
from rarec.study.files import Configs
from rarec.study.report import RESULT, read_result

# which users are evaluated does not change with the seed of a run
_CASES_SEED = 0
PREFIX = "ids-"


def some_cases(recommender: Recommender, part: str, most: int | None) -> Cases:
    """Return the users that a study evaluates."""
    cases = recommender.split.test if part == "test" else recommender.split.validation
    return cases if most is None else cases.sample(most, seed=_CASES_SEED)


def is_ranked(group: Path, part: str, most: int | None) -> bool:
    """Return whether the ID models of a group are there and have ranked these users."""
    if not (group / RESULT).exists():
        return False
    result = read_result(group)
    return (result["part"], result["cases"]) == (part, most)


def require_same_data(group: Path, dataset: Dataset) -> None:
    """Refuse a group that was made from other data.

    Raises:
        ValueError: If it was; the folder is named.
    """
    if (group / CONFIG_NAME).exists() and not _is_of(group, dataset):
        raise ValueError(
            f"{group}: expected samples and ID models of this data; a study of other data needs "
            f"a folder of its own"
        )


def fit_group(
    group: Path, configs: Configs, dataset: Dataset, part: str, most: int | None, progress: bool
) -> None:
    """Choose samples and fit ID models, unless they are there, and rank with them.

    The ID model of all samples is the same whichever of them are held out of the other one: it is
    taken from another group of the dataset and seed that has it.
    """
    if (group / CONFIG_NAME).exists():
        recommender = Recommender.load(group, progress=progress)
    else:
        recommender = Recommender(dataset, folder=group, progress=progress)
    if recommender.selection is None or recommender.selection[0] != configs.selection:
        recommender.select(configs.selection)
    hold_out = configs.hold_out
    if recommender.ids is None or (hold_out and recommender.baseline is None):
        whole, facts = _of_all_samples(group.parent, configs.ids, dataset)
        if whole is None:
            recommender.fit_ids(configs.ids, hold_out=hold_out)
        else:
            recommender.facts["id"] = facts
            if hold_out:
                recommender.fit_ids(configs.ids, baseline=whole)
            else:
                recommender.use_ids(whole)
    ranks = ranks_without_model(recommender, some_cases(recommender, part, most))
    write_ranks(group, ranks, part)
    known = {name: recommender.facts[name] for name in ranks if name in recommender.facts}
    write_result(group, {"facts": known, "part": part, "cases": most})


def _of_all_samples(
    folder: Path, config: IDConfig, dataset: Dataset
) -> tuple[TrainedIDs | None, dict[str, Any]]:
    """Return the ID model that a finished group has trained on all samples, and its facts."""
    for file in sorted(folder.glob(f"{PREFIX}*/{RESULT}")):
        group = file.parent
        if not _is_of(group, dataset):
            continue
        held_out = (group / "baseline").is_dir()
        ids = load_ids(group / ("baseline" if held_out else "ids"))
        if isinstance(ids, TrainedIDs) and ids.config == config:
            return ids, read_result(group)["facts"]["id"]
    return None, {}


def _is_of(group: Path, dataset: Dataset) -> bool:
    return bool(read_config(group, FORMAT)["data"] == dataset.content_hash)


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write what came out; a folder that has this is done."""
    write_text(folder / RESULT, json.dumps(result, indent=1) + "\n")
