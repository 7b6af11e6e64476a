"""Failures of a command: one line, and an exit code."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import typer
from rich.markup import escape

from rarec.cli.printing import errors


def failing_in_one_line(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that says in one line what went wrong, and ends with exit code 1.

    A command that is stopped with Ctrl-C says that it can go on, and ends with exit code 130.

    Args:
        command: A function that raises `ValueError` or `OSError` if it fails.
    """

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            errors.print("The step was stopped. The same command goes on from here.")
            raise typer.Exit(130) from None
        except (ValueError, OSError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            errors.print(f"[red]error:[/red] {escape(' '.join(lines))}", soft_wrap=True)
            raise typer.Exit(1) from error

    return run
