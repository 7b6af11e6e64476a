"""`rarec compare`: variants of the method and baselines in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rarec.cli.options import Json, Restart, Run, Wait, setting
from rarec.cli.printing import say, write_json
from rarec.cli.study import names_in, print_study_results
from rarec.progress import quiet_libraries
from rarec.settings import VARIANTS, AlignSettings


def compare(
    run: Run,
    variants: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help=f"Names of variants with commas; by default all: {', '.join(VARIANTS)}.",
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="NUMBERS", help="Seeds with commas. Each one is a whole run.")
    ] = "0,1,2",
    steps: Annotated[int | None, setting(AlignSettings, "training.max_steps")] = None,
    batch_size: Annotated[
        int | None, setting(AlignSettings, "training.per_device_train_batch_size")
    ] = None,
    llm: Annotated[str | None, setting(AlignSettings, "llm")] = None,
    part: Annotated[
        str, typer.Option(metavar="test|validation", help="Part of the data.")
    ] = "test",
    folder: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the results; by default RUN/compare."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Number of processes at once.")] = 1,
    restart: Restart = False,
    wait: Wait = False,
    json_file: Json = None,
) -> None:
    """Train variants and baselines with the same budget and seeds, and show them in one table.

    For each seed the samples are chosen and the ID model is trained again, as they were in RUN. A
    comparison that was stopped goes on.
    """
    numbers = names_in(seeds)
    if not all(number.isdecimal() for number in numbers):
        raise ValueError(f"expected seeds as whole numbers with commas, got {seeds!r}")
    quiet_libraries()
    from rarec.study import compare_study, run_study

    study = compare_study(
        run,
        variants=None if variants is None else names_in(variants),
        seeds=tuple(int(number) for number in numbers),
        steps=steps,
        batch_size=batch_size,
        llm=llm,
        part=part,
    )
    folder = folder or run / "compare"
    results: dict[str, Any] = run_study(
        study, folder, jobs=jobs, say=say, progress=jobs == 1, restart=restart, wait=wait
    )
    print_study_results(results, folder)
    write_json(next(iter(results.values())), json_file)
