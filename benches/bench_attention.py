"""Prefix attention by all providers, on a GPU if there is one, else on one CPU thread.

Every provider is compared with float64 before it is timed. The benchmark writes
`results/attention.json`, `.csv` and `.png`, unless a test failed. The times that pytest-benchmark
prints are those of whole cases, with the checks and all rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benches.attention import report, tables
from benches.attention.measure import Row, measure_case
from benches.attention.shapes import Case, cpu_grid, gpu_grid

RESULTS = Path(__file__).parent / "results"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES, ROUNDS = (gpu_grid(), 30) if DEVICE == "cuda" else (cpu_grid(), 15)


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest, sections: dict[str, list[str]]) -> Iterator[list[Row]]:
    """Yield a list for the rows; write and print it at the end, unless a test failed."""
    rows: list[Row] = []
    yield rows
    if request.session.testsfailed or not rows:
        return
    report.write_rows(RESULTS, "attention", report.describe_machine(DEVICE), rows)
    plot = report.write_plot(RESULTS, "attention", rows)
    lines = [*tables.lines_of(rows), *([] if plot else [report.NO_PLOT])]
    sections["attention: x > 1 if faster than sdpa"] = lines


@pytest.mark.parametrize("case", CASES, ids=str)
def test_prefix_attention(benchmark: Any, results: list[Row], case: Case) -> None:
    benchmark.group = str(case)
    rows = benchmark.pedantic(
        measure_case, (case, DEVICE), {"rounds": ROUNDS}, rounds=1, iterations=1
    )
    assert not {row.provider: row.reason for row in rows if row.faulty}
    results += rows
    for row in rows:
        if row.median_ms is not None:
            benchmark.extra_info[f"{row.provider} {row.part} ms"] = round(row.median_ms, 4)
