"""Check and time prefix attention on the GPU of this machine, and pack a report to send back.

Run `python -m benches.gpu_report [--out FOLDER] [--quick]` from the root of the repository. FOLDER,
and the archive of it beside it, hold `report.md`, `checks.json`, `attention.json`, `.csv`, `.png`,
and `gpu.json` with training steps and kernel times. The files are written after every step, so an
interrupted run keeps its results.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benches.attention.checks import Check, Outcome, checks, run_check
from benches.attention.kernel_time import KERNEL_CASES, KernelTime, kernel_table, kernel_times
from benches.attention.measure import Row, measure_case
from benches.attention.report import (
    NO_PLOT,
    describe_machine,
    write_atomically,
    write_plot,
    write_rows,
)
from benches.attention.shapes import Case, gpu_grid
from benches.attention.steps import STEPS, Step, StepRow, measure_step, step_table
from benches.attention.tables import ratio_tables, unmeasured

NO_GPU = 2
One = TypeVar("One")
EXPLANATION = """\
The ratio is the time of a peer divided by the time of the fused kernels. It is above 1 if the fused
kernels are faster. In brackets is the same ratio of the bytes that they move, calculated by
`benches.attention.model`. `sdpa` is torch's attention over concatenated keys, `merged` is two
attentions merged by their log-sum-exp, `flex` is FlexAttention. Times are medians of runs in turns;
caches are flushed between the runs."""
KERNEL_EXPLANATION = """\
Time of the kernels of a run, measured by the profiler without launches and gaps, and their
number."""
STEP_EXPLANATION = """\
Forward and backward to the prefixes through all layers of a frozen model, with packed texts of
T / 4 to T tokens. `difference` is the largest difference of the results and gradients, relative to
the largest number."""


@dataclass
class Report:
    """The results so far, and the folder that they are written to."""

    folder: Path
    machine: dict[str, Any]
    outcomes: list[Outcome] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    steps: list[StepRow] = field(default_factory=list)
    kernels: list[KernelTime] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    complete: bool = False

    @property
    def sound(self) -> bool:
        """Whether all checks passed, every case was measured, and no row is faulty."""
        passed = all(outcome.passed for outcome in self.outcomes)
        return passed and not self.failures and not any(row.faulty for row in self.rows)

    def write(self) -> None:
        """Write all files but the plot and the archive."""
        write_rows(self.folder, "attention", self.machine, self.rows)
        records = json.dumps([asdict(outcome) for outcome in self.outcomes], indent=1) + "\n"
        write_atomically(self.folder / "checks.json", records.encode())
        whole: dict[str, Any] = {"machine": self.machine}
        for name, rows in (("steps", self.steps), ("kernels", self.kernels)):
            whole[name] = [asdict(row) for row in rows]
        write_atomically(self.folder / "gpu.json", (json.dumps(whole, indent=1) + "\n").encode())
        write_atomically(self.folder / "report.md", self.markdown().encode())

    def pack(self) -> Path:
        """Write the archive, and return its path."""
        packed = shutil.make_archive(
            f"{self.folder}.tmp", "zip", self.folder.parent, self.folder.name
        )
        return Path(packed).replace(f"{self.folder}.zip")

    def markdown(self) -> str:
        """Return the report: machine, checks, cases that were not measured, ratios."""
        failed = [outcome for outcome in self.outcomes if not outcome.passed]
        missing = [*unmeasured(self.rows), *self.failures]
        state = "Complete." if self.complete else "Interrupted: the report is not complete."
        passed = f"{len(self.outcomes) - len(failed)} of {len(self.outcomes)} passed."
        parts = [
            f"# Prefix attention on {self.machine.get('gpu', 'a CPU')}",
            state,
            "\n".join(f"- {key}: {value}" for key, value in self.machine.items()),
            "## Checks",
            passed,
            *(f"- FAILED {outcome.check}: {outcome.detail}" for outcome in failed),
            "## Not measured",
            "\n".join(f"- {line}" for line in missing) or "Nothing.",
            "## Time",
            EXPLANATION,
            ratio_tables(self.rows),
            "## Time of the kernels alone",
            KERNEL_EXPLANATION,
            kernel_table(self.kernels),
            "## Training steps",
            STEP_EXPLANATION,
            step_table(self.steps),
        ]
        return "\n\n".join(parts)


def run(
    report: Report,
    device: str,
    *,
    kernel_checks: Sequence[Check],
    cases: Sequence[Case],
    kernel_cases: Sequence[Case],
    steps: Sequence[Step],
    rounds: int,
    console: Console,
) -> None:
    """Check, then time, and write the report after every step."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )

    def check(one: Check) -> None:
        outcome = run_check(one, device)
        report.outcomes.append(outcome)
        if not outcome.passed:
            progress.console.print(f"FAILED {outcome.check}: {outcome.detail}", style="red")

    def time(case: Case) -> None:
        rows = measure_case(case, device, rounds=rounds)
        for line in unmeasured(rows):
            progress.console.print(f"{case}: {line}", style="yellow")
        report.rows += rows

    def profile(case: Case) -> None:
        report.kernels += kernel_times(case, device)

    def time_step(step: Step) -> None:
        report.steps.append(measure_step(step, device, rounds=rounds))

    def each(what: str, some: Sequence[One], do: Callable[[One], None]) -> None:
        task = progress.add_task("", total=len(some))
        for one in some:
            progress.update(task, description=f"{what} {one}")
            try:
                do(one)
            except Exception as error:
                # a GPU without enough memory, or a compiler, must not end the rest of the report
                reason = str(error).strip().partition("\n")[0]
                report.failures.append(f"{what} {one}: {type(error).__name__}: {reason}")
                progress.console.print(report.failures[-1], style="yellow")
            report.write()
            progress.advance(task)

    with Progress(*columns, console=console) as progress:
        each("checking", kernel_checks, check)
        each("timing", cases, time)
        each("profiling", kernel_cases, profile)
        each("timing a step of", steps, time_step)
    report.complete = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0; 1 if a result is wrong or missing; 2 without a GPU; 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benches.gpu_report", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/gpu-report"), help="folder of the report"
    )
    parser.add_argument(
        "--quick", action="store_true", help="run a quarter of the checks and cases"
    )
    options = parser.parse_args(arguments)
    console = Console()
    if not torch.cuda.is_available():
        console.print("NO GPU: nothing was checked or timed (torch.cuda.is_available() is false)")
        return NO_GPU

    report = Report(options.out.resolve(), describe_machine("cuda"))
    for key, value in report.machine.items():
        console.print(f"{key}: {value}", highlight=False)
    interrupted = False
    try:
        run(
            report,
            "cuda",
            kernel_checks=checks(quick=options.quick),
            cases=gpu_grid(quick=options.quick),
            kernel_cases=KERNEL_CASES[::4] if options.quick else KERNEL_CASES,
            steps=STEPS[1::4] if options.quick else STEPS,
            rounds=20 if options.quick else 50,
            console=console,
        )
    except KeyboardInterrupt:
        interrupted = True
        console.print("interrupted: the report holds the results so far")
    finally:
        report.write()
        if write_plot(report.folder, "attention", report.rows) is None:
            console.print(NO_PLOT)
        console.print(f"please send back {report.pack()}")
    if interrupted:
        return 130
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
