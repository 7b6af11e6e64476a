"""Runs commands of an installation of rarec, disturbed or not, in children of a warm process."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Seconds after which a command counts as one that hangs.
TIMEOUT = 60.0
#: Seconds that a stopped command waits for the second one.
PAUSE = 1.5
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fault:
    """What happens to a command before one of its file events.

    Attributes:
        action: An action of `shim.c`.
        at: Number of the event; the first is 1.
    """

    action: str
    at: int


@dataclass(frozen=True)
class Event:
    """A file event of a command.

    Attributes:
        process: Number of the process.
        kind: Such as `write`, see `shim.c`.
        path: Path relative to the working directory.
    """

    process: int
    kind: str
    path: str


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        status: Exit status, the negative number of a signal, or None after the timeout.
        output: All that it and its children printed.
        seconds: Wall time.
        fired: Whether the chosen event was reached and disturbed.
        events: The file events, if they were asked for.
        second: How a command ended that was begun before the chosen event.
    """

    status: int | None
    output: str
    seconds: float
    fired: bool = False
    events: tuple[Event, ...] = ()
    second: Outcome | None = None

    @property
    def has_traceback(self) -> bool:
        """Whether it or the second command printed a traceback."""
        return "Traceback" in self.output or (self.second is not None and self.second.has_traceback)


def build_shim(folder: Path) -> Path:
    """Return the library that the C compiler makes of `shim.c`.

    Raises:
        OSError: If there is no C compiler, or it fails.
    """
    library = folder / "shim.so"
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", library, _HERE / "shim.c", "-ldl"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise OSError(f"expected that cc compiles shim.c, got {error.stderr}") from error
    return library


class ShimState:
    """The counters that all processes of a command share with this one.

    Args:
        folder: A folder outside the one that is watched.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state"
        self.log = folder / "events"

    def reset(self) -> None:
        """Set all counters to zero, and forget the events."""
        self.path.write_bytes(bytes(64))
        self.log.unlink(missing_ok=True)

    def environment(self, watched: Path, fault: Fault | None, *, log: bool) -> dict[str, str]:
        """Return the variables that the shim reads.

        Args:
            watched: Folder whose events are counted.
            fault: What happens; None only counts.
            log: Whether the events are written down.
        """
        return {
            "FAULTS_FOLDER": str(watched),
            "FAULTS_STATE": str(self.path),
            "FAULTS_LOG": str(self.log) if log else "",
            "FAULTS_ACTION": fault.action if fault else "",
            "FAULTS_AT": str(fault.at if fault else 0),
        }

    @property
    def n_events(self) -> int:
        """Number of events so far."""
        return struct.unpack_from("Q", self.path.read_bytes())[0]

    @property
    def fired(self) -> bool:
        """Whether the chosen event was disturbed."""
        return struct.unpack_from("Q", self.path.read_bytes(), 8)[0] == 1

    def events(self, watched: Path) -> tuple[Event, ...]:
        """Return the events that were written down, in the order of their numbers."""
        if not self.log.exists():
            return ()
        rows = [line.split(" ", 3) for line in self.log.read_text().splitlines()]
        return tuple(
            Event(int(process), kind, os.path.relpath(path, watched))
            for process, _, kind, path in sorted(rows, key=lambda row: int(row[1]))
        )


class Runner:
    """A warm process of an installation, which runs one command after the other.

    Args:
        python: The Python of the installation.
        shim: The library, see `build_shim`.
        folder: A new folder for its files. Commands run in its folder `point`, which is watched.
        llm: Folder of the language model. A run keeps its absolute path, so all runners have the
            same one: it takes the place of `./llm` in the arguments of commands.
        source: Folder with the package `rarec`, if that Python is to take it from there.
    """

    def __init__(
        self, python: str, shim: Path, folder: Path, llm: Path, source: str | None = None
    ) -> None:
        folder.mkdir(parents=True)
        self.point = folder / "point"
        self.llm = llm.absolute()
        self._output = folder / "output"
        self._state = ShimState(folder)
        self._environment = {
            "RAREC_CACHE": str(self.point / "cache"),
            "TMPDIR": str(folder),
        }
        self._warnings = (folder / "warm").open("wb")
        self._process = subprocess.Popen(
            [python, str(_HERE / "warm.py"), str(llm)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._warnings,
            env=_quiet_environment(shim, folder, source),
            text=True,
        )

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._warnings.close()

    def run(
        self,
        arguments: Sequence[str],
        fault: Fault | None = None,
        *,
        second: Sequence[str] | None = None,
        has_children: bool = False,
        log: bool = False,
    ) -> Outcome:
        """Return how a command ended that ran in the folder `point`.

        Args:
            arguments: Arguments of `rarec`.
            fault: What happens to it.
            second: Arguments of a command that is begun when a fault `stop` has stopped the first.
                Its events do not count.
            has_children: Whether it runs functions in new processes.
            log: Whether its events are wanted.
        """
        self._state.reset()
        outputs = [self._output.with_suffix(f".{number}") for number in range(2)]
        for file in outputs:
            file.unlink(missing_ok=True)
        armed = self._state.environment(self.point, fault, log=log)
        commands = [
            {
                "arguments": [str(self.llm) if word == "./llm" else word for word in words],
                "folder": str(self.point),
                "output": str(output),
                "environment": {**self._environment, **variables},
                "has_children": has_children,
            }
            for words, output, variables in zip(
                [arguments, second], outputs, [armed, {}], strict=True
            )
            if words is not None
        ]
        ended = self._ask({"commands": commands, "timeout": TIMEOUT, "pause": PAUSE})
        found = [
            Outcome(one["status"], _text(output), one["seconds"])
            for one, output in zip(ended, outputs, strict=False)
        ]
        return Outcome(
            found[0].status,
            found[0].output,
            found[0].seconds,
            self._state.fired,
            self._state.events(self.point),
            found[1] if len(found) > 1 else None,
        )

    def _ask(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            warnings = Path(self._warnings.name).read_text(errors="replace")
            raise OSError(f"expected an answer of the warm process, got its end: {warnings}")
        return json.loads(answer)


def child_events(events: Sequence[Event]) -> list[int]:
    """Return the numbers of the events of all processes but the first."""
    leader = events[0].process if events else 0
    return [number for number, event in enumerate(events, start=1) if event.process != leader]


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def _quiet_environment(shim: Path, folder: Path, source: str | None) -> dict[str, str]:
    return {
        **os.environ,
        **({} if source is None else {"PYTHONPATH": source}),
        "LD_PRELOAD": str(shim),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "POLARS_MAX_THREADS": "1",
        "RAREC_NUM_THREADS": "1",
        "HF_HOME": str(folder / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "RAREC_OFFLINE": "1",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
