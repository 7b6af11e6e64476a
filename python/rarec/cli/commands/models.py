"""Language models: aligned, and compared with their rivals."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from rarec.cli import texts
from rarec.cli.application import command, output, say, write_json
from rarec.cli.options import Json, Llm, Run, Seed
from rarec.cli.tables import facts_table
from rarec.progress import quiet_libraries


@command()
def align(
    run: Run,
    llm: Llm = "all-MiniLM-L6-v2",
    revision: Annotated[str | None, typer.Option(help="Of the hub.")] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="default, paper, or a rival: text, all-layers, one-projector, no-prefix, inputs, "
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
        int | None, typer.Option(help="Layers from the top that take a prefix; by default three.")
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
    quantization: Annotated[
        str | None, typer.Option(help="Weights of the language model: 8bit or 4bit.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of the language model's weights: float32, bfloat16, float16.")
    ] = "float32",
    checkpoint_layers: Annotated[
        bool, typer.Option("--checkpoint-layers", help="Less memory for more time.")
    ] = False,
    alignment: Annotated[float | None, typer.Option(help="Weight of that loss.")] = None,
    extra_negatives: Annotated[int | None, typer.Option(help="Drawn per sample.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any field of AlignConfig by its dotted name, such as model.id_dropout=0.2; "
            "can be repeated.",
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget the checkpoints of a stopped training.")
    ] = False,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Tune soft prompts of a frozen language model on the chosen samples; make the index."""
    quiet_libraries()
    import shutil

    from rarec.recommender import Recommender, recipe, with_settings

    config = recipe(
        preset,
        llm=llm,
        llm_revision=revision,
        pooling=pooling,
        quantization=quantization,
        dtype=dtype,
        checkpoint_layers=checkpoint_layers,
        seed=seed,
    )
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
    config = with_settings(config, dict(_setting(one) for one in settings or ()))
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
def compare(
    run: Run,
    rivals: Annotated[
        str | None, typer.Option(help="Names of recipes, with commas; by default all.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="With commas: a whole run for each.")] = "0,1,2",
    steps: Annotated[int, typer.Option(help="Optimiser steps, the same for all.")] = 120,
    batch_size: Annotated[int, typer.Option(help="Samples per step.")] = 64,
    llm: Llm = "all-MiniLM-L6-v2",
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


def _setting(text: str) -> tuple[str, Any]:
    """Return name and value of `NAME=VALUE`; a value that TOML does not know is a string."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ValueError(f"expected --set NAME=VALUE, got {text!r}")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def _changed(config: Any, **changes: Any) -> Any:
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(config, **given)
