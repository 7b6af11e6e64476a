"""The step that tunes a language model: from tuning samples and ID vectors to an aligned model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rarec.artifacts import parse, read_sealed, remove, require_space, write_sealed
from rarec.backbone import Backbone
from rarec.ids import load_ids
from rarec.members.aligned import AlignedModel
from rarec.model import ADAPTER, RARec
from rarec.pipeline.finished import (
    OtherSettingsError,
    finished_record,
    forget_checkpoints,
    settings_to_keep,
    what_differs,
)
from rarec.pipeline.fit_ids import tuning_part
from rarec.pipeline.samples import load_samples, select_samples
from rarec.pipeline.session import Session, language_model_of
from rarec.pipeline.training_data import training_data
from rarec.randomness import seeded
from rarec.run.folder import DATA, SAMPLES, RunFolder, ids_address, model_address
from rarec.run.freshness import fresh_record, require_inputs
from rarec.run.records import Record
from rarec.run.writing import write_artifact
from rarec.settings import AlignSettings, typed
from rarec.training import RichProgress, TrainingReport, train, training_arguments

_IDENTITY = "identity.json"
_IDENTITY_FORMAT = "rarec.identity/1"
# weights and two moments of the optimizer: a checkpoint, and the one that it replaces
_TENSORS_OF_CHECKPOINTS = 6


@typed
class _Identity:
    """Of which training a folder has checkpoints."""

    made_from: Mapping[str, str]
    """Hash of each input by its address."""
    settings: Mapping[str, Any]
    """Settings of the alignment."""
    language_models: Mapping[str, str]
    """Hash of the content of the language model."""


def align(
    run: RunFolder, settings: AlignSettings, session: Session, *, restart: bool = False
) -> TrainingReport:
    """Return what the tuning of a language model did; write the aligned model into the run.

    A training that was stopped goes on from its newest checkpoint. A model that was aligned before
    from the same inputs with the same settings is kept.

    Args:
        run: A run with ID vectors.
        settings: Settings of the alignment.
        session: Session of the process.
        restart: Align again, and forget the checkpoints of a stopped training.

    Raises:
        ValueError: If the run has no ID vectors or no titles, or there is a model of this name or
            a stopped training with other settings, and no restart.
    """
    run.dataset.require_titles()
    made_from = _inputs(run, settings, session)
    address = model_address(settings.member)
    record = finished_record(run, address, settings, restart=restart)
    if record is None:
        with session.making(run, address):
            # a process that was waited for may have tuned it
            record = finished_record(run, address, settings, restart=restart)
            if record is None:
                return _align(run, settings, session, made_from, restart=restart)
    forget_checkpoints(run, address)
    session.say(f"{address} is there already")
    return _report_of(record)


def _align(
    run: RunFolder,
    settings: AlignSettings,
    session: Session,
    made_from: Mapping[str, str],
    *,
    restart: bool,
) -> TrainingReport:
    """Return what the tuning did, and write the aligned model."""
    address = model_address(settings.member)
    checkpoints = run.checkpoints(address)
    if restart:
        remove(checkpoints)
    # before the claim, so that a name that is not found leaves no claim
    loaded = session.language_model(
        language_model_of(settings),
        is_changed=settings.model.tune != "none" or settings.checkpoint_layers,
    )
    content = loaded[0].sha256
    tuned = {} if content is None else {"llm": content}
    _claim(checkpoints, made_from, settings, tuned)
    aligned, report = _tune(run, settings, session, checkpoints, loaded)
    # JSON has no NaN, which is the loss of a training that logged none
    measurements = {
        k: v
        for k, v in asdict(report).items()
        if v is not None and not (isinstance(v, float) and math.isnan(v))
    }
    with write_artifact(
        run,
        address,
        made_from=made_from,
        settings=settings_to_keep(settings),
        measurements=measurements,
        language_models=tuned,
    ) as folder:
        part = tuning_part(run) if settings.model.use_ids else None
        ids = None if part is None else f"../../{ids_address(part)}"
        aligned.model.save_pretrained(folder, ids=ids)
        measurements["adapter_bytes"] = (folder / ADAPTER).stat().st_size
    remove(checkpoints)
    return report


def _report_of(record: Record) -> TrainingReport:
    """Return the report of a training that has been done before."""
    absent = {"loss": math.nan, "peak_rss_mb": None}
    names = [field.name for field in fields(TrainingReport)]
    return TrainingReport(**{name: {**absent, **record.measurements}[name] for name in names})


def _inputs(run: RunFolder, settings: AlignSettings, session: Session) -> dict[str, str]:
    """Return the hash of each input; the samples are chosen now if that has not been done."""
    part = tuning_part(run)
    if fresh_record(run, SAMPLES) is None:
        select_samples(run, session=session)
    addresses = [DATA, SAMPLES]
    if settings.model.use_ids or settings.loss.hard_negatives:
        addresses.append(ids_address(part))
    return require_inputs(run, addresses)


def _tune(
    run: RunFolder,
    settings: AlignSettings,
    session: Session,
    checkpoints: Path,
    loaded: tuple[Backbone, PreTrainedTokenizerBase],
) -> tuple[AlignedModel, TrainingReport]:
    backbone, tokenizer = loaded
    ids = None
    if settings.model.use_ids or settings.loss.hard_negatives:
        ids = load_ids(run.folder(ids_address(tuning_part(run))))
    width = 0 if ids is None else ids.item_vectors.shape[1]
    with seeded(settings.seed):
        if settings.checkpoint_layers:
            backbone.checkpoint_layers()
        model = RARec(
            backbone,
            user_id_dim=width,
            item_id_dim=width,
            settings=settings.model,
            prompts=settings.prompts,
            seed=settings.seed,
        )
        index = run.dataset.n_items * (backbone.hidden_size + width)
        require_space(checkpoints, 4 * (index + model.n_trainable() * _TENSORS_OF_CHECKPOINTS))
        aligned = AlignedModel(model, tokenizer, run.dataset.titles, ids, progress=session.progress)
        data = training_data(
            aligned, run.dataset, load_samples(run), ids, settings, progress=session.progress
        )
        report = train(
            model,
            data,
            training_arguments(checkpoints, settings.training, seed=settings.seed),
            settings.loss,
            callbacks=[RichProgress(f"align {settings.member}")] if session.progress else [],
            resume=True,
        )
    model.eval()
    return aligned, report


def _claim(
    folder: Path,
    made_from: Mapping[str, str],
    settings: AlignSettings,
    tuned: Mapping[str, str],
) -> None:
    """Note which training a folder has checkpoints of, and refuse those of another one."""
    file = folder / _IDENTITY
    if not file.exists():
        kept = settings_to_keep(settings)
        values = {"made_from": made_from, "settings": kept, "language_models": tuned}
        write_sealed(file, _IDENTITY_FORMAT, values)
        return
    try:
        stored = parse(_Identity, read_sealed(file, _IDENTITY_FORMAT), file)
    except ValueError as error:
        raise ValueError(f"{error}; restart (--restart) begins again") from error
    before = stored.made_from
    inputs = made_from.keys() | before.keys()
    different = sorted(name for name in inputs if made_from.get(name) != before.get(name))
    different += what_differs(settings, stored.settings, stored.language_models)
    if different:
        raise OtherSettingsError(
            f"{folder}: expected checkpoints of this training, got those of one with other "
            f"{', '.join(different)}; restart (--restart) begins again"
        )
