"""`rarec study`: many settings on several datasets and seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rarec.cli.options import Json, Restart, Wait
from rarec.cli.printing import output, say, write_json
from rarec.progress import quiet_libraries


def study(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Study file; docs/studies has examples.")
    ],
    folder: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the results; by default runs/NAME."),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH", help="Place of a dataset of the file. It can be repeated."
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Variants and ID models to run, with commas; * stands for any letters, unless a "
            "name has it.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Datasets to run on, with commas.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(help="Number of processes at once; 0 only reports what is there.")
    ] = 1,
    restart: Restart = False,
    wait: Wait = False,
    json_file: Json = None,
) -> None:
    """Try many settings on several datasets and seeds, each compared with one reference.

    A study file names datasets, base settings and their changes. Each variant is ranked on the
    whole catalogue, alone and fused with the ID model. A study that was stopped goes on, and what
    has a result is not run again.
    """
    quiet_libraries()
    import json

    from rarec.study import data_names, read_study, run_study

    sources = dict(_named_place(text, data_names(file)) for text in source or ())
    planned = read_study(file, sources=sources, data=None if data is None else names_in(data))
    folder = folder or Path("runs") / file.stem
    results = run_study(
        planned,
        folder,
        only=None if only is None else names_in(only),
        jobs=jobs,
        say=say,
        progress=jobs == 1,
        restart=restart,
        wait=wait,
    )
    print_study_results(results, folder)
    together = folder / "results.json"
    say(f"The results of all datasets together are in {together}.")
    write_json(json.loads(together.read_text(encoding="utf-8")), json_file)


def print_study_results(results: Mapping[str, Any], folder: Path) -> None:
    """Print the table of each dataset of a study."""
    from rarec.study import markdown

    for name, found in results.items():
        output.print(f"\n{name}\n")
        output.print(markdown(found), soft_wrap=True)
        say(f"The results are in {folder / name}.")


def _named_place(text: str, names: Iterable[str]) -> tuple[str, str]:
    """Return the name and the path of `NAME=PATH`; both may have a `=` in them."""
    name, separator, _ = text.partition("=")
    if not separator:
        raise ValueError(f"expected --source NAME=PATH, got {text!r}")
    known = [one for one in names if text.startswith(f"{one}=")]
    longest = max(known, key=len, default=name)
    return longest, text[len(longest) + 1 :]


def names_in(text: str) -> list[str]:
    """Return the names in a text with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
