"""The demonstration: MovieLens-100K and MiniLM, from nothing to a table and recommendations."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rarec.assets import fetch
from rarec.data import read_dataset
from rarec.recommender import AlignConfig, Recommender, id_recipe

FOLDER = "runs/demo"
# the limit keeps the two trainings within a few minutes; neither is better after it
IDS = id_recipe(max_epochs=60)
# a few steps of everything: shows that an installation works, and says nothing about quality
QUICK_IDS = id_recipe(max_epochs=2)
QUICK_TRAINING = {"max_steps": 4, "save_steps": 2}


def run_demo(
    folder: str | os.PathLike[str] = FOLDER,
    *,
    config: AlignConfig | None = None,
    fresh: bool = False,
    quick: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> tuple[Recommender, dict[str, Any]]:
    """Return the recommender and its results; steps that were done before are not done again.

    Args:
        folder: The run folder.
        config: The recipe of the language model, also of the one without IDs.
        fresh: Start anew: a run that is there is removed.
        quick: A few steps of everything; the numbers mean nothing.
        progress: Show bars.
        say: Told in words what is done.
    """
    if fresh and (Path(folder) / "config.json").exists():
        shutil.rmtree(folder)
    config = config or AlignConfig()
    if quick:
        config = replace(config, training=QUICK_TRAINING)
    say("1. data: MovieLens-100K")
    dataset = read_dataset(fetch("ml-100k"))
    for line in dataset.report.lines():
        say(f"   {line}")
    if (Path(folder) / "config.json").exists():
        recommender = Recommender.load(folder, progress=progress)
        if recommender.dataset.content_hash != dataset.content_hash:
            raise ValueError(f"{folder}: expected a run on ml-100k, got another; use --fresh")
    else:
        recommender = Recommender(dataset, folder=folder, progress=progress)

    say("2. tuning samples: chosen before anything is trained")
    if recommender.selection is None:
        recommender.select()
    assert recommender.selection is not None
    say(f"   {recommender.selection[1].summary()}")

    say("3. ID model: once with those samples held out (for the language model), once on all")
    if recommender.ids is None or recommender.baseline is None:
        recommender.fit_ids(QUICK_IDS if quick else IDS)
    else:
        say("   there already")

    for step, recipe, what in (
        (4, config.without_ids(), "text only: the same language model and budget, no ID vectors"),
        (5, config, "RA-Rec: ID vectors as soft prompts in the top layers"),
    ):
        say(f"{step}. {what}")
        if recipe.name in recommender.models:
            say("   there already")
            continue
        report = recommender.align(recipe)
        say(
            f"   {report.steps} steps, {report.trainable_parameters:,} trained parameters, "
            f"{report.seconds:.0f} s"
        )
    say("6. evaluation: every item of the catalogue is ranked for every user")
    return recommender, recommender.evaluate()
