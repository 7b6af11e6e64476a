"""The protocol of a result, which says how it was made and is written beside it."""

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
    """Return what is needed to reproduce a result, as a dict that JSON can hold.

    Args:
        data_hash: Content hash of the dataset.
        split: Description of the split with its parameters.
        filters: Filters of the data, in the order in which they were applied.
        exclusion: Which items are not candidates, for example `"items seen before the target"`.
        seeds: Each seed, by its purpose.
        ties: Rule for the rank among equal scores, as in `Ranks.values`.
        extra: More entries; their keys must differ from the others.

    Returns:
        The arguments, the versions of Python and of the packages (None if a package is not
        installed), the platform, the command (with `~` for the home folder), and the time in UTC.

    Raises:
        ValueError: If the tie rule is unknown, or if a key of `extra` exists already.
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
        raise ValueError(f"expected extra keys that the protocol does not have, got {clash}")
    return made | dict(extra or {})


def write_results(
    folder: str | os.PathLike[str], results: Mapping[str, Any], protocol: Mapping[str, Any]
) -> None:
    """Write `results.json` and `protocol.json`, each either completely or not at all.

    `results.json` is written last, so a folder that has it also has its protocol.

    Args:
        folder: The folder to write into; it is created if it does not exist.
        results: Under `"rows"` a list of rows that each have a `"model"`. Optionally, under
            `"paired"`, a list of comparisons (see `compare`) that each have `"a"` and `"b"`.
        protocol: The result of `protocol`; `results.json` also has it under `"protocol"`.

    Raises:
        ValueError: If the results do not have this form, or if a value is NaN, infinite or of a
            type that JSON does not have.
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
        raise ValueError(
            "expected results without the key 'protocol', got one; pass the argument protocol"
        )
    rows = results.get("rows")
    if not isinstance(rows, list) or not all("model" in row for row in rows):
        raise ValueError(
            f"expected a list of rows that each have the key 'model' as results['rows'], "
            f"got {rows!r:.80}"
        )
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
    # with the separator, so that /home/ann does not match /home/anna
    return argument.replace(home.rstrip(os.sep) + os.sep, "~" + os.sep)
