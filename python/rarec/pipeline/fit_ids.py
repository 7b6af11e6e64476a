"""The step that gives a run its ID vectors: it trains an ID model, or takes imported vectors."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rarec.artifacts import write_config, write_folder
from rarec.backbone import LanguageModel
from rarec.ids import IDEmbeddings, TrainedIDs, train_encoders
from rarec.pipeline.finished import (
    finished_record,
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
from rarec.run.records import Record, read_record, write_artifact
from rarec.selection import held_out_mask
from rarec.settings import FitSettings, IDSettings, differences

FORMAT = "rarec.id-model/1"
ALL, HELD_OUT = "all", "held-out"


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
    _require_same_selection(run, settings, restart)
    select_samples(run, settings.selection)
    wanted = _wanted_parts(run, settings)
    if not restart:
        _require_same_settings(run, settings.ids, wanted)
        if _is_complete(run, wanted, settings):
            session.say(f"ids/{ID_MODEL} is there already")
            return {part: dict(_record(run, part).measurements) for part in wanted}
    checkpoints = run.checkpoints(f"ids/{ID_MODEL}")
    if restart:
        shutil.rmtree(checkpoints, ignore_errors=True)
    kept = {} if restart else _finished_parts([run, *also_from], wanted, settings.ids)
    missing = wanted.keys() - kept.keys()
    if missing and settings.ids.text:
        # it is downloaded now if it is not on this machine, and its content is known
        session.language_model(LanguageModel(settings.ids.text))
    read_by = language_models(settings.ids)
    trained = _train(run, settings.ids, missing, session, checkpoints)
    with write_folder(run.folder(f"ids/{ID_MODEL}")) as folder:
        for part, made_from in wanted.items():
            if part in kept:
                shutil.copytree(kept[part], folder / part)
                continue
            ids, measurements = trained[part]
            with write_artifact(
                folder / part,
                made_from=made_from,
                settings=settings_to_keep(settings.ids),
                measurements=measurements,
                language_models=read_by,
            ) as inner:
                ids.save(inner)
        write_config(folder, FORMAT, {"parts": list(wanted), "source": "trained"})
    shutil.rmtree(checkpoints, ignore_errors=True)
    return {part: dict(_record(run, part).measurements) for part in wanted}


def import_ids(run: RunFolder, ids: IDEmbeddings, *, restart: bool = False) -> None:
    """Give the run ID vectors that were made elsewhere.

    Args:
        run: The run.
        ids: The vectors, one row for each item of the dataset.
        restart: Take them in place of an ID model that is there.

    Raises:
        ValueError: If the number of items differs, or other ID vectors are there and no restart.
    """
    if len(ids.item_vectors) != run.dataset.n_items:
        raise ValueError(
            f"expected vectors of {run.dataset.n_items} items, got {len(ids.item_vectors)}"
        )
    target = run.folder(f"ids/{ID_MODEL}")
    before = {part: _record(run, part).hash for part in run.id_parts()}
    with write_folder(target) as folder:
        made_from = {DATA: run.data_hash}
        with write_artifact(folder / ALL, made_from=made_from, settings={}) as inner:
            ids.save(inner)
        imported = read_record(folder / ALL)
        assert imported is not None
        if before and before != {ALL: imported.hash} and not restart:
            raise ValueError(
                f"{target}: expected the same ID vectors as before; restart (--restart) replaces "
                f"them"
            )
        write_config(folder, FORMAT, {"parts": [ALL], "source": "imported"})


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


def _require_same_selection(run: RunFolder, settings: FitSettings, restart: bool) -> None:
    before = selection_of(run)
    if before is None or before == settings.selection or restart:
        return
    raise ValueError(
        f"{run.path}: the samples were chosen with other settings: "
        f"{'; '.join(differences(settings.selection, before))}; restart (--restart) chooses them "
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


def _is_complete(run: RunFolder, wanted: Mapping[str, Any], settings: FitSettings) -> bool:
    return set(run.id_parts()) == set(wanted) and all(
        finished_record(run, ids_address(part), settings.ids) for part in wanted
    )


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
