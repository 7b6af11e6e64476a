"""What a run answers: numbers and recommendations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rarec.cli.application import command, output, say, write_json
from rarec.cli.options import Json, Run
from rarec.cli.tables import (
    models_table,
    paired_table,
    recommendations_table,
    results_table,
)
from rarec.progress import quiet_libraries

if TYPE_CHECKING:
    from rarec.recommender import Recommender


@command()
def demo(
    run: Annotated[Path, typer.Option("--output", help="The run folder.")] = Path("runs/demo"),
    user: Annotated[str, typer.Option(help="Whom to recommend to at the end.")] = "42",
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove an earlier run first.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few steps of everything: does it work at all?")
    ] = False,
    json_file: Json = None,
) -> None:
    """Do the whole path on MovieLens-100K and MiniLM: table, recommendations, files.

    Takes about ten minutes on two cores, and goes on where it was stopped.
    """
    quiet_libraries()
    from rarec.demo import run_demo

    recommender, results = run_demo(run, fresh=fresh, quick=quick, say=say)
    _print_results(results)
    _print_history(recommender, user)
    output.print(recommendations_table(recommender.recommend(user), f"next for user {user}"))
    _print_contents(run)
    write_json(results, json_file)


@command()
def evaluate(
    run: Run,
    part: Annotated[str, typer.Option(help="test or validation.")] = "test",
    bootstrap: Annotated[int, typer.Option(help="Resamples of the intervals.")] = 1000,
    json_file: Json = None,
) -> None:
    """Rank the whole catalogue for each user; one table of all that was fitted.

    Writes results.json and protocol.json (how the numbers were made) into the run folder.
    """
    quiet_libraries()
    from rarec.recommender import Recommender

    results = Recommender.load(run, progress=True).evaluate(part, n_bootstrap=bootstrap)
    _print_results(results)
    say(f"written: {run}/results.json, {run}/protocol.json")
    write_json(results, json_file)


@command()
def recommend(
    run: Run,
    user: Annotated[str | None, typer.Option(help="Id of a user of the dataset.")] = None,
    item: Annotated[
        list[str] | None, typer.Option(help="Instead, a history: item ids, oldest first.")
    ] = None,
    title: Annotated[
        list[str] | None, typer.Option(help="Instead, a history: titles, oldest first.")
    ] = None,
    new_user: Annotated[
        bool, typer.Option("--new-user", help="Instead, somebody without a history.")
    ] = False,
    k: Annotated[int, typer.Option("-k", help="Number of items.")] = 10,
    exclude_seen: Annotated[bool, typer.Option(help="Leave out the history's items.")] = True,
    model: Annotated[
        str | None, typer.Option(help="Which aligned model; by default rarec, or the only one.")
    ] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Without the score of the ID model.")
    ] = False,
    json_file: Json = None,
) -> None:
    """Recommend to a known user, or to a history given as item ids or titles."""
    quiet_libraries()
    if not (user or item or title or new_user):
        raise ValueError("expected one of --user, --item, --title and --new-user, got none")
    from rarec.recommender import Recommender

    recommender = Recommender.load(run)
    found = recommender.recommend(
        user,
        items=item or (),
        titles=title or (),
        k=k,
        exclude_seen=exclude_seen,
        model=model,
        fused=not alone,
    )
    if user:
        _print_history(recommender, user)
    output.print(recommendations_table(found, f"next for user {user}" if user else "next"))
    write_json([asdict(one) for one in found], json_file)


@command()
def doctor() -> None:
    """Say what this machine has, and what will run where, and why."""
    from rarec.cli.doctor import examine

    examine(output)


def _print_results(results: Mapping[str, Any]) -> None:
    output.print(results_table(results))
    if results["paired"]:
        output.print(paired_table(results))
    output.print(models_table(results))


def _print_history(recommender: Recommender, user: str) -> None:
    history = recommender.dataset.histories[recommender.dataset.user_number(user)]
    titles = [recommender.dataset.titles[item] or "(no title)" for item in history[-5:]]
    say(f"user {user}, {len(history)} items; the newest: {'; '.join(reversed(titles))}")


def _print_contents(run: Path) -> None:
    say(f"left in {run}:")
    for path in sorted(run.iterdir()):
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files) / 2**20
        say(f"  {path.name + ('/' if path.is_dir() else ''):16} {size:8.2f} MB")
