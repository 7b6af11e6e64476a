"""The files of results: json, csv and a plot, each written completely or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from benches.attention.measure import Row
from benches.attention.model import PASSES
from benches.attention.shapes import PREFIX
from benches.attention.tables import distinct

NO_PLOT = "no plot: matplotlib is not installed (pip install --group bench)"


def describe_machine(device: str) -> dict[str, Any]:
    """Return a description of the machine: processor or GPU, driver, versions."""
    machine: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _triton_version(),
        "commit": _commit(),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        machine |= {
            "gpu": properties.name,
            "gpu_capability": f"{properties.major}.{properties.minor}",
            "gpu_memory_mb": properties.total_memory // 10**6,
            "gpu_processors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "driver": _driver(),
        }
    return machine


def _triton_version() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return triton.__version__


def _driver() -> str | None:
    query = "--query-gpu=driver_version,clocks.max.sm,power.limit"
    return _output_of("nvidia-smi", query, "--format=csv,noheader", "--id=0")


def _commit() -> str | None:
    folder = str(Path(__file__).parent)
    return _output_of("git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12")


def _output_of(*command: str) -> str | None:
    """Return the output of a command; None if the command is missing or fails."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file in one step, so that nobody finds a part of it under its name."""
    whole = path.with_name(path.name + ".tmp")
    whole.write_bytes(content)
    whole.replace(path)


def write_rows(
    folder: Path, name: str, machine: Mapping[str, Any], rows: Sequence[Row]
) -> list[Path]:
    """Write `name.json` and `name.csv` into a folder, and return their paths.

    The json file is `{"machine": ..., "rows": [...]}`; the csv file has only the rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = [{key: _rounded(value) for key, value in asdict(row).items()} for row in rows]
    text = json.dumps({"machine": dict(machine), "rows": records}, indent=1) + "\n"
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    paths = [folder / f"{name}.json", folder / f"{name}.csv"]
    for path, content in zip(paths, (text, table.getvalue()), strict=True):
        write_atomically(path, content.encode())
    return paths


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a json file that `write_rows` wrote."""
    return [Row(**record) for record in json.loads(path.read_text())["rows"]]


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def write_plot(folder: Path, name: str, rows: Sequence[Row]) -> Path | None:
    """Plot time by text tokens into `name.png`; return its path, or None without matplotlib.

    The plot has a column for each shape, a row for each pass, and a line for each provider with its
    p20 and p80. It shows full texts with `PREFIX` prefix tokens.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    timed = [row for row in rows if row.median_ms is not None and _is_plain(row)]
    shapes = distinct(row.shape for row in timed)
    figure = Figure(figsize=(3.6 * max(1, len(shapes)), 8.4), layout="constrained")
    panels = figure.subplots(len(PASSES), max(1, len(shapes)), squeeze=False)
    for line, part in zip(panels, PASSES, strict=True):
        for panel, shape in zip(line, shapes, strict=False):
            some = [row for row in timed if row.shape == shape and row.part == part]
            _draw(panel, some)
            panel.set_title(f"{shape}, {part}", fontsize=10)
            panel.set_xlabel("text tokens")
            panel.set_ylabel("ms")
    drawn = [panel for panel in panels.flat if panel.lines]
    if drawn:
        drawn[0].legend(fontsize=8)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    write_atomically(path, image.getvalue())
    return path


def _is_plain(row: Row) -> bool:
    return not row.padded and row.n_shared + row.n_own == PREFIX


def _draw(panel: Any, rows: Sequence[Row]) -> None:
    for provider in distinct(row.provider for row in rows):
        line = sorted((x for x in rows if x.provider == provider), key=lambda x: x.n_text)
        texts = [row.n_text for row in line]
        panel.plot(texts, [row.median_ms for row in line], marker="o", markersize=3, label=provider)
        panel.fill_between(
            texts, [row.p20_ms for row in line], [row.p80_ms for row in line], alpha=0.2
        )
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.xaxis.set_major_formatter("{x:.0f}")
    panel.yaxis.set_major_formatter("{x:.3g}")
    panel.yaxis.set_minor_formatter("{x:.3g}")
    panel.tick_params(which="both", labelsize=7)
    panel.grid(alpha=0.3)
