"""The step that gives a run its ID vectors: it trains an ID model, or takes imported vectors."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rarec.artifacts import remove, require_space, write_config, write_folder
from rarec.backbone import LanguageModel
from rarec.ids import IDEmbeddings, TrainedIDs, train_encoders
from rarec.pipeline.finished import (
    finished_record,
    forget_checkpoints,
    language_models,
    settings_to_keep,
    what_differs,
)
from rarec.pipeline.samples import load_samples, select_samples, selection_of
from rarec.pipeline.session import Session
from rarec.pipeline.title_vectors import title_vectors
from rarec.progress import progress_bar
from rarec.run.folder import DATA, ID_MODEL, SAMPLES, RunFolder, ids_address
from rarec.run.freshness import fresh_hash, fresh_record
from rarec.run.records import Record, read_record, write_record
from rarec.run.writing import committing
from rarec.selection import held_out_mask
from rarec.settings import FitSettings, IDSettings, SelectionSettings, differences

FORMAT = "rarec.id-model/1"
ALL, HELD_OUT = "all", "held-out"
_ADDRESS = f"ids/{ID_MODEL}"
# weights, the best ones, two moments of the optimizer: a checkpoint, and the one that it replaces
_TENSORS_OF_CHECKPOINTS = 8


def fit_ids(
    run: RunFolder,
    settings: FitSettings,
    session: Session,
    *,
    restart: bool = False,
    also_from: Iterable[RunFolder] = (),
) -> dict[str, dict[str, Any]]:
    """Return what was measured while each part of the ID model was trained; write the parts.

    The parts are `held-out`, trained without the targets of the tuning samples, which the language
    model is given; and `all`, trained on all samples, the baseline. A part that was trained before
    from the same inputs and with the same settings is kept.

    Args:
        run: The run.
        settings: How samples are chosen and the ID model is trained.
        session: Session of the process.
        restart: Train again, and forget the checkpoints of a stopped training.
        also_from: Other runs of the same data, from which finished parts may be taken.

    Raises:
        ValueError: If there are samples or an ID model of other settings, and no restart; if the ID
            model reads titles and there are none.
    """
    if settings.ids.text:
        run.dataset.require_titles()
    if not restart:
        _require_same_selection(run, settings.selection)
    select_samples(run, settings.selection, session, restart=restart)
    wanted = _wanted_parts(run, settings)
    if restart or not _is_finished(run, wanted, settings.ids):
        with session.making(run, _ADDRESS):
            # a process that was waited for may have trained it
            if restart or not _is_finished(run, wanted, settings.ids):
                _fit(run, settings.ids, wanted, session, restart=restart, also_from=also_from)
                return _measurements(run, wanted)
    forget_checkpoints(run, _ADDRESS)
    session.say(f"{_ADDRESS} is there already")
    return _measurements(run, wanted)


def _fit(
    run: RunFolder,
    settings: IDSettings,
    wanted: Mapping[str, Mapping[str, str]],
    session: Session,
    *,
    restart: bool,
    also_from: Iterable[RunFolder],
) -> None:
    """Train the parts that are not there, and write all of them."""
    checkpoints = run.checkpoints(_ADDRESS)
    if restart:
        remove(checkpoints)
    kept = {} if restart else _finished_parts([run, *also_from], wanted, settings)
    missing = wanted.keys() - kept.keys()
    if missing and settings.text:
        # it is downloaded now if it is not on this machine, and its content is known
        session.language_model(LanguageModel(settings.text))
    read_by = language_models(settings)
    trained = _train(run, settings, missing, session, checkpoints)
    inputs = {name: value for made_from in wanted.values() for name, value in made_from.items()}
    with write_folder(run.folder(_ADDRESS), commit=committing(run, _ADDRESS, inputs)) as folder:
        for part, made_from in wanted.items():
            if part in kept:
                shutil.copytree(kept[part], folder / part)
                continue
            ids, measurements = trained[part]
            with write_folder(folder / part) as inner:
                ids.save(inner)
                write_record(inner, made_from, settings_to_keep(settings), measurements, read_by)
        write_config(folder, FORMAT, {"parts": list(wanted), "source": "trained"})
    remove(checkpoints)


def import_ids(
    run: RunFolder,
    ids: IDEmbeddings,
    session: Session,
    *,
    selection: SelectionSettings | None = None,
    restart: bool = False,
) -> None:
    """Give the run ID vectors that were made elsewhere.

    Args:
        run: The run.
        ids: The vectors, one row for each item of the dataset.
        session: Session of the process.
        selection: How the tuning samples are chosen, too; by default they stay as they are.
        restart: Take them in place of an ID model that is there.

    Raises:
        ValueError: If the number of items differs, or other ID vectors or samples of other settings
            are there and no restart.
    """
    if len(ids.item_vectors) != run.dataset.n_items:
        raise ValueError(
            f"expected vectors of {run.dataset.n_items} items, got {len(ids.item_vectors)}"
        )
    if selection is not None and not restart:
        _require_same_selection(run, selection)
    target, made_from = run.folder(_ADDRESS), {DATA: run.data_hash}
    with suppress(_SameVectorsError), session.making(run, _ADDRESS):
        before = {} if restart else {part: _record(run, part).hash for part in run.id_parts()}
        with write_folder(target, commit=committing(run, _ADDRESS, made_from)) as folder:
            with write_folder(folder / ALL) as inner:
                ids.save(inner)
                imported = write_record(inner, made_from, {})
            if before == {ALL: imported.hash}:
                session.say(f"{_ADDRESS} is there already")
                raise _SameVectorsError
            if before:
                raise ValueError(
                    f"{target}: expected the same ID vectors as before; restart (--restart) "
                    f"replaces them"
                )
            write_config(folder, FORMAT, {"parts": [ALL], "source": "imported"})
    if selection is not None:
        select_samples(run, selection, session, restart=restart)


class _SameVectorsError(Exception):
    """The vectors that are written are there already."""


def tuning_part(run: RunFolder) -> str:
    """Return the part of the ID model that the language model is given.

    Raises:
        ValueError: If the run has no ID vectors.
    """
    parts = run.id_parts()
    if not parts:
        raise ValueError(
            f"{run.path}: expected ID vectors first: fit_ids (rarec fit-ids) trains an ID model "
            f"or takes vectors"
        )
    return HELD_OUT if HELD_OUT in parts else ALL


def baseline_part(run: RunFolder) -> str | None:
    """Return the strongest part of the ID model that is fresh: all samples, else held-out."""
    fresh = [part for part in (ALL, HELD_OUT) if fresh_record(run, ids_address(part))]
    return fresh[0] if fresh else None


def _wanted_parts(run: RunFolder, settings: FitSettings) -> dict[str, dict[str, str]]:
    """Return by part what it has to be made from."""
    data = {DATA: run.data_hash}
    samples = fresh_hash(run, SAMPLES)
    assert samples is not None
    wanted = {}
    if settings.hold_out:
        wanted[HELD_OUT] = {**data, SAMPLES: samples}
    if settings.all_samples:
        wanted[ALL] = data
    return wanted


def _require_same_selection(run: RunFolder, settings: SelectionSettings) -> None:
    before = selection_of(run)
    if before is None or before == settings:
        return
    raise ValueError(
        f"{run.path}: the samples were chosen with other settings: "
        f"{'; '.join(differences(settings, before))}; restart (--restart) chooses them "
        f"again"
    )


def _require_same_settings(run: RunFolder, settings: IDSettings, wanted: Mapping[str, Any]) -> None:
    """Refuse to replace an ID model of other settings, or one with a part that is not wanted."""
    for part in run.id_parts():
        record = _record(run, part)
        if not record.settings:
            raise ValueError(
                f"{run.path}: the ID vectors were imported; restart (--restart) replaces them"
            )
        finished_record(run, ids_address(part), settings)
        if part not in wanted:
            raise ValueError(
                f"{run.path}: the ID model has the part {part!r}, which this call does not ask "
                f"for; restart (--restart) makes it again without"
            )


def _is_finished(
    run: RunFolder, wanted: Mapping[str, Mapping[str, str]], settings: IDSettings
) -> bool:
    """Return whether all parts are fresh, and no others are there.

    Raises:
        ValueError: If there is an ID model of other settings.
    """
    _require_same_settings(run, settings, wanted)
    return set(run.id_parts()) == set(wanted) and all(
        finished_record(run, ids_address(part), settings) for part in wanted
    )


def _measurements(run: RunFolder, wanted: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {part: dict(_record(run, part).measurements) for part in wanted}


def _finished_parts(
    runs: Iterable[RunFolder], wanted: Mapping[str, Mapping[str, str]], settings: IDSettings
) -> dict[str, Path]:
    """Return the folders of parts that were trained before from the same inputs and settings."""
    found: dict[str, Path] = {}
    for run in runs:
        for part, made_from in wanted.items():
            folder = run.folder(ids_address(part))
            record = read_record(folder)
            # imported vectors have no settings
            if record is None or record.made_from != made_from or not record.settings:
                continue
            if not what_differs(settings, record.settings, record.language_models):
                found.setdefault(part, folder)
    return found


def _train(
    run: RunFolder,
    settings: IDSettings,
    parts: Iterable[str],
    session: Session,
    checkpoints: Path,
) -> dict[str, tuple[TrainedIDs, dict[str, Any]]]:
    """Return for each part the trained ID model and what was measured."""
    masks = {part: _mask(run, part) for part in sorted(parts, reverse=True)}
    if not masks:
        return {}
    texts = title_vectors(run.dataset, settings.text, session) if settings.text else None
    train, n_items = run.split.train, run.dataset.n_items
    require_space(checkpoints, 4 * n_items * settings.dim * _TENSORS_OF_CHECKPOINTS)
    known = train.counts(n_items) > 0
    if texts is not None:
        known |= texts.any(axis=1)
    found = {}
    for part, mask in masks.items():
        with progress_bar(f"fit ids {part}", settings.max_epochs, shown=session.progress) as bar:
            (encoder, report) = train_encoders(
                train,
                run.split.validation,
                n_items,
                settings,
                {part: mask},
                text_vectors=texts,
                folder=checkpoints,
                on_epoch=lambda _part, _epoch, loss, ndcg, bar=bar: bar(
                    note=f"loss {loss:.3f}  validation NDCG@10 {ndcg:.4f}"
                ),
            )[part]
        measurements = asdict(report)
        measurements["trainable_parameters"] = sum(p.numel() for p in encoder.parameters())
        found[part] = (TrainedIDs(encoder, settings, known), measurements)
    return found


def _mask(run: RunFolder, part: str) -> NDArray[np.bool_] | None:
    return held_out_mask(load_samples(run)) if part == HELD_OUT else None


def _record(run: RunFolder, part: str) -> Record:
    record = read_record(run.folder(ids_address(part)))
    if record is None:
        raise ValueError(f"{run.folder(ids_address(part))}: expected a record, got none")
    return record
