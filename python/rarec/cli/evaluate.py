"""`rarec evaluate`: the results of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from rarec.cli.options import Json, Restart, Run, Wait
from rarec.cli.printing import output, say, write_json
from rarec.cli.tables import results_tables
from rarec.progress import quiet_libraries


def evaluate(
    run: Run,
    part: Annotated[
        str, typer.Option(metavar="test|validation", help="Part of the data.")
    ] = "test",
    bootstrap: Annotated[
        int, typer.Option(help="Number of resamples of the confidence intervals.")
    ] = 1000,
    restart: Restart = False,
    wait: Wait = False,
    json_file: Json = None,
) -> None:
    """Rank the whole catalogue for each user, and show everything that was fitted in one table.

    The results, the protocol (how the numbers were made) and all ranks are written into the run
    folder.
    """
    quiet_libraries()
    from rarec.recommender import Recommender

    recommender = Recommender.open(run, progress=True, say=say, wait=wait)
    results = recommender.evaluate(part, n_bootstrap=bootstrap, restart=restart)
    for table in results_tables(results):
        output.print(table)
    say(f"The results are in {run}/results/{part}.")
    write_json(results, json_file)
