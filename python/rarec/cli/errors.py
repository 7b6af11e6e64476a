"""Failures of a command: one line, and an exit code."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import typer
from rich.text import Text

from rarec.cli.printing import errors, in_one_line

# characters of a message that are shown at its beginning and at its end
_BEGINNING, _END = 1500, 500


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
            message = _shortened(in_one_line(str(error).strip()))
            errors.print(Text.assemble(("error:", "red"), " ", message), soft_wrap=True)
            raise typer.Exit(1) from error

    return run


def _shortened(text: str) -> str:
    """Return a text without its middle if it is very long, as a name in it may be."""
    left_out = len(text) - _BEGINNING - _END
    if left_out <= 0:
        return text
    return f"{text[:_BEGINNING]} ({left_out:,} characters left out) {text[-_END:]}"
