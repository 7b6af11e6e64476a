"""Damages one value, one tensor or one file of a finished run, and opens the run."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.faults.commands import ANSWER, READERS, put
from tests.faults.compare import without_measured
from tests.faults.points import Problem, error_lines, last_line
from tests.faults.runner import Runner

#: The kinds of damage, in the order of the rows.
DAMAGES = ("damage-json", "damage-tensor", "damage-file")
#: Most damages of one JSON file, drawn at random: results have thousands of values.
_MOST_OF_JSON = 24
_MISSING = object()
# stands for a value of any other type, too
_OTHER_VALUES = {
    "null": None,
    "negative": -1,
    "huge": 10**30,
    "text": "\u2603 not this",
    "list": [[]],
    "missing": _MISSING,
}


@dataclass(frozen=True)
class Damage:
    """A change of one file.

    Attributes:
        file: Path of the file in the folder.
        what: What is changed, in a few words.
        apply: Changes the file that it is given.
    """

    file: str
    what: str
    apply: Callable[[Path], None]


def damages(kind: str, folder: Path, *, seed: int = 0) -> list[Damage]:
    """Return all damages of a kind, and of the values of a JSON file some.

    Args:
        kind: One of `DAMAGES`.
        folder: A folder with a finished run in `run`.
        seed: Seed of the draw.
    """
    makers = {"damage-json": _of_json, "damage-tensor": _of_tensors, "damage-file": _of_file}
    found = []
    for path in sorted((folder / "run").rglob("*")):
        if not path.is_file() or "locks" in path.parts:
            continue
        name = path.relative_to(folder).as_posix()
        changes = list(makers[kind](path))
        if kind == "damage-json" and len(changes) > _MOST_OF_JSON:
            changes = random.Random(f"{seed} {name}").sample(changes, _MOST_OF_JSON)
        found += [Damage(name, what, apply) for what, apply in changes]
    return found


def problems_of_damage(
    runner: Runner, reader: str, folder: Path, damage: Damage, answer: Any
) -> list[Problem]:
    """Return what is wrong when a damaged run is opened.

    The reader must say in one line which file or artifact is damaged, or answer as before.

    Args:
        runner: Runs the reader.
        reader: Name of one of `READERS`.
        folder: The folder with the undamaged run.
        damage: The damage.
        answer: What the reader answers when nothing is damaged.
    """
    put(folder, runner)
    damage.apply(runner.point / damage.file)
    status, found, lines, last = _ask(runner, reader)
    if "Traceback" in last:
        return [Problem("tracebacks", last.splitlines()[-1])]
    if status == 0:
        same = found == answer
        return [] if same else [Problem("different", "another answer, and exit status 0")]
    artifact = damage.file.removeprefix("run/").rpartition("/")[0]
    names = [Path(damage.file).name, *([artifact] if artifact else [])]
    if status != 1 or len(lines) != 1 or not any(name in lines[0] for name in names):
        return [Problem("messages", last.splitlines()[-1])]
    return []


def answer_of(runner: Runner, reader: str, folder: Path) -> Any:
    """Return what a reader answers when nothing is damaged.

    Raises:
        ValueError: If it fails.
    """
    put(folder, runner)
    status, answer, _, last = _ask(runner, reader)
    if status != 0:
        raise ValueError(f"expected an answer of {reader}, got {last}")
    return answer


def _ask(runner: Runner, reader: str) -> tuple[int | None, Any, list[str], str]:
    """Return exit status, answer, lines of error, and the traceback or the last line."""
    outcome = runner.run([*READERS[reader], "--json", ANSWER])
    file = runner.point / ANSWER
    answer = without_measured(json.loads(file.read_text())) if outcome.status == 0 else None
    last = last_line(outcome)
    return (
        outcome.status,
        answer,
        error_lines(outcome),
        f"Traceback\n{last}" if outcome.has_traceback else last,
    )


_Change = tuple[str, Callable[[Path], None]]


def _of_json(path: Path) -> Iterator[_Change]:
    if path.suffix != ".json":
        return
    for keys in _places(json.loads(path.read_text())):
        for name, value in _OTHER_VALUES.items():
            yield f"{'.'.join(map(str, keys))}: {name}", _json_change(keys, value)


def _places(values: Any, keys: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the place of each value; of a list, the first and the last."""
    if keys:
        yield keys
    inner: list[tuple[str | int, Any]] = []
    if isinstance(values, dict):
        inner = list(values.items())
    elif isinstance(values, list) and values:
        inner = list({0: values[0], len(values) - 1: values[-1]}.items())
    for key, value in inner:
        yield from _places(value, (*keys, key))


def _json_change(keys: tuple[str | int, ...], value: Any) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        content = json.loads(path.read_text())
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        if value is _MISSING:
            del inner[keys[-1]]
        else:
            inner[keys[-1]] = value
        path.write_text(json.dumps(content, indent=2))

    return apply


def _of_tensors(path: Path) -> Iterator[_Change]:
    if path.suffix != ".safetensors":
        return
    changes: dict[str, Callable[[Tensor], Tensor | None]] = {
        "shorter": lambda tensor: tensor[:-1].clone() if tensor.ndim else tensor[None],
        "one more axis": lambda tensor: tensor[None],
        "other type": lambda tensor: tensor.to(
            torch.float64 if tensor.is_floating_point() else torch.float32
        ),
        "changed": lambda tensor: (
            ~tensor if tensor.dtype == torch.bool else tensor + torch.ones_like(tensor)
        ),
        "missing": lambda _: None,
    }
    for name, tensor in load_file(path).items():
        for what, change in changes.items():
            yield f"{name}: {what}", _tensor_change(name, change)
        if tensor.is_floating_point():
            yield f"{name}: NaN", _tensor_change(name, lambda t: torch.full_like(t, torch.nan))
    yield "an extra tensor", _tensor_change("extra", lambda tensor: tensor)


def _tensor_change(name: str, change: Callable[[Tensor], Tensor | None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        changed = change(tensors.pop(name, torch.zeros(2)))
        if changed is not None:
            tensors[name] = changed.contiguous()
        save_file(tensors, path, metadata=metadata)

    return apply


def _of_file(path: Path) -> Iterator[_Change]:
    def flip(data: bytes) -> bytes:
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else b"\0"

    changes: dict[str, Callable[[bytes], bytes]] = {
        "half": lambda data: data[: len(data) // 2],
        "empty": lambda _: b"",
        "a flipped bit": flip,
        "random bytes": lambda data: random.Random(0).randbytes(len(data)),
    }
    for what, change in changes.items():
        yield what, lambda file, change=change: _rewrite(file, change)
    yield "removed", Path.unlink


def _rewrite(file: Path, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))
