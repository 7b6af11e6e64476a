"""Studies of many settings."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

import typer

from rarec.cli.application import command, output, say, write_json
from rarec.cli.options import Json
from rarec.progress import quiet_libraries


@command()
def study(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A study file, see docs/studies.")],
    folder: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where; by default runs/NAME.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(help="Where a dataset of the file is: NAME=PATH; can be repeated."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="Variants and ID models to run, with commas; * stands for anything."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Datasets to run on, with commas.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes at once; 0 only reports what is there.")] = 1,
    json_file: Json = None,
) -> None:
    """Try many settings on several datasets and seeds, each against one reference.

    A file names datasets, a base and what is changed of it. Everything is ranked exactly, alone and
    fused with the ID model. Goes on where it was stopped: what has a result is not run again.
    """
    quiet_libraries()
    import json

    from rarec.study import markdown, read_study, run_study

    sources = {}
    for one in source or ():
        name, separator, path = one.partition("=")
        if not separator:
            raise ValueError(f"expected --source NAME=PATH, got {one!r}")
        sources[name] = path
    plan = read_study(file, sources=sources, data=None if data is None else _names(data))
    patterns = ["*"] if only is None else _names(only)
    folder = folder or Path("runs") / file.stem
    results = run_study(
        plan,
        folder,
        only=lambda name: any(fnmatch(name, pattern) for pattern in patterns),
        jobs=jobs,
        say=say,
    )
    for name, found in results.items():
        output.print(f"\n{name}\n", markup=False)
        output.print(markdown(found), markup=False, soft_wrap=True)
        say(f"written: {folder / name}/results.md, results.json, protocol.json")
    together = folder / "results.json"
    say(f"written: {together}, all datasets together")
    write_json(json.loads(together.read_text(encoding="utf-8")), json_file)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
