"""From files to histories and ID embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rarec.cli.application import command, output, say, write_json
from rarec.cli.options import Json, Run, Seed
from rarec.cli.tables import facts_table
from rarec.progress import quiet_libraries

if TYPE_CHECKING:
    from rarec.ids import GivenIDs
    from rarec.recommender import Recommender


@command()
def prepare(
    interactions: Annotated[
        str,
        typer.Argument(
            help="A folder or file (RecBole .inter, MovieLens ratings.dat or ratings.csv, csv, "
            "csv.gz, parquet), or the name of a public dataset: ml-100k."
        ),
    ],
    run: Annotated[Path, typer.Option("--output", "-o", help="The run folder to make.")],
    items: Annotated[Path | None, typer.Argument(help="File with the items' titles.")] = None,
    file_format: Annotated[
        str, typer.Option("--format", help="recbole, movielens, table, or auto.")
    ] = "auto",
    user_column: Annotated[str | None, typer.Option(help="Name of the user column.")] = None,
    item_column: Annotated[str | None, typer.Option(help="Name of the item column.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Name of the time column.")] = None,
    rating_column: Annotated[str | None, typer.Option(help="Name of the rating column.")] = None,
    text_column: Annotated[
        list[str] | None, typer.Option(help="Column of the items' texts; repeat to join several.")
    ] = None,
    title_template: Annotated[
        str | None,
        typer.Option(help="Instead, columns in braces: '{title} ({genres})'. Empty ones go out."),
    ] = None,
    min_rating: Annotated[float | None, typer.Option(help="Leave out lower ratings.")] = None,
    min_user: Annotated[int, typer.Option(help="k-core: interactions of a user.")] = 1,
    min_item: Annotated[int, typer.Option(help="k-core: interactions of an item.")] = 1,
    repeats: Annotated[
        str, typer.Option(help="Of a user's interactions with one item: first, last, keep.")
    ] = "first",
    ties: Annotated[str, typer.Option(help="Order at the same time: file or shuffle.")] = "file",
    tie_seed: Annotated[int, typer.Option(help="Seed of the shuffle.")] = 0,
    catalogue: Annotated[
        str, typer.Option(help="Items to rank: interacted, or all that are listed.")
    ] = "interacted",
    split: Annotated[str, typer.Option(help="leave-one-out or time.")] = "leave-one-out",
    json_file: Json = None,
) -> None:
    """Read interactions and titles, say what is odd about them, split them, keep them.

    Ids stay text. Histories are in the order of time, then of the file.
    """
    from rarec.assets import fetch, names
    from rarec.data import Columns, ReadOptions, read_dataset
    from rarec.recommender import Recommender, SplitConfig

    source = fetch(interactions) if interactions in names() else Path(interactions)
    dataset = read_dataset(
        source,
        items,
        format=file_format,
        columns=Columns(
            user=user_column,
            item=item_column,
            timestamp=time_column,
            rating=rating_column,
            text=tuple(text_column or ()),
            title_template=title_template,
        ),
        options=ReadOptions(
            repeats=repeats,
            ties=ties,
            tie_seed=tie_seed,
            catalogue=catalogue,
            min_user_interactions=min_user,
            min_item_interactions=min_item,
            min_rating=min_rating,
        ),
    )
    recommender = Recommender(dataset, split=SplitConfig(kind=split), folder=run)
    for line in dataset.report.lines():
        say(line)
    say(f"split: {recommender.split.description['rule']}")
    facts = {
        "users": dataset.n_users,
        "items": dataset.n_items,
        "interactions": len(dataset.histories.items),
        "training interactions": len(recommender.split.train.items),
        "validation cases": len(recommender.split.validation),
        "test cases": len(recommender.split.test),
    }
    output.print(facts_table(facts, str(run)))
    report = dataset.report.as_dict()
    write_json({**facts, "report": report, "data_hash": dataset.content_hash}, json_file)


@command("fit-ids")
def fit_ids(
    run: Run,
    model: Annotated[str, typer.Option(help="gru4rec, sasrec or comirec.")] = "gru4rec",
    dim: Annotated[int, typer.Option(help="Width of the vectors.")] = 64,
    max_history: Annotated[int, typer.Option(help="Newest items that are read.")] = 50,
    dropout: Annotated[float, typer.Option(help="Share of inputs dropped.")] = 0.3,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 4e-3,
    batch_size: Annotated[int, typer.Option(help="Windows per step.")] = 128,
    max_epochs: Annotated[int, typer.Option(help="Most passes over the histories.")] = 200,
    patience: Annotated[int, typer.Option(help="Epochs without a better NDCG@10.")] = 15,
    negatives: Annotated[int, typer.Option(help="Sampled softmax; 0: over all items.")] = 0,
    shared_negatives: Annotated[
        int, typer.Option(help="Softmax over a batch's targets and so many others; 0: over all.")
    ] = 0,
    interests: Annotated[int, typer.Option(help="Vectors per user, of comirec.")] = 4,
    text: Annotated[
        str, typer.Option(help="Language model whose vectors of titles are read too; '' for none.")
    ] = "all-MiniLM-L6-v2",
    fraction: Annotated[float, typer.Option(help="Share of samples to tune on later.")] = 0.1,
    denoise: Annotated[bool, typer.Option(help="Target shares a word with history.")] = False,
    diversify: Annotated[bool, typer.Option(help="Spread over kinds of samples.")] = False,
    order: Annotated[str, typer.Option(help="Samples: newest first, or random.")] = "newest",
    language: Annotated[str, typer.Option(help="Whose stop words are ignored.")] = "en",
    hold_out: Annotated[bool, typer.Option(help="Keep them out of the ID model's loss.")] = True,
    baseline: Annotated[bool, typer.Option(help="Train a second one on all, to compare.")] = True,
    vectors: Annotated[
        Path | None, typer.Option(help="Bring your own item vectors: .npy or .safetensors.")
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="Their item ids, one a line.")] = None,
    user_vectors: Annotated[Path | None, typer.Option(help="Your own user vectors.")] = None,
    user_ids: Annotated[Path | None, typer.Option(help="Their user ids, one a line.")] = None,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Choose the tuning samples, then train an ID model, or take vectors made elsewhere.

    The samples the language model will be tuned on are left out of the ID model's loss: aligned
    on what the ID model already knows by heart, the language model becomes a copy of it.
    """
    quiet_libraries()
    from rarec.ids import IDConfig
    from rarec.recommender import Recommender
    from rarec.selection import SelectionConfig

    if (vectors is None) != (ids is None) or (user_vectors is None) != (user_ids is None):
        raise ValueError("expected --vectors with --ids, and --user-vectors with --user-ids")
    if user_vectors is not None and vectors is None:
        raise ValueError("expected --vectors and --ids beside --user-vectors")
    options = {"n_interests": interests} if model == "comirec" else {}
    config = IDConfig(
        model=model,
        dim=dim,
        max_history=max_history,
        dropout=dropout,
        learning_rate=learning_rate,
        batch_size=batch_size,
        max_epochs=max_epochs,
        patience=patience,
        negatives=negatives,
        shared_negatives=shared_negatives,
        seed=seed,
        options=options,
        text=text,
    )
    selection = SelectionConfig(
        fraction=fraction,
        denoise=denoise,
        diversify=diversify,
        order=order,
        language=language,
        seed=seed,
    )
    recommender = Recommender.load(run, progress=True)
    given = None
    if vectors is not None and ids is not None:
        given = _read_given(recommender, vectors, ids, user_vectors, user_ids)
    elif text and not any(recommender.dataset.titles):
        raise ValueError(
            'expected items with titles, got none: --text "" trains an ID model without them'
        )
    say(recommender.select(selection).summary())
    if given is not None:
        recommender.use_ids(given)
        say(
            "the tuning samples may have been known to these vectors: tune on interactions "
            "younger than they are, or compare with care"
        )
        facts: dict[str, Any] = {
            "items with a vector": int(given.item_known.sum()),
            "items without": int((~given.item_known).sum()),
            "width": given.item_vectors.shape[1],
        }
    else:
        facts = recommender.fit_ids(config, hold_out=hold_out, baseline=baseline).as_dict()
    output.print(facts_table(facts, f"{run}/ids"))
    write_json(facts, json_file)


def _read_given(
    recommender: Recommender,
    vectors: Path,
    ids: Path,
    user_vectors: Path | None,
    user_ids: Path | None,
) -> GivenIDs:
    from rarec.ids import GivenIDs, read_vectors

    dataset = recommender.dataset
    items = read_vectors(vectors, ids, dataset.item_ids)
    if user_vectors is None or user_ids is None:
        return GivenIDs(*items)
    return GivenIDs(*items, *read_vectors(user_vectors, user_ids, dataset.user_ids))
