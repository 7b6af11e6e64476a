"""Progress bars in the terminal, and the log levels of the libraries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# standard error, so that standard output has only the result of a command
# without markup and emoji: brackets and colons in a name are what they are
console = Console(stderr=True, markup=False, emoji=False)


@contextmanager
def progress_bar(
    title: str, total: int, *, shown: bool = True, done: int = 0
) -> Iterator[Callable[..., None]]:
    """Yield a function `advance(n=1, note=None)` that moves a progress bar by `n` steps.

    A `note` replaces the text after the bar; None keeps it.

    Args:
        title: Text before the bar.
        total: Number of steps.
        shown: Whether the bar is shown.
        done: Number of steps that are already done.
    """
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        disable=not shown,
    )
    with bar:
        task = bar.add_task(title, total=total, completed=done, note="")

        def advance(n: int = 1, note: str | None = None) -> None:
            bar.advance(task, n)
            if note is not None:
                bar.update(task, note=note)

        yield advance


def quiet_libraries() -> None:
    """Turn off the progress bars and warnings of transformers and a warning of torch."""
    # imported here because the import takes seconds
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # transformers imports torchao if it is installed, and some versions use a deprecated function
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
