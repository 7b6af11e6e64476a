"""The application `rarec`, with one command for each step."""

from __future__ import annotations

from collections.abc import Callable

import typer

from rarec.cli.align import EXAMPLES, align
from rarec.cli.compare import compare
from rarec.cli.demo import demo
from rarec.cli.doctor import doctor
from rarec.cli.errors import failing_in_one_line
from rarec.cli.evaluate import evaluate
from rarec.cli.fit_ids import fit_ids
from rarec.cli.prepare import prepare
from rarec.cli.printing import print_any_text
from rarec.cli.recommend import recommend
from rarec.cli.study import study

app = typer.Typer(
    name="rarec",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=(
        "Give a frozen language model the collaborative knowledge of an ID-based recommender "
        "(RA-Rec, arXiv:2402.04527).\n\n"
        "The steps write into one run folder, in this order: [bold]prepare[/bold] (files to "
        "histories), [bold]fit-ids[/bold] (ID vectors), [bold]align[/bold] (the language model), "
        "[bold]evaluate[/bold] (ranks of the whole catalogue), [bold]recommend[/bold]. A step "
        "that was stopped goes on when it is called again. [bold]demo[/bold] does all steps on "
        "MovieLens-100K."
    ),
)
# in the order of `rarec --help`
_COMMANDS: tuple[Callable[..., None], ...] = (
    *(prepare, fit_ids, align, evaluate, recommend),
    *(compare, study, demo, doctor),
)
for _command in _COMMANDS:
    _epilogue = EXAMPLES if _command is align else None
    app.command(epilog=_epilogue)(failing_in_one_line(_command))


def run() -> None:
    """Run the command line."""
    print_any_text()
    # arguments are literal: on Windows, patterns and ~ in them would be expanded
    app(windows_expand_args=False)
