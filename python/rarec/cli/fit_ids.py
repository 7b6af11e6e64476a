"""`rarec fit-ids`: the tuning samples and the ID vectors of a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from rarec.settings import FitSettings, to_toml, with_values

if TYPE_CHECKING:
    from rarec.data import Dataset
    from rarec.ids import GivenIDs

# the flags of the ID model, for messages
_FLAGS = {
    "ids.model": "--model",
    "ids.dim": "--dim",
    "ids.text": "--text",
    "ids.max_epochs": "--max-epochs",
    "ids.learning_rate": "--learning-rate",
    "hold_out": "--hold-out",
    "all_samples": "--all-samples",
}


def fit_ids(
    run: Run,
    model: Annotated[str | None, setting(FitSettings, "ids.model")] = None,
    dim: Annotated[int | None, setting(FitSettings, "ids.dim")] = None,
    text: Annotated[str | None, setting(FitSettings, "ids.text", metavar="LLM")] = None,
    max_epochs: Annotated[int | None, setting(FitSettings, "ids.max_epochs")] = None,
    learning_rate: Annotated[float | None, setting(FitSettings, "ids.learning_rate")] = None,
    fraction: Annotated[float | None, setting(FitSettings, "selection.fraction")] = None,
    hold_out: Annotated[bool | None, setting(FitSettings, "hold_out")] = None,
    all_samples: Annotated[bool | None, setting(FitSettings, "all_samples")] = None,
    seed: Annotated[int | None, setting(FitSettings, "ids.seed", also=["selection.seed"])] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Item vectors that were made elsewhere, .npy or .safetensors. No ID model is "
            "trained.",
        ),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text file with the item id of each vector in a line."),
    ] = None,
    user_vectors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="User vectors that belong to them.")
    ] = None,
    user_ids: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text file with the user id of each vector in a line."),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale each imported vector to length one.")
    ] = False,
    restart: Restart = False,
    wait: Wait = False,
    config: Config = None,
    assignments: Assignments = None,
    print_config: PrintConfig = False,
    json_file: Json = None,
) -> None:
    """Choose the tuning samples, then train an ID model, or take vectors that were made elsewhere.

    The targets of the tuning samples are left out of the loss of one ID model. A language model
    that is aligned on what its ID model was trained on becomes a copy of the ID model.
    """
    in_file = file_values(config)
    flags = {
        "ids.model": model,
        "ids.dim": dim,
        "ids.text": text,
        "ids.max_epochs": max_epochs,
        "ids.learning_rate": learning_rate,
        "ids.seed": seed,
        "selection.seed": seed,
        "selection.fraction": fraction,
        "hold_out": hold_out,
        "all_samples": all_samples,
    }
    given = given_values(flags, assignments)
    settings = with_values(with_file(FitSettings(), in_file, config), given)
    files = {"--vectors": vectors, "--ids": ids}
    user_files = {"--user-vectors": user_vectors, "--user-ids": user_ids}
    _require_pairs(files, user_files, normalize=normalize)
    if vectors is not None:
        # the seed is the one of the samples, too
        _require_no_model({*in_file, *given} - {"ids.seed"}, print_config=print_config)
    if print_config:
        typer.echo(to_toml(settings), nl=False)
        return
    quiet_libraries()
    from rarec.pipeline.fit_ids import fit_ids as fit
    from rarec.pipeline.samples import selection_summary
    from rarec.recommender import Recommender

    recommender = Recommender.open(run, progress=True, say=say, wait=wait)
    measurements: dict[str, dict[str, Any]]
    if vectors is not None and ids is not None:
        imported = _read(recommender.dataset, [vectors, ids, user_vectors, user_ids], normalize)
        recommender.use_ids(imported, selection=settings.selection, restart=restart)
        measurements = {"imported": _counts(imported)}
        say(
            "These vectors may have been trained on the tuning samples. Tune on interactions that "
            "are younger than the vectors, or compare with care."
        )
    else:
        measurements = fit(recommender.run, settings, recommender.session, restart=restart)
    say(selection_summary(recommender.run))
    output.print(measurements_table(measurements, f"{run}/ids"))
    write_json(measurements, json_file)


def _require_pairs(
    files: dict[str, Path | None], user_files: dict[str, Path | None], *, normalize: bool
) -> None:
    for pair in (files, user_files):
        missing = [name for name, file in pair.items() if file is None]
        if len(missing) == 1:
            raise ValueError(f"expected {' and '.join(pair)}, got no {missing[0]}")
    if files["--vectors"] is not None:
        return
    if user_files["--user-vectors"] is not None:
        raise ValueError("expected --vectors and --ids beside --user-vectors, got neither")
    if normalize:
        raise ValueError("expected --vectors beside --normalize, got none")


def _require_no_model(names: Iterable[str], *, print_config: bool) -> None:
    """Refuse settings of an ID model beside imported vectors."""
    for name in sorted(names):
        if not name.startswith("selection."):
            raise ValueError(f"expected --vectors or {_FLAGS.get(name, name)}, got both")
    if print_config:
        raise ValueError("expected --vectors or --print-config, got both")


def _read(dataset: Dataset, files: list[Path | None], normalize: bool) -> GivenIDs:
    from rarec.ids import GivenIDs, read_vectors

    vectors, ids, user_vectors, user_ids = files
    assert vectors is not None
    assert ids is not None
    items = read_vectors(vectors, ids, dataset.item_ids, normalize=normalize)
    if user_vectors is None or user_ids is None:
        return GivenIDs(*items)
    users = read_vectors(user_vectors, user_ids, dataset.user_ids, normalize=normalize)
    return GivenIDs(*items, *users)


def _counts(imported: GivenIDs) -> dict[str, int]:
    return {
        "items_with_vector": int(imported.item_known.sum()),
        "items_without_vector": int((~imported.item_known).sum()),
        "width": imported.item_vectors.shape[1],
    }
