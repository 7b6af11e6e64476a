"""The step that chooses the tuning samples: event positions, and how they were chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rarec.artifacts import CONFIG_NAME, parse, read_config, read_whole, write_config
from rarec.pipeline.session import Session
from rarec.run.folder import DATA, SAMPLES, RunFolder
from rarec.run.freshness import fresh_record
from rarec.run.writing import write_artifact
from rarec.selection import Samples, SelectionReport, select
from rarec.settings import SelectionSettings, as_dict, from_dict, typed

FORMAT = "rarec.samples/2"
_FILE = "samples.safetensors"


@typed
class _Stored:
    """What the config of samples says."""

    events: int
    """Number of training events from which they were chosen."""
    report: Mapping[str, Any]
    """The report of the selection."""


def select_samples(
    run: RunFolder,
    settings: SelectionSettings | None = None,
    session: Session | None = None,
    *,
    restart: bool = False,
) -> SelectionReport:
    """Return how the tuning samples were chosen, and write them into the run.

    What was made from other samples is out of date from then on; it is not removed.

    Args:
        run: The run.
        settings: How to choose.
        session: Session of the process.
        restart: Choose again, whatever is there.
    """
    settings = settings or SelectionSettings()
    session = session or Session()
    if not restart and selection_of(run) == settings:
        return _read_report(run)
    with session.making(run, SAMPLES):
        if not restart and selection_of(run) == settings:
            return _read_report(run)
        samples, report = select(run.split.train, run.dataset.titles, settings)
        with write_artifact(
            run, SAMPLES, made_from={DATA: run.data_hash}, settings=as_dict(settings)
        ) as folder:
            save_file({"positions": samples.positions}, folder / _FILE)
            values = {"events": len(samples.histories.items), "report": asdict(report)}
            write_config(folder, FORMAT, values)
    return report


def selection_of(run: RunFolder) -> SelectionSettings | None:
    """Return the settings with which the samples of the run were chosen; None without samples."""
    record = fresh_record(run, SAMPLES)
    return None if record is None else from_dict(SelectionSettings, record.settings)


def load_samples(run: RunFolder) -> Samples:
    """Return the tuning samples of the run.

    Raises:
        ValueError: If there are none, or the file is damaged.
    """
    folder = run.folder(SAMPLES)
    return read_whole(folder, lambda: _read(run, folder))


def _read(run: RunFolder, folder: Path) -> Samples:
    stored = read_config(folder, FORMAT, _Stored)
    train = run.split.train
    if stored.events != len(train.items):
        raise ValueError(
            f"{folder}: expected samples of {len(train.items)} training events, "
            f"got some of {stored.events}"
        )
    file = folder / _FILE
    try:
        positions = load_file(file)["positions"]
    except (OSError, KeyError, SafetensorError) as error:
        raise ValueError(f"{file}: expected the positions of samples ({error})") from error
    if positions.dtype != np.int64 or positions.ndim != 1:
        raise ValueError(f"{file}: expected int64 positions [S], got {positions.dtype}")
    try:
        return Samples(train, positions)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def selection_summary(run: RunFolder) -> str:
    """Return in words how the samples were chosen."""
    return _read_report(run).summary()


def _read_report(run: RunFolder) -> SelectionReport:
    folder = run.folder(SAMPLES)
    stored = read_config(folder, FORMAT, _Stored)
    return parse(SelectionReport, stored.report, folder / CONFIG_NAME)
