"""The trainings of a comparison: a run folder for each seed, a process for each training.

A process of its own shows how much memory a rival takes, and leaves none behind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rarec.backbone import require_peft
from rarec.compare.report import merge, write_report
from rarec.ids import GivenIDs, IDConfig, IDEmbeddings, TrainedIDs
from rarec.processes import in_process
from rarec.recommender import RECIPES, AlignConfig, Recommender, fused_name, recipe
from rarec.selection import SelectionConfig

REFERENCE = "default"
FOLDER = "compare"
RESULTS = "results.json"


@dataclass(frozen=True)
class CompareConfig:
    """What is compared.

    Attributes:
        rivals: Names of recipes, in the order of their trainings; `default` is always among them.
        seeds: Of samples, ID model, start values, batches: a whole run for each.
        steps: Optimiser steps, the same for all.
        batch_size: Samples of a step.
        align: Changes to every recipe: fields of `AlignConfig` such as `llm`.
    """

    rivals: tuple[str, ...] = tuple(RECIPES)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 120
    batch_size: int = 64
    align: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [name for name in self.rivals if name not in RECIPES]
        if unknown or not self.rivals:
            raise ValueError(f"expected rivals of {list(RECIPES)}, got {unknown or 'none'}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"expected different seeds, at least one, got {list(self.seeds)}")
        # now, and not after an hour of the others
        if any(RECIPES[name].config.model.tune == "lora" for name in self.rivals):
            require_peft()
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(
                f"expected steps and batch_size >= 1, got {self.steps} and {self.batch_size}"
            )

    def recipes(self, seed: int) -> list[AlignConfig]:
        """Return the recipes that are trained with a seed."""
        names = dict.fromkeys((REFERENCE, *self.rivals))
        found = []
        for name in names:
            one = recipe(name, **{**self.align, "seed": seed})
            budget = {"max_steps": self.steps, "per_device_train_batch_size": self.batch_size}
            found.append(
                replace(
                    one,
                    model=replace(one.model, seed=seed),
                    training={**one.training, **budget},
                )
            )
        return found


def compare(
    recommender: Recommender,
    config: CompareConfig | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    part: str = "test",
    n_bootstrap: int = 1000,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Return the results of rivals with the same budget and seeds, and write them.

    Each seed has a run folder, `seed-N`, in which everything is there that a run has; what was done
    before is not done again. Trainings run in processes of their own, so a script that calls this
    needs the usual `if __name__ == "__main__":`.

    Args:
        recommender: Data and split; how samples are chosen and the ID model is trained, if that
            has been done in it (seeds aside), else the defaults. ID vectors made elsewhere are
            taken as they are.
        config: Which rivals, seeds, budget.
        folder: Where everything is written; by default `compare` in the run folder.
        part: `test` or `validation`.
        n_bootstrap: Resamples of the confidence intervals.
        say: Told in words what is done.

    Returns:
        `{"protocol", "rows", "paired"}`, metrics being means over seeds; also written as
        `results.json`, `protocol.json` and `results.md`.

    Raises:
        ValueError: If there is no folder to write to, or a training fails on its input.
    """
    config = config or CompareConfig()
    if folder is None and recommender.folder is None:
        raise ValueError("expected a folder for a recommender that has none, got none")
    folder = Path(folder) if folder is not None else Path(str(recommender.folder)) / FOLDER
    recommender.dataset.require_titles()
    results = []
    for number, seed in enumerate(config.seeds, start=1):
        run = folder / f"seed-{seed}"
        say(f"seed {seed} ({number} of {len(config.seeds)})")
        _prepare(recommender, run, seed)
        done = Recommender.load(run).recipes
        recipes = config.recipes(seed)
        for one in recipes:
            if done.get(one.name) == one.as_dict():
                say(f"  {one.name}: there already")
                continue
            say(f"  {one.name}")
            # made with what was there before: a stop from here on must not leave it
            (run / RESULTS).unlink(missing_ok=True)
            in_process(_align, run, one, recommender.progress)
        names = [one.name for one in recipes]
        before = _evaluated(run, names, part)
        if before is None:
            before = in_process(_evaluate, run, names, part, n_bootstrap, recommender.progress)
        results.append(before)
    merged = merge(
        [folder / f"seed-{seed}" for seed in config.seeds], results, n_bootstrap=n_bootstrap
    )
    write_report(folder, merged)
    return merged


def _prepare(recommender: Recommender, run: Path, seed: int) -> None:
    """Choose samples and fit the ID model of a seed, unless that has been done."""
    if (run / "config.json").exists():
        own = Recommender.load(run, progress=recommender.progress)
    else:
        own = Recommender(
            recommender.dataset,
            split=recommender.split_config,
            folder=run,
            progress=recommender.progress,
        )
    given = recommender.selection
    selection = replace(given[0] if given else SelectionConfig(), seed=seed)
    if own.selection is None or own.selection[0] != selection:
        own.select(selection)
    ids = recommender.ids
    if ids is not None and not isinstance(ids, TrainedIDs):
        if own.ids is None or not _same_vectors(own.ids, ids):
            own.use_ids(ids)
        return
    wanted = replace(ids.config if ids is not None else IDConfig(), seed=seed)
    fitted = isinstance(own.ids, TrainedIDs) and own.ids.config == wanted
    if not fitted or own.baseline is None:
        in_process(_fit_ids, run, wanted, recommender.progress)


def _same_vectors(first: IDEmbeddings, second: IDEmbeddings) -> bool:
    """Return whether both are vectors made elsewhere, and the same ones."""
    if not isinstance(first, GivenIDs) or not isinstance(second, GivenIDs):
        return False
    same = True
    for name in ("item_vectors", "item_known", "user_table", "user_known"):
        one, other = getattr(first, name), getattr(second, name)
        if one is None or other is None:
            same &= one is other
        else:
            # rows that mean nothing may be nan
            same &= np.array_equal(one, other, equal_nan=True)
    return same


def _fit_ids(run: Path, config: IDConfig, progress: bool) -> None:
    Recommender.load(run, progress=progress).fit_ids(config)


def _align(run: Path, config: AlignConfig, progress: bool) -> None:
    Recommender.load(run, progress=progress).align(config)


def _evaluated(run: Path, names: list[str], part: str) -> dict[str, Any] | None:
    """Return the results of a seed if they are there, of these models and this part."""
    try:
        results = json.loads((run / RESULTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    rows = {row["model"] for row in results["rows"]}
    wanted = {row for name in names for row in (name, fused_name(name))}
    models = rows - {"popularity", "id", "id_held_out"}
    return results if models == wanted and results["protocol"]["part"] == part else None


def _evaluate(
    run: Path, names: list[str], part: str, n_bootstrap: int, progress: bool
) -> dict[str, Any]:
    recommender = Recommender.load(run, progress=progress)
    return recommender.evaluate(part, n_bootstrap=n_bootstrap, models=names)
