"""Fixtures of the benchmarks: the race, and the files of its results."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import pytest

RESULTS = Path(__file__).parent / "results"
ROWS = pytest.StashKey[dict[str, list[dict[str, object]]]]()
SECTIONS = pytest.StashKey[dict[str, list[str]]]()

Race = Callable[..., None]


def interleave(
    runs: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the seconds of each run in each round; the first run changes from round to round."""
    names = list(runs)
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            begin = clock()
            runs[name]()
            seconds[name].append(clock() - begin)
    return seconds


@pytest.fixture
def rows(request: pytest.FixtureRequest) -> list[dict[str, object]]:
    """Return the list that the rows of this benchmark file are appended to."""
    # bench_rust_sampling.py and bench_rust_scoring.py both write to rust.json
    name = request.path.stem.split("_")[1]
    return request.config.stash.setdefault(ROWS, {}).setdefault(name, [])


@pytest.fixture(scope="session")
def sections(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """Return a table of titles and lines, which is printed at the end."""
    return request.config.stash.setdefault(SECTIONS, {})


def busy_seconds() -> float:
    """Return the processor time of all processes of the machine; nan if it is unknown."""
    try:
        user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    except OSError:
        return float("nan")
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def race(benchmark, rows: list[dict[str, object]]) -> Race:
    """Return a function that times rarec against its peers, round by round, and keeps the rows.

    If the clock is not the processor time of the process, a row also holds how many processors
    other processes kept busy on average (`others_busy`).
    """
    raced: list[str] = []

    def run(
        job: str,
        ours: Callable[[], object],
        peers: Mapping[str, Callable[[], object]],
        *,
        rounds: int = 15,
        clock: Callable[[], float] = time.process_time,
    ) -> None:
        begin = time.perf_counter(), busy_seconds() - time.process_time()
        seconds = interleave({"ours": ours, **peers}, rounds, clock)
        end = time.perf_counter(), busy_seconds() - time.process_time()
        others = max(0.0, (end[1] - begin[1]) / (end[0] - begin[0]))
        for peer in peers:
            # a ratio within each round, then the median: a machine's speed varies between rounds
            pairs = zip(seconds[peer], seconds["ours"], strict=True)
            row: dict[str, object] = {
                "job": job,
                "peer": peer,
                "ratio": round(median(theirs / mine for theirs, mine in pairs), 3),
                "ours": round(median(seconds["ours"]) * 1e3, 4),
                "theirs": round(median(seconds[peer]) * 1e3, 4),
                "unit": "ms",
            }
            if clock is not time.process_time:
                row["others_busy"] = round(others, 2)
            rows.append(row)
            benchmark.extra_info[peer] = row["ratio"]
        # the plugin allows one job in a test, so a second race is only in the rows
        if not raced:
            raced.append(job)
            benchmark.group = job
            benchmark.pedantic(ours, rounds=1)

    return run


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the rows of each file, unless a test failed."""
    if exitstatus != pytest.ExitCode.OK:
        return
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    for name, rows in session.config.stash.get(ROWS, {}).items():
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}.json"
        whole = path.with_suffix(".tmp")
        whole.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
        whole.replace(path)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the sections and the rows."""
    for title, lines in config.stash.get(SECTIONS, {}).items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
    for name, rows in config.stash.get(ROWS, {}).items():
        terminalreporter.section(f"{name}: ratio > 1 where ours is better")
        for row in rows:
            terminalreporter.write_line(
                "{ratio:8.2f}  {ours:10.3f} {theirs:10.3f} {unit}  {job}  against {peer}".format(
                    **row
                )
            )
