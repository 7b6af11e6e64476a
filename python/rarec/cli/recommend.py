"""`rarec recommend`: the best items for one user."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from rarec.cli.options import Json, Run, Wait
from rarec.cli.printing import output, say, write_json
from rarec.cli.tables import newest_titles, recommendations_table
from rarec.progress import quiet_libraries


def recommend(
    run: Run,
    user: Annotated[str | None, typer.Option(help="Id of a user of the dataset.")] = None,
    item: Annotated[
        list[str] | None,
        typer.Option(help="Instead, a history: item ids, the oldest first. It can be repeated."),
    ] = None,
    title: Annotated[
        list[str] | None,
        typer.Option(help="Instead, a history: titles, the oldest first. It can be repeated."),
    ] = None,
    new_user: Annotated[
        bool, typer.Option("--new-user", help="Instead, a user without a history.")
    ] = False,
    k: Annotated[int, typer.Option("-k", help="Number of items.")] = 10,
    exclude_seen: Annotated[bool, typer.Option(help="Leave out the items of the history.")] = True,
    model: Annotated[
        str | None,
        typer.Option(
            help="Name of the aligned model that answers; by default rarec, or the only one."
        ),
    ] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Do not add the score of the ID model.")
    ] = False,
    wait: Wait = False,
    json_file: Json = None,
) -> None:
    """Recommend items to a known user, or for a history that is given as item ids or titles."""
    if not (user or item or title or new_user):
        raise ValueError("expected one of --user, --item, --title and --new-user, got none")
    quiet_libraries()
    from rarec.recommender import Recommender

    recommender = Recommender.open(run, say=say, wait=wait)
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
        say(newest_titles(recommender.dataset, user))
    output.print(recommendations_table(found, user))
    write_json([asdict(one) for one in found], json_file)
