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

    A signal that stops the command is left to `rarec.cli.main`.

    Args:
        command: A function that raises `ValueError` or `OSError` if it fails.
    """

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except (ValueError, OSError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            errors.print(f"[red]error:[/red] {escape(' '.join(lines))}", soft_wrap=True)
            raise typer.Exit(1) from error

    return run
