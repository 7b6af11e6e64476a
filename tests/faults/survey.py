"""Disturbs many commands at many points, and counts what goes wrong."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tests.faults.commands import COMMANDS, READERS, Prepared
from tests.faults.damage import DAMAGES, answer_of, damages, problems_of_damage
from tests.faults.points import (
    FAULTS,
    PROBLEMS,
    Memory,
    Problem,
    chosen_events,
    problems_of,
    problems_undisturbed,
)
from tests.faults.runner import Fault, Runner, build_shim
from tests.faults.tiny import write_tiny

#: Share of the points of a command or fault that is taken of itself, so that all take less than an
#: hour. The trainings of `compare` and `study` do what `fit-ids` and `align` do, in more events.
OWN_SHARES = {
    "compare": 0.07,
    "study": 0.05,
    "fit-ids --restart": 0.4,
    "align --restart": 0.4,
    "eio": 0.4,
    "stop": 0.2,
}


@dataclass
class Row:
    """What came of the points of a command and a fault.

    Attributes:
        command: Name of the command.
        fault: Name of the fault.
        events: Number of file events of the undisturbed command, or of possible damages.
        points: Number of points that were reached.
        seconds: Time of all of them.
        counts: Number of points with each of `PROBLEMS`.
        failing: The points with a problem.
        skipped: Why there are no points; empty otherwise.
    """

    command: str
    fault: str
    events: int = 0
    points: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    failing: list[dict[str, Any]] = field(default_factory=list)
    skipped: str = ""

    def add(self, point: str, problems: Sequence[Problem] | None) -> None:
        """Add what is wrong at a point; None if it was not reached."""
        if problems is None:
            return
        self.points += 1
        kinds = sorted({problem.kind for problem in problems})
        self.counts.update(kinds)
        if kinds:
            what = list(dict.fromkeys(f"{problem.kind}: {problem.text}" for problem in problems))
            self.failing.append({"point": point, "what": what})

    def as_dict(self) -> dict[str, Any]:
        """Return the row as it is written into `faults.json`."""
        values = dict(vars(self))
        counts, failing = values.pop("counts"), values.pop("failing")
        return values | {kind: counts[kind] for kind in PROBLEMS} | {"failing": failing}


_Task = tuple[str, Callable[[Runner], list[Problem] | None]]


@dataclass(frozen=True)
class Plan:
    """Which points are taken, and of what.

    Attributes:
        python: The Python of the installation that is driven.
        source: Folder with the package `rarec`, if that Python is to take it from there.
        commands: Names of commands, and of the readers of a damaged run.
        faults: Names of faults and damages.
        share: Share of the points, beside the one of each command and fault (`OWN_SHARES`).
        seed: Seed of the draw.
        jobs: Number of points at once.
    """

    python: str
    source: str | None = None
    commands: Sequence[str] = (*COMMANDS, *READERS)
    faults: Sequence[str] = (*FAULTS, *DAMAGES)
    share: float = 1.0
    seed: int = 0
    jobs: int = 1


def survey(plan: Plan, work: Path) -> Iterator[Row]:
    """Yield a row for each command and fault when all its points are done.

    Args:
        plan: Which points are taken.
        work: An empty folder.

    Raises:
        OSError: If there is no C compiler, or the installation cannot be started.
    """
    write_tiny(work / "tiny")
    shim = build_shim(work)
    runners = [
        Runner(plan.python, shim, work / f"runner-{number}", work / "tiny" / "llm", plan.source)
        for number in range(plan.jobs)
    ]
    try:
        prepared = Prepared(work / "prepared", runners[0])
        planned = [*_command_rows(plan, prepared), *_damage_rows(plan, prepared, runners[0])]
        yield from _done(planned, runners)
    finally:
        for runner in runners:
            runner.close()


def _command_rows(plan: Plan, prepared: Prepared) -> Iterator[tuple[Row, list[_Task]]]:
    for name in plan.commands:
        if name not in COMMANDS or not set(plan.faults).intersection(FAULTS):
            continue
        command = COMMANDS[name]
        try:
            undisturbed = prepared.undisturbed(command)
        except ValueError as error:
            yield Row(name, "none", skipped=str(error)), []
            continue
        again = partial(problems_undisturbed, command=command, undisturbed=undisturbed)
        yield Row(name, "none", len(undisturbed.events)), [("again", again)]
        memory = Memory()
        for fault in FAULTS:
            # two commands at once are stopped, and nothing else
            if fault not in plan.faults or (command.second is not None and fault != "stop"):
                continue
            if fault == "kill-child" and not command.has_children:
                continue
            numbers = chosen_events(
                fault, undisturbed.events, share=_share(plan, name, fault), seed=plan.seed
            )
            tasks: list[_Task] = []
            for number in numbers:
                event = undisturbed.events[number - 1]
                point = partial(
                    problems_of,
                    command=command,
                    undisturbed=undisturbed,
                    fault=Fault(fault, number),
                    memory=memory,
                )
                tasks.append((f"{number}: {event.kind} {event.path}", point))
            yield Row(name, fault, len(undisturbed.events)), tasks


def _damage_rows(
    plan: Plan, prepared: Prepared, runner: Runner
) -> Iterator[tuple[Row, list[_Task]]]:
    kinds = [kind for kind in DAMAGES if kind in plan.faults]
    for reader in READERS:
        if reader not in plan.commands or not kinds:
            continue
        folder = prepared.state("finished")
        answer = answer_of(runner, reader, folder)
        for kind in kinds:
            possible = damages(kind, folder, seed=plan.seed)
            generator = random.Random(f"{plan.seed} {reader} {kind}")
            share = _share(plan, reader, kind)
            tasks: list[_Task] = [
                (
                    f"{damage.file}, {damage.what}",
                    partial(
                        problems_of_damage,
                        reader=reader,
                        folder=folder,
                        damage=damage,
                        answer=answer,
                    ),
                )
                for damage in possible
                if generator.random() < share
            ]
            yield Row(reader, kind, len(possible)), tasks


def _share(plan: Plan, command: str, fault: str) -> float:
    return plan.share * OWN_SHARES.get(command, 1.0) * OWN_SHARES.get(fault, 1.0)


def _done(planned: Sequence[tuple[Row, list[_Task]]], runners: Sequence[Runner]) -> Iterator[Row]:
    free: SimpleQueue[Runner] = SimpleQueue()
    for runner in runners:
        free.put(runner)

    def run(task: _Task) -> tuple[list[Problem] | None, float]:
        runner = free.get()
        begun = time.monotonic()
        try:
            return task[1](runner), time.monotonic() - begun
        finally:
            free.put(runner)

    with ThreadPoolExecutor(len(runners)) as pool:
        begun: list[tuple[Row, list[tuple[str, Future[Any]]]]] = [
            (row, [(task[0], pool.submit(run, task)) for task in tasks]) for row, tasks in planned
        ]
        try:
            for row, points in begun:
                for name, future in points:
                    problems, seconds = future.result()
                    row.seconds += seconds
                    row.add(name, problems)
                yield row
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
