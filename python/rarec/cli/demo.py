"""`rarec demo`: all steps on MovieLens-100K."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rarec.cli.options import Json, Wait
from rarec.cli.printing import output, say, write_json
from rarec.cli.tables import newest_titles, recommendations_table, results_tables
from rarec.progress import quiet_libraries


def demo(
    run: Annotated[Path, typer.Option("--output", "-o", help="The run folder.")] = Path(
        "runs/demo"
    ),
    user: Annotated[str, typer.Option(help="Id of the user of the recommendations.")] = "42",
    restart: Annotated[
        bool, typer.Option("--restart", help="Remove an earlier run, and begin again.")
    ] = False,
    wait: Wait = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Take a few training steps only. It shows whether the installation works; the "
            "numbers mean nothing.",
        ),
    ] = False,
    json_file: Json = None,
) -> None:
    """Do all steps on MovieLens-100K with MiniLM, and show a table, recommendations and files.

    It takes about ten minutes on two cores. A demonstration that was stopped goes on.
    """
    quiet_libraries()
    from rarec.demo import run_demo

    recommender, results = run_demo(run, restart=restart, quick=quick, say=say, wait=wait)
    for table in results_tables(results):
        output.print(table)
    say(newest_titles(recommender.dataset, user))
    output.print(recommendations_table(recommender.recommend(user), user))
    say(f"The run is in {run}:")
    for name, size in recommender.run.size_of_contents().items():
        say(f"  {name:16} {size / 2**20:8.2f} MB")
    write_json(results, json_file)
