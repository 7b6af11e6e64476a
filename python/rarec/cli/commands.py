"""The commands. What is slow to import is imported inside them, so that `--help` is quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rarec.cli import texts
from rarec.cli.application import command, output, quiet_libraries, say, write_json
from rarec.cli.tables import (
    facts_table,
    models_table,
    paired_table,
    recommendations_table,
    results_table,
)

if TYPE_CHECKING:
    from rarec.ids import GivenIDs
    from rarec.recommender import Recommender

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")]
Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Also write what is reported; - for stdout."),
]
Seed = Annotated[int, typer.Option(help="Same seed, same machine: same result.")]


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
    interests: Annotated[int, typer.Option(help="Vectors per user, of comirec.")] = 4,
    fraction: Annotated[float, typer.Option(help="Share of samples to tune on later.")] = 0.1,
    denoise: Annotated[bool, typer.Option(help="Target shares a word with history.")] = False,
    diversify: Annotated[bool, typer.Option(help="Spread over kinds of samples.")] = True,
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
        seed=seed,
        options=options,
    )
    selection = SelectionConfig(
        fraction=fraction, denoise=denoise, diversify=diversify, language=language, seed=seed
    )
    recommender = Recommender.load(run, progress=True)
    given = None
    if vectors is not None and ids is not None:
        given = _read_given(recommender, vectors, ids, user_vectors, user_ids)
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


@command()
def align(
    run: Run,
    llm: Annotated[
        str, typer.Option(help="A folder, all-MiniLM-L6-v2, or a name on the Hugging Face hub.")
    ] = "all-MiniLM-L6-v2",
    revision: Annotated[str | None, typer.Option(help="Of the hub.")] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="default, paper, or a rival: text, top, one-projector, no-prefix, inputs, "
            "project-inputs, lora, full."
        ),
    ] = "default",
    name: Annotated[
        str | None, typer.Option(help="What the model is called; by default as its preset.")
    ] = None,
    text_only: Annotated[
        bool, typer.Option("--text-only", help="No ID vectors: what they are compared with.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of AdamW.")] = None,
    prefix_length: Annotated[int | None, typer.Option(help="Learnable vectors a layer.")] = None,
    layers: Annotated[
        int | None, typer.Option(help="Top layers that take a prefix; by default all.")
    ] = None,
    placement: Annotated[
        str | None, typer.Option(help="layers (a prefix in each) or inputs (before the text).")
    ] = None,
    projector: Annotated[
        str | None,
        typer.Option(help="layers (one of each), shared (one for all) or fixed (raw ID vectors)."),
    ] = None,
    tune: Annotated[
        str | None, typer.Option(help="The language model: none, lora or full.")
    ] = None,
    llm_rate: Annotated[
        float | None, typer.Option(help="Its learning rate, as a multiple of the other.")
    ] = None,
    user_prompt: texts.UserPrompt = None,
    new_user_prompt: texts.NewUserPrompt = None,
    item_prompt: texts.ItemPrompt = None,
    separator: texts.Separator = None,
    titles: texts.Titles = None,
    max_tokens: texts.MaxTokens = None,
    chat: texts.Chat = None,
    system: texts.System = None,
    pooling: texts.Pooling = None,
    alignment: Annotated[float | None, typer.Option(help="Weight of that loss.")] = None,
    extra_negatives: Annotated[int | None, typer.Option(help="Drawn per sample.")] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget the checkpoints of a stopped training.")
    ] = False,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Tune soft prompts of a frozen language model on the chosen samples; make the index."""
    quiet_libraries()
    import shutil

    from rarec.recommender import Recommender, recipe

    config = recipe(preset, llm=llm, llm_revision=revision, pooling=pooling, seed=seed)
    training = {
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    config = replace(
        config,
        model=_changed(
            config.model,
            prefix_length=prefix_length,
            layers=layers,
            placement=placement,
            projector=projector,
            tune=tune,
            llm_rate=llm_rate,
            seed=seed,
        ),
        prompts=_changed(
            config.prompts,
            user=user_prompt,
            new_user=new_user_prompt,
            item=item_prompt,
            separator=separator,
            n_titles=titles,
            max_tokens=max_tokens,
            chat=chat,
            system=system,
        ),
        loss=_changed(config.loss, alignment=alignment, extra_negatives=extra_negatives),
        training={**config.training, **{k: v for k, v in training.items() if v is not None}},
    )
    if text_only:
        config = config.without_ids()
    config = _changed(config, label=name)
    if restart:
        shutil.rmtree(run / "checkpoints" / config.name, ignore_errors=True)
    recommender = Recommender.load(run, progress=True)
    facts = asdict(recommender.align(config))
    output.print(facts_table(facts, f"{run}/models/{config.name}"))
    write_json(facts, json_file)


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
def compare(
    run: Run,
    rivals: Annotated[
        str | None, typer.Option(help="Names of recipes, with commas; by default all.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="With commas: a whole run for each.")] = "0,1,2",
    steps: Annotated[int, typer.Option(help="Optimiser steps, the same for all.")] = 120,
    batch_size: Annotated[int, typer.Option(help="Samples per step.")] = 64,
    llm: Annotated[
        str, typer.Option(help="A folder, all-MiniLM-L6-v2, or a name on the Hugging Face hub.")
    ] = "all-MiniLM-L6-v2",
    part: Annotated[str, typer.Option(help="test or validation.")] = "test",
    output_folder: Annotated[
        Path | None, typer.Option("--output", help="Where; by default RUN/compare.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Train rivals with the same budget and seeds, and put them into one table.

    The rivals: text, paper, top, one-projector, no-prefix, inputs, project-inputs, lora, full,
    beside default, the ID model and popularity. Samples are chosen and the ID model is trained anew
    for each seed, as they were in RUN. Goes on where it was stopped.
    """
    quiet_libraries()
    from rarec.compare import CompareConfig, markdown
    from rarec.compare import compare as run_comparison
    from rarec.recommender import Recommender

    if not all(part.strip().isdecimal() for part in seeds.split(",")):
        raise ValueError(f"expected seeds as whole numbers with commas, got {seeds!r}")
    config = CompareConfig(
        seeds=tuple(int(part) for part in seeds.split(",")),
        steps=steps,
        batch_size=batch_size,
        align={"llm": llm},
        **({} if rivals is None else {"rivals": tuple(n.strip() for n in rivals.split(","))}),
    )
    recommender = Recommender.load(run, progress=True)
    results = run_comparison(recommender, config, folder=output_folder, part=part, say=say)
    output.print(markdown(results), markup=False, soft_wrap=True)
    say(f"written: {output_folder or run / 'compare'}/results.md, results.json, protocol.json")
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
    json_file: Json = None,
) -> None:
    """Recommend to a known user, or to a history given as item ids or titles."""
    quiet_libraries()
    if not (user or item or title or new_user):
        raise ValueError("expected one of --user, --item, --title and --new-user, got none")
    from rarec.recommender import Recommender

    recommender = Recommender.load(run)
    found = recommender.recommend(
        user, items=item or (), titles=title or (), k=k, exclude_seen=exclude_seen, model=model
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


def _changed(config: Any, **changes: Any) -> Any:
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(config, **given)


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
