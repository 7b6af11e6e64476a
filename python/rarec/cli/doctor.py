"""`rarec doctor`: what this machine has, or whether a run is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rarec.cli.printing import output, say


def doctor(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN]", help="A run folder, of which each file is read and compared."
        ),
    ] = None,
) -> None:
    """Show what this machine has and which implementations will run on it; or examine a run.

    With RUN each file of the run is read to its end and compared with what was written, and it is
    said what is fresh and what is out of date. The command fails if something is damaged.
    """
    # imported here, so that help is shown at once
    if run is None:
        from rarec.cli.machine import examine

        examine(output)
        return
    from rarec.cli.tables import inspection_table
    from rarec.run import RunFolder, inspect_run

    found = list(inspect_run(RunFolder(run)))
    output.print(inspection_table(found, str(run)))
    damaged = [part.damage for part in found if part.damage is not None]
    for damage in damaged:
        say(damage)
    if damaged:
        raise ValueError(f"{run}: {len(damaged)} of {len(found)} parts are damaged")
