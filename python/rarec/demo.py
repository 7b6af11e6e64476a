"""The demonstration: MovieLens-100K and MiniLM, from the data to a table and recommendations."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rarec.assets import fetch
from rarec.data import read_dataset
from rarec.recommender import Recommender
from rarec.run import RunFolder
from rarec.settings import AlignSettings, IDSettings, TrainingSettings

FOLDER = "runs/demo"
# the limit keeps the two trainings within a few minutes, and neither gets better after it
IDS = IDSettings(max_epochs=60)
# a few steps show that an installation works; they say nothing about quality
QUICK_IDS = IDSettings(max_epochs=2)
QUICK_TRAINING = TrainingSettings(max_steps=4, save_steps=2)


def run_demo(
    folder: str | os.PathLike[str] = FOLDER,
    *,
    settings: AlignSettings | None = None,
    restart: bool = False,
    quick: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> tuple[Recommender, dict[str, Any]]:
    """Return the recommender and its results. Steps that are done already are not done again.

    Args:
        folder: The run folder.
        settings: Settings of the alignment, also of the one without ID vectors.
        restart: Remove a run that is in the folder, and begin again.
        quick: Take a few training steps only; the numbers mean nothing.
        progress: Whether bars are shown.
        say: Function that is given each message about what is done.

    Raises:
        ValueError: If the folder has a run of other data or of other settings and no restart. A
            quick run and a full run have different settings.
    """
    if restart and RunFolder.exists(folder):
        # what a symbolic link leads to, and not the link
        shutil.rmtree(os.path.realpath(folder))
    settings = settings or AlignSettings()
    if quick:
        settings = replace(settings, training=QUICK_TRAINING)

    def detail(text: str) -> None:
        say(f"   {text}")

    say("1. data: MovieLens-100K")
    dataset = read_dataset(fetch("ml-100k"))
    for line in dataset.report.lines():
        detail(line)
    recommender = Recommender(dataset, folder=folder, progress=progress, say=detail)

    say("2. tuning samples: chosen before anything is trained")
    detail(recommender.select().summary())

    say("3. ID model: once with those samples held out (for the language model), once on all")
    for part, found in recommender.fit_ids(QUICK_IDS if quick else IDS).items():
        detail(f"{part}: {found['epochs']} epochs, {found['seconds']:.0f} s")

    for step, aligned, what in (
        (4, settings.without_ids(), "text only: the same language model and budget, no ID vectors"),
        (5, settings, "RA-Rec: ID vectors as soft prompts in the top layers"),
    ):
        say(f"{step}. {what}")
        report = recommender.align(aligned)
        detail(
            f"{report.steps} steps, {report.trainable_parameters:,} trained parameters, "
            f"{report.seconds:.0f} s"
        )
    say("6. evaluation: every item of the catalogue is ranked for every user")
    return recommender, recommender.evaluate()
