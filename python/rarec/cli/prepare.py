"""`rarec prepare`: from files to the data of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from rarec.cli.options import Assignments, Json, Wait, given_values, setting
from rarec.cli.printing import output, say, write_json
from rarec.cli.tables import measurements_table
from rarec.settings import PrepareSettings, with_values


def prepare(
    interactions: Annotated[
        str,
        typer.Argument(
            help="A folder or a file (RecBole .inter, MovieLens ratings.dat or ratings.csv, csv, "
            "csv.gz, parquet), a pattern of files, or the name of a public dataset: ml-100k. "
            "A file that is there is taken as it is called; ./ml-100k is a path."
        ),
    ],
    run: Annotated[Path, typer.Option("--output", "-o", help="Run folder that is made.")],
    items: Annotated[Path | None, typer.Argument(help="File with the titles of the items.")] = None,
    file_format: Annotated[str | None, setting(PrepareSettings, "format", "--format")] = None,
    user_column: Annotated[str | None, setting(PrepareSettings, "columns.user")] = None,
    item_column: Annotated[str | None, setting(PrepareSettings, "columns.item")] = None,
    time_column: Annotated[str | None, setting(PrepareSettings, "columns.timestamp")] = None,
    text_column: Annotated[
        list[str] | None, setting(PrepareSettings, "columns.text", metavar="NAME")
    ] = None,
    min_user: Annotated[int | None, setting(PrepareSettings, "read.min_user_interactions")] = None,
    min_item: Annotated[int | None, setting(PrepareSettings, "read.min_item_interactions")] = None,
    split: Annotated[str | None, setting(PrepareSettings, "split.kind")] = None,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart", help="Remove the run that is there, with all it holds, and begin again."
        ),
    ] = False,
    wait: Wait = False,
    glob: Annotated[
        bool,
        typer.Option(
            "--glob", help="Read INTERACTIONS as a pattern, even if there is such a file."
        ),
    ] = False,
    assignments: Assignments = None,
    json_file: Json = None,
) -> None:
    """Read interactions and titles, report what is unusual, split them, and make a run folder.

    Ids stay text. Histories are in the order of time, then of the file. The files that match a
    pattern are read as one, sorted by name.
    """
    from rarec.assets import fetch, is_public_dataset
    from rarec.data import read_dataset
    from rarec.run import RunFolder

    flags = {
        "format": file_format,
        "columns.user": user_column,
        "columns.item": item_column,
        "columns.timestamp": time_column,
        "columns.text": text_column,
        "read.min_user_interactions": min_user,
        "read.min_item_interactions": min_item,
        "split.kind": split,
    }
    settings = with_values(PrepareSettings(), given_values(flags, assignments))
    is_public = is_public_dataset(interactions) and not glob
    source = fetch(interactions) if is_public else Path(interactions)
    dataset = read_dataset(
        source,
        items,
        format=settings.format,
        glob=glob,
        columns=settings.columns,
        options=settings.read,
    )
    is_there = RunFolder.exists(run) and not restart
    prepared = RunFolder.create(run, dataset, settings.split, restart=restart, wait=wait)
    say(f"the public dataset {interactions}, from {source}" if is_public else f"from {source}")
    if is_public and os.path.lexists(interactions):
        say(f"{interactions} of this folder is not read; write ./{interactions} to read it")
    for line in dataset.report.lines():
        say(line)
    say(f"split: {prepared.split.description['rule']}")
    if is_there:
        say(f"{run} is a run of the same data already. It stays as it is and goes on.")
    counts = {
        "users": dataset.n_users,
        "items": dataset.n_items,
        "interactions": len(dataset.histories.items),
        "training interactions": len(prepared.split.train.items),
        "validation cases": len(prepared.split.validation),
        "test cases": len(prepared.split.test),
    }
    output.print(measurements_table({"": counts}, str(run)))
    report = dataset.report.as_dict()
    reported = {"source": str(source), "report": report, "data_hash": dataset.content_hash}
    write_json({**counts, **reported}, json_file)
