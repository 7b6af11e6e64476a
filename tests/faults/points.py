"""One point: a command is disturbed at one of its events, looked at, and called again."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.faults.commands import READERS, Command, Undisturbed, put
from tests.faults.compare import contents, differences, fingerprint, lost, wrong_hashes
from tests.faults.runner import Event, Fault, Outcome, Runner, child_events

#: The faults, in the order of the rows.
FAULTS = ("kill", "kill-child", "int", "term", "enospc", "eio", "eacces", "stop")
#: What can be wrong at a point: the command fails when it is called again, it ends in another
#: folder, it prints a traceback, something that was there is gone, or its exit status or message is
#: not the one that is promised.
PROBLEMS = ("bricked", "different", "tracebacks", "lost", "messages")

_NEEDS_SPACE = ("create", "mkdir", "write", "truncate", "allocate", "link")
_NEEDS_PERMISSION = ("create", "open", "mkdir", "link", "rename", "remove")
_ENDS = {"int": 130, "term": 143}


class Problem(NamedTuple):
    """What is wrong at a point: one of `PROBLEMS`, and a line about it."""

    kind: str
    text: str


@dataclass
class Memory:
    """What came of a call in a folder that was seen before.

    Most points leave a folder that another point has left, too. The same command then does the
    same in it, and is not called again.
    """

    calls: dict[tuple[str, str], list[Problem]] = field(default_factory=dict)


def chosen_events(
    fault: str, events: Sequence[Event], *, share: float = 1.0, seed: int = 0
) -> list[int]:
    """Return the numbers of the events that are disturbed.

    Events that make no difference are left out. A flush changes nothing that a process sees, so a
    kill after it is the kill before it. Of many writes into one file in a row, the first and the
    last are taken. An event that needs no space does not fail for the lack of it. SIGINT takes
    every other point, and SIGTERM the rest, because the same code handles both.

    Args:
        fault: One of `FAULTS`.
        events: All events of the undisturbed command.
        share: Share of the points, drawn at random.
        seed: Seed of the draw.
    """
    numbers = [n for n in range(1, len(events) + 1) if not _is_inner_write(events, n)]
    kind = {number: event.kind for number, event in enumerate(events, start=1)}
    if fault == "enospc":
        numbers = [n for n in numbers if kind[n] in _NEEDS_SPACE]
    elif fault == "eacces":
        numbers = [n for n in numbers if kind[n] in _NEEDS_PERMISSION]
    elif fault != "eio":
        numbers = [n for n in numbers if n == 1 or kind[n - 1] != "flush"]
    if fault == "kill-child":
        numbers = sorted(set(numbers).intersection(child_events(events)))
    if fault in _ENDS:
        numbers = numbers[fault == "term" :: 2]
    generator = random.Random(f"{seed} {fault} {len(events)}")
    return [n for n in numbers if generator.random() < share]


def problems_of(
    runner: Runner, command: Command, undisturbed: Undisturbed, fault: Fault, memory: Memory
) -> list[Problem] | None:
    """Return what is wrong after a fault; None if the command never came to that event."""
    put(undisturbed.begins, runner)
    second = (command.second or command.arguments) if fault.action == "stop" else None
    outcome = runner.run(command.arguments, fault, second=second, has_children=command.has_children)
    if not outcome.fired:
        return None
    found = contents(runner.point)
    problems = [
        Problem("lost", text)
        for text in lost(undisturbed.before_contents, undisturbed.contents, found)
    ]
    if outcome.has_traceback:
        problems.append(Problem("tracebacks", last_line(outcome)))
    is_complete = found == undisturbed.contents
    problems += _wrong_ends(fault, outcome, is_complete=is_complete)
    if command.second is not None and not is_complete:
        problems.append(Problem("different", differences(undisturbed.contents, found)[0]))
    state = fingerprint(runner.point)
    for name, look in (("again", _again), ("answers", _answers)):
        known = memory.calls.get((f"{command.name} {name}", state))
        if known is None:
            known = look(runner, command, undisturbed)
            memory.calls[f"{command.name} {name}", state] = known
        problems += known
    return problems


def _is_inner_write(events: Sequence[Event], number: int) -> bool:
    """Return whether the events before and after an event write into the same file."""
    around = [(event.kind, event.path) for event in events[max(0, number - 2) : number + 1]]
    return around == [("write", around[0][1])] * 3


def problems_undisturbed(
    runner: Runner, command: Command, undisturbed: Undisturbed
) -> list[Problem]:
    """Return what is wrong when a command is run once more and nothing happens to it."""
    put(undisturbed.clean, runner)
    return _again(runner, command, undisturbed)


def error_lines(outcome: Outcome) -> list[str]:
    """Return the lines in which a command says what went wrong."""
    return [line for line in outcome.output.splitlines() if line.startswith("error:")]


def last_line(outcome: Outcome) -> str:
    """Return the last line that a command printed, or how it ended."""
    lines = outcome.output.strip().splitlines()
    return f"{outcome.status}: {lines[-1].strip() if lines else 'no output'}"


def _wrong_ends(fault: Fault, outcome: Outcome, *, is_complete: bool) -> list[Problem]:
    """Return what is wrong with the exit status and the message of a disturbed command."""
    if fault.action == "kill":
        return []
    if fault.action == "stop":
        second = outcome.second
        ends = [outcome, *([] if second is None else [second])]
        return [
            Problem("messages", last_line(end))
            for end in ends
            if end.status != 0 and (end is outcome or not _is_one_line(end))
        ]
    if fault.action in _ENDS:
        # the signal may come when all is done
        fine = outcome.status == _ENDS[fault.action] or (outcome.status == 0 and is_complete)
    else:
        fine = outcome.status == 0 or _is_one_line(outcome)
    return [] if fine else [Problem("messages", last_line(outcome))]


def _is_one_line(outcome: Outcome) -> bool:
    return outcome.status == 1 and len(error_lines(outcome)) == 1


def _again(runner: Runner, command: Command, undisturbed: Undisturbed) -> list[Problem]:
    """Return what is wrong when the same command is called again and nothing happens to it."""
    kept = _set_aside(runner)
    problems = []
    for arguments in command.both:
        outcome = runner.run(arguments, has_children=command.has_children)
        if outcome.has_traceback:
            problems.append(Problem("tracebacks", last_line(outcome)))
        if outcome.status != 0:
            problems.append(Problem("bricked", last_line(outcome)))
    if not problems:
        lines = differences(undisturbed.contents, contents(runner.point))
        lines += wrong_hashes(runner.point)
        problems += [Problem("different", text) for text in lines[:3]]
    _put_back(kept, runner)
    return problems


def _answers(runner: Runner, command: Command, undisturbed: Undisturbed) -> list[Problem]:
    """Return what is wrong with the answers of a run whose artifact was being replaced."""
    if not command.replaces:
        return []
    kept = _set_aside(runner)
    outcome = runner.run(READERS["recommend"])
    problems = []
    if outcome.has_traceback:
        problems.append(Problem("tracebacks", last_line(outcome)))
    elif outcome.status == 0 and outcome.output not in _allowed_answers(runner, undisturbed):
        problems.append(Problem("different", "recommend answers neither as before nor as after"))
    elif outcome.status != 0 and not _is_one_line(outcome):
        problems.append(Problem("messages", last_line(outcome)))
    _put_back(kept, runner)
    return problems


def _allowed_answers(runner: Runner, undisturbed: Undisturbed) -> list[str]:
    found = []
    for folder in (undisturbed.begins, undisturbed.after):
        put(folder, runner)
        found.append(runner.run(READERS["recommend"]).output)
    return found


def _set_aside(runner: Runner) -> Path:
    kept = runner.point.with_name("kept")
    shutil.rmtree(kept, ignore_errors=True)
    return shutil.copytree(runner.point, kept, symlinks=True)


def _put_back(kept: Path, runner: Runner) -> None:
    put(kept, runner)
    shutil.rmtree(kept)
