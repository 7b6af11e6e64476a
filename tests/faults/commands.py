"""The commands that are disturbed, and the folders in which they begin."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.compare import Contents, contents
from tests.faults.runner import Event, Runner
from tests.faults.tiny import write_tiny

_PREPARE = ("prepare", "./data/interactions.csv", "./data/items.csv", "-o", "run")
_FIT = ("fit-ids", "run", "--text", "", "--dim", "8", "--max-epochs", "2", "--fraction", "0.5")
_ALIGN = (
    *("align", "run", "--llm", "./llm", "--steps", "12", "--batch-size", "16"),
    *("--set", "training.save_steps=4"),
)
_RESTART = (*_ALIGN, "--restart", "--learning-rate", "0.05")
_SECOND_MODEL = (*_ALIGN, "--name", "second")
_EVALUATE = ("evaluate", "run", "--bootstrap", "10")
_RECOMMEND = ("recommend", "run", "--user", "u001", "-k", "3")
_COMPARE = (
    *("compare", "run", "--variants", "text", "--seeds", "0", "--steps", "2"),
    *("--batch-size", "16", "--llm", "./llm"),
)
_STUDY = ("study", "study.toml", "-o", "studied")
#: The commands that read a finished run, and what they answer with.
READERS = {"evaluate": _EVALUATE, "recommend": _RECOMMEND}
ANSWER = "answer.json"

#: The folders in which commands begin, by name: one they are made from, and commands.
_STATES: dict[str, tuple[str, tuple[Sequence[str], ...]]] = {
    "empty": ("", ()),
    "prepared": ("empty", (_PREPARE,)),
    "fitted": ("prepared", (_FIT,)),
    "aligned": ("fitted", (_ALIGN,)),
    "finished": ("aligned", (_EVALUATE, _RECOMMEND)),
    "realigned": ("finished", (_RESTART,)),
    # a new model with what was made from the old one, and a model without an index
    "stale": ("realigned", ()),
    "without-index": ("aligned", ()),
}
_MADE_FROM_A_MODEL = ("indexes", "weights")


@dataclass(frozen=True)
class Command:
    """A command that is disturbed.

    Attributes:
        name: Name of its rows.
        begins: Name of the folder in which it begins.
        arguments: Arguments of `rarec`.
        second: Arguments of the command that runs at once with it; by default the same.
        has_children: Whether it runs functions in new processes.
        replaces: Whether it replaces what was there. `recommend` then must answer as before or as
            after it, or say in one line that it cannot.
    """

    name: str
    begins: str
    arguments: Sequence[str]
    second: Sequence[str] | None = None
    has_children: bool = False
    replaces: bool = False

    @property
    def both(self) -> tuple[Sequence[str], ...]:
        """The commands whose undisturbed end is expected."""
        return (self.arguments,) if self.second is None else (self.arguments, self.second)


COMMANDS = {
    command.name: command
    for command in (
        Command("prepare", "empty", _PREPARE),
        Command("fit-ids", "prepared", _FIT),
        Command("fit-ids --restart", "finished", (*_FIT, "--restart"), replaces=True),
        Command("align", "fitted", _ALIGN),
        Command("align --restart", "finished", _RESTART, replaces=True),
        Command("align twice", "fitted", _ALIGN, second=_SECOND_MODEL),
        Command("evaluate", "aligned", _EVALUATE),
        Command("evaluate stale", "stale", _EVALUATE),
        Command("recommend", "without-index", _RECOMMEND),
        Command("compare", "fitted", _COMPARE, has_children=True),
        Command("study", "empty", _STUDY, has_children=True),
    )
}


class Prepared:
    """The folders in which commands begin, and those in which they end when nothing happens.

    Args:
        folder: A new folder.
        runner: Runs the commands. Each folder is made when it is first asked for.
    """

    def __init__(self, folder: Path, runner: Runner) -> None:
        self._folder = folder
        self._runner = runner

    def state(self, name: str) -> Path:
        """Return a folder in which commands begin.

        Raises:
            ValueError: If a command that makes it fails.
        """
        target = self._folder / name
        if target.exists():
            return target
        origin, commands = _STATES[name]
        if not origin:
            write_tiny(target, str(self._runner.llm))
            return target
        self.begin(self._runner, origin)
        for arguments in commands:
            self._run(arguments)
        run = self._runner.point / "run"
        if name in ("stale", "without-index"):
            for part in _MADE_FROM_A_MODEL:
                shutil.rmtree(run / part, ignore_errors=True)
                if name == "stale" and (self.state("finished") / "run" / part).exists():
                    shutil.copytree(self.state("finished") / "run" / part, run / part)
        shutil.copytree(self._runner.point, target, symlinks=True)
        return target

    def begin(self, runner: Runner, name: str) -> None:
        """Put a copy of a folder where the commands of a runner run."""
        put(self.state(name), runner)

    def undisturbed(self, command: Command) -> Undisturbed:
        """Return how a command ends when nothing happens to it.

        Raises:
            ValueError: If it fails.
        """
        self.begin(self._runner, command.begins)
        begun = contents(self._runner.point)
        events: tuple[Event, ...] = ()
        for number, arguments in enumerate(command.both):
            found = self._run(arguments, has_children=command.has_children)
            events = events if number else found
        after = self._folder / f"after {command.name}"
        shutil.copytree(self._runner.point, after, symlinks=True)
        ended = contents(after)
        # what was made from an old model must not change what comes out of the new one
        clean = self.state("realigned" if command.begins == "stale" else command.begins)
        return Undisturbed(self.state(command.begins), clean, after, begun, ended, events)

    def _run(self, arguments: Sequence[str], *, has_children: bool = False) -> tuple[Event, ...]:
        outcome = self._runner.run(arguments, has_children=has_children, log=True)
        if outcome.status != 0:
            raise ValueError(
                f"expected that `rarec {' '.join(arguments)}` succeeds, got "
                f"{outcome.status}: {outcome.output[-500:].strip()}"
            )
        return outcome.events


@dataclass(frozen=True)
class Undisturbed:
    """How a command ends when nothing happens to it.

    Attributes:
        begins: Folder in which it begins.
        clean: Folder in which it must come to the same end.
        after: Folder in which it ended.
        before_contents: Contents of the folder in which it begins.
        contents: Contents of the folder in which it ended.
        events: Its file events.
    """

    begins: Path
    clean: Path
    after: Path
    before_contents: Contents
    contents: Contents
    events: tuple[Event, ...]


def put(folder: Path, runner: Runner) -> None:
    """Put a copy of a folder where the commands of a runner run."""
    shutil.rmtree(runner.point, ignore_errors=True)
    shutil.copytree(folder, runner.point, symlinks=True)
