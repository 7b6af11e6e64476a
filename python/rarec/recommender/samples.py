"""The chosen samples on disk: event positions, and how they were chosen."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from safetensors.numpy import load_file, save_file

from rarec.artifacts import read_config, write_config, write_folder
from rarec.data import Histories
from rarec.selection import Samples, SelectionConfig, SelectionReport

FORMAT = "rarec.samples/1"


def save_samples(
    samples: Samples,
    config: SelectionConfig,
    report: SelectionReport,
    folder: str | os.PathLike[str],
) -> None:
    """Write chosen samples as a folder: config.json, samples.safetensors."""
    with write_folder(folder) as temporary:
        save_file({"positions": samples.positions}, temporary / "samples.safetensors")
        values = {
            "events": len(samples.histories.items),
            "selection": asdict(config),
            "report": asdict(report),
        }
        write_config(temporary, FORMAT, values)


def load_samples(
    folder: str | os.PathLike[str], histories: Histories
) -> tuple[Samples, SelectionConfig, SelectionReport]:
    """Return the samples of a folder, over the training histories they were chosen from.

    Raises:
        ValueError: If the folder holds none, or they belong to other histories.
    """
    stored = read_config(folder, FORMAT)
    if stored["events"] != len(histories.items):
        raise ValueError(
            f"{folder}: expected samples of {len(histories.items)} training events, "
            f"got some of {stored['events']}"
        )
    positions = load_file(Path(folder) / "samples.safetensors")["positions"]
    return (
        Samples(histories, positions),
        SelectionConfig(**stored["selection"]),
        SelectionReport(**stored["report"]),
    )
