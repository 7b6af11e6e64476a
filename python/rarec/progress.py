"""What a terminal shows while long work runs."""

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

# standard error: what a command prints as its result stays clean
console = Console(stderr=True)


@contextmanager
def progress_bar(
    title: str, total: int, *, shown: bool = True, done: int = 0
) -> Iterator[Callable[..., None]]:
    """Yield a function that moves a bar: `advance(n=1, note="")`.

    Args:
        title: Stands before the bar.
        total: Number of pieces of work.
        shown: False shows nothing.
        done: Pieces already done.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
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
    """Keep transformers and torch to themselves: the bars and messages here say what matters."""
    # imported here: it takes seconds
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # some versions of torchao, which transformers imports where it is there, use what is deprecated
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
