"""`python -m tests.faults`: disturbs the commands of an installation, and writes `faults.json`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.commands import COMMANDS, READERS
from tests.faults.damage import DAMAGES
from tests.faults.points import FAULTS, PROBLEMS
from tests.faults.survey import Plan, Row, survey

_COLUMNS = ("command", "fault", "events", "points", *PROBLEMS, "seconds")


def main() -> int:
    """Return 0 if nothing went wrong at any point, else 1."""
    options = _parser().parse_args()
    plan = Plan(
        python=options.python,
        source=options.source,
        commands=_names(options.commands),
        faults=_names(options.faults),
        share=options.share,
        seed=options.seed,
        jobs=options.jobs,
    )
    console = Console(width=120)
    rows: list[Row] = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rarec-faults-") as work:
        for row in survey(plan, Path(work)):
            rows.append(row)
            console.print(_line(row), markup=False, highlight=False)
            _write(options.output, plan, rows, time.monotonic() - begun)
    console.print(_table(rows))
    console.print(f"{options.output} says what happened at each failing point.")
    return int(any(row.failing for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    add = parser.add_argument
    add("--commands", default=",".join(dict.fromkeys([*COMMANDS, *READERS])), help="with commas")
    add("--faults", default=",".join([*FAULTS, *DAMAGES]), help="with commas")
    add("--share", type=float, default=1.0, help="share of the points, drawn at random")
    add("--seed", type=int, default=0, help="seed of the draw")
    add("--jobs", type=int, default=1, help="number of points at once")
    add("--output", type=Path, default=Path("faults.json"), help="file of the results")
    add("--python", default=sys.executable, help="Python of the installation that is driven")
    add("--source", help="folder with the package rarec, if it is not installed there")
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _line(row: Row) -> str:
    if row.skipped:
        return f"{row.command}: not driven: {row.skipped}"
    wrong = ", ".join(f"{row.counts[kind]} {kind}" for kind in PROBLEMS if row.counts[kind])
    return f"{row.command}, {row.fault}: {row.points} points, {wrong or 'nothing wrong'}"


def _table(rows: list[Row]) -> Table:
    table = Table(*_COLUMNS)
    for row in rows:
        values = row.as_dict()
        table.add_row(*(f"{values[c]:.0f}" if c == "seconds" else str(values[c]) for c in _COLUMNS))
    return table


def _write(file: Path, plan: Plan, rows: list[Row], seconds: float) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    values = {
        "share": plan.share,
        "seed": plan.seed,
        "seconds": seconds,
        "rows": [row.as_dict() for row in rows],
    }
    file.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
