"""What differs between two folders of the same commands, apart from what a clock or memory says."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# files with measured times, whose sizes and hashes therefore change from run to run
_TIMED = ("record.json", "results.json", "result.json", "protocol.json", "results.md", "files.json")
#: Keys of JSON objects whose values change from run to run. The last ones are hashes of files with
#: such values; `wrong_hashes` looks at them.
MEASURED = frozenset(
    {
        *("seconds", "samples_per_second", "peak_rss_mb", "peak_mb", "time", "command"),
        *("files", "hash", "sha256", *_TIMED),
    }
)
# the cache may hold more after a stop, and locks name processes
_NOT_COMPARED = ("cache", "locks")
# names of temporary files hold numbers of processes and random digits
_TEMPORARY = re.compile(r"(^|/)\.[^/]*")
_HASH = re.compile(r"[0-9a-f]{64}")
_SECONDS = re.compile(rb"\b\d[\d,.]*\b")

#: Content of each file by its path: values of a JSON file, else a hash.
Contents = dict[str, Any]


def contents(folder: Path) -> Contents:
    """Return the content of all files of a folder, without caches and locks.

    Args:
        folder: The folder. An empty folder in it counts as a file whose name ends with `/`.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if set(name.split("/")).intersection(_NOT_COMPARED):
            continue
        if path.is_file():
            found[name] = _content(path)
        elif path.name.startswith("."):
            found[f"{name}/"] = ""
    return found


def differences(expected: Contents, found: Contents) -> list[str]:
    """Return a line for each file that is missing, is too much, or has another content."""
    missing = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    extra = [f"{name} is left" for name in sorted(found.keys() - expected.keys())]
    other = [
        f"{name}: {difference}"
        for name in sorted(expected.keys() & found.keys())
        for difference in _value_differences(expected[name], found[name])
    ]
    return missing + extra + other


def lost(before: Contents, after: Contents, found: Contents) -> list[str]:
    """Return a line for each file that a disturbed command has lost.

    A file that the command leaves alone must be there as before. A file that the command replaces
    must be there in the old or the new form. Checkpoints are none: they are made anew.

    Args:
        before: The folder before the command.
        after: The folder after the undisturbed command.
        found: The folder after the disturbed command.
    """
    lines = []
    for name, content in before.items():
        if name not in after or "/checkpoints/" in name or name.endswith("/"):
            continue
        if name not in found:
            lines.append(f"{name} is gone")
        elif found[name] not in (content, after[name]):
            lines.append(f"{name} is neither the old nor the new one")
    return lines


def wrong_hashes(folder: Path) -> list[str]:
    """Return a line for each file whose hash is not the one in the list of files beside it."""
    lines = []
    for record in sorted([*folder.rglob("record.json"), *folder.rglob("files.json")]):
        stored = json.loads(record.read_text())
        files = stored.get("hashes", stored.get("files", {}))
        for name, known in files.items():
            path = record.parent / name
            hashes = _HASH.findall(json.dumps(known))
            if not path.is_file():
                lines.append(f"{path.relative_to(folder)} is missing, and is in the list")
            elif hashes and _sha256(path.read_bytes()) not in hashes:
                lines.append(f"{path.relative_to(folder)} is not the one in the list")
    return lines


def fingerprint(folder: Path) -> str:
    """Return a hash that is equal for folders in which the same command does the same."""
    named = sorted(
        (_TEMPORARY.sub(r"\1.temporary", name), repr(value))
        for name, value in contents(folder).items()
    )
    cached = sorted(path.name for path in (folder / "cache").rglob("*"))
    return _sha256(repr((named, cached)).encode())


def without_measured(values: Any) -> Any:
    """Return JSON values without those that change from run to run."""
    if isinstance(values, Mapping):
        # sizes and hashes have the path of a file as their key
        kept = {k: v for k, v in values.items() if k.rpartition("/")[2] not in MEASURED}
        return {k: without_measured(v) for k, v in kept.items()}
    if isinstance(values, list):
        return [without_measured(value) for value in values]
    return values


def _content(path: Path) -> Any:
    data = path.read_bytes()
    if path.suffix == ".json":
        try:
            return without_measured(json.loads(data))
        except ValueError:
            return _sha256(data)
    if path.suffix == ".md":
        # tables of results with times in them; the same results are in JSON
        data = _SECONDS.sub(b"0", data)
    return _sha256(data)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _value_differences(expected: Any, found: Any, place: str = "") -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            yield from _value_differences(
                expected.get(key, "no such key"), found.get(key, "no such key"), f"{place}.{key}"
            )
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, pair in enumerate(zip(expected, found, strict=True)):
            yield from _value_differences(*pair, f"{place}[{number}]")
    # NaN is equal to itself here, and 1 is not True
    elif repr(expected) != repr(found):
        yield f"{place or 'content'}: expected {str(expected)[:60]}, got {str(found)[:60]}"
