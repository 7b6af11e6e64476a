"""`rarec align`: the tuning of a language model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from rarec.cli.options import (
    Assignments,
    Config,
    Json,
    PrintConfig,
    Restart,
    Run,
    Wait,
    file_values,
    given_values,
    setting,
    with_file,
)
from rarec.cli.printing import output, say, write_json
from rarec.cli.tables import measurements_table
from rarec.progress import quiet_libraries
from rarec.settings import VARIANTS, AlignSettings, to_toml, with_values
from rarec.settings import variant as named_variant

EXAMPLES = (
    "Texts and all other settings are given by their names. Two examples:\n\n"
    "rarec align RUN --set 'prompts.user=Jemand mochte {titles}. Was kommt als Nächstes?' "
    "--set 'prompts.separator= und '\n\n"
    "rarec align RUN --llm HuggingFaceTB/SmolLM2-135M-Instruct --set prompts.chat=true "
    "--set 'prompts.system=Du kennst Filme.'\n\n"
    'A settings file may begin with a line such as variant = "paper", which it then changes.'
)


def align(
    run: Run,
    variant: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Variant of the method whose settings are taken: {', '.join(VARIANTS)}.",
            show_default="default",
        ),
    ] = None,
    llm: Annotated[str | None, setting(AlignSettings, "llm")] = None,
    name: Annotated[str | None, setting(AlignSettings, "name")] = None,
    steps: Annotated[int | None, setting(AlignSettings, "training.max_steps")] = None,
    batch_size: Annotated[
        int | None, setting(AlignSettings, "training.per_device_train_batch_size")
    ] = None,
    learning_rate: Annotated[float | None, setting(AlignSettings, "training.learning_rate")] = None,
    layers: Annotated[
        str | None, setting(AlignSettings, "model.layers", metavar="INTEGER|all")
    ] = None,
    text_only: Annotated[
        bool,
        typer.Option(
            "--text-only", help="Tune on text alone, without ID vectors. This is the baseline."
        ),
    ] = False,
    seed: Annotated[int | None, setting(AlignSettings, "seed")] = None,
    restart: Restart = False,
    wait: Wait = False,
    config: Config = None,
    assignments: Assignments = None,
    print_config: PrintConfig = False,
    json_file: Json = None,
) -> None:
    """Tune soft prompts of a frozen language model on the chosen samples, and make its index."""
    in_file = file_values(config)
    # a variant that a flag names takes the place of the one in the file
    in_file_variant = str(in_file.pop("variant", "default"))
    settings = with_file(named_variant(variant or in_file_variant), in_file, config)
    if text_only:
        settings = settings.without_ids()
    flags = {
        "llm": llm,
        "name": name,
        "training.max_steps": steps,
        "training.per_device_train_batch_size": batch_size,
        "training.learning_rate": learning_rate,
        "model.layers": int(layers) if layers and layers.isdecimal() else layers,
        "seed": seed,
    }
    settings = with_values(settings, given_values(flags, assignments))
    if print_config:
        typer.echo(to_toml(settings), nl=False)
        return
    quiet_libraries()
    from rarec.recommender import Recommender

    recommender = Recommender.open(run, progress=True, say=say, wait=wait)
    report = asdict(recommender.align(settings, restart=restart))
    output.print(measurements_table({"": report}, f"{run}/models/{settings.member}"))
    write_json(report, json_file)
