"""The application: one command a step, one line for what went wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

app = typer.Typer(
    name="rarec",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=(
        "Give a frozen language model the collaborative knowledge of an ID-based recommender "
        "(RA-Rec, arXiv:2402.04527).\n\n"
        "The steps write into one run folder, in this order: [bold]prepare[/bold] (files to "
        "histories), [bold]fit-ids[/bold] (ID embeddings), [bold]align[/bold] (the language "
        "model), [bold]evaluate[/bold] (exact full-catalogue ranking), [bold]recommend[/bold]. "
        "A step that was stopped goes on where it was when it is called again. "
        "[bold]demo[/bold] does all of it on MovieLens-100K."
    ),
)
output = Console()
errors = Console(stderr=True)


def main() -> None:
    """Run the command line."""
    # imported here: registers the commands
    from rarec.cli import commands

    del commands
    app()


def command(name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that makes a function a command whose failures are one line."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def run(*arguments: Any, **options: Any) -> None:
            try:
                function(*arguments, **options)
            except KeyboardInterrupt:
                errors.print("stopped; the same command goes on from here")
                raise typer.Exit(130) from None
            except (ValueError, OSError) as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                errors.print(f"[red]error:[/red] {escape(' '.join(lines))}", soft_wrap=True)
                raise typer.Exit(1) from error

        return app.command(name)(run)

    return register


def say(text: str) -> None:
    """Print a line of what is done."""
    errors.print(escape(text), soft_wrap=True)


def write_json(values: Any, file: Path | None) -> None:
    """Write values to a file, whole or not at all; `-` is standard output."""
    if file is None:
        return
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    if str(file) == "-":
        sys.stdout.write(text)
        return
    from rarec.artifacts import write_text

    write_text(file, text)
