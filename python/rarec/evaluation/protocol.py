"""How a result was made, written beside it."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

from rarec.artifacts import write_text
from rarec.evaluation.ranks import TieRule

_PACKAGES = ("rarec", "torch", "transformers", "numpy", "polars")


def protocol(
    *,
    data_hash: str,
    split: str,
    filters: Sequence[str] = (),
    exclusion: str,
    seeds: Mapping[str, int],
    ties: TieRule = "average",
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what someone needs to make the numbers again, as a plain dict.

    Args:
        data_hash: Fingerprint of the data the result is about.
        split: The split in words, with its parameters.
        filters: What was dropped from the data, in the order it was.
        exclusion: Which items are no candidates: for example `"items seen before the target"`.
        seeds: Every seed, by what it is for.
        ties: The rank among equal scores.
        extra: More keys, none of them one of ours.

    Returns:
        The arguments, and the versions of Python and the packages (None where one is not
        installed), the platform, the command (with the home folder as `~`), and the time in UTC.

    Raises:
        ValueError: If the tie rule is unknown, or `extra` has a key of ours.
    """
    if ties not in get_args(TieRule):
        raise ValueError(f"expected ties of {list(get_args(TieRule))}, got {ties!r}")
    made = {
        "data_hash": data_hash,
        "split": split,
        "filters": list(filters),
        "candidates": "the whole catalogue",
        "exclusion": exclusion,
        "ties": ties,
        "seeds": dict(seeds),
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "processors": os.cpu_count(),
        },
        "command": [_without_home(argument) for argument in sys.argv],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    clash = sorted(made.keys() & (extra or {}).keys())
    if clash:
        raise ValueError(f"expected extra keys of their own, got {clash}")
    return made | dict(extra or {})


def write_results(
    folder: str | os.PathLike[str], results: Mapping[str, Any], protocol: Mapping[str, Any]
) -> None:
    """Write `results.json` and `protocol.json`, each whole or not at all.

    Both are turned into text before either is written. `results.json` comes last: where it is,
    its protocol is.

    Args:
        folder: Where to write; made when it is absent.
        results: `"rows"`, a list of rows each with a `"model"`, and if it likes `"paired"`, a list
            of comparisons (see `compare`) each with `"a"` and `"b"`.
        protocol: What `protocol` gave; also put into `results.json` under `"protocol"`.

    Raises:
        ValueError: If the results have not this form or hold NaN, infinity or other values that
            JSON does not have.
    """
    _check_results(results)
    try:
        texts = {
            "protocol.json": json.dumps(protocol, indent=2, allow_nan=False),
            "results.json": json.dumps(
                {"protocol": protocol, **results},
                indent=2,
                allow_nan=False,
            ),
        }
    except TypeError as error:
        raise ValueError(f"expected values that JSON has, got: {error}") from error
    for name, text in texts.items():
        write_text(Path(folder) / name, text + "\n")


def _check_results(results: Mapping[str, Any]) -> None:
    if "protocol" in results:
        raise ValueError("expected results without a protocol, which has its own argument")
    rows = results.get("rows")
    if not isinstance(rows, list) or not all("model" in row for row in rows):
        raise ValueError("expected results with a list of rows that each name their model")
    for pair in results.get("paired", []):
        if not {"a", "b", "metric", "difference", "ci"} <= pair.keys():
            raise ValueError(
                f"expected pairs with a, b, metric, difference and ci, got {sorted(pair)}"
            )


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _without_home(argument: str) -> str:
    home = str(Path.home())
    if argument == home:
        return "~"
    # with the separator, so that a sibling whose name starts the same keeps its own
    return argument.replace(home.rstrip(os.sep) + os.sep, "~" + os.sep)
