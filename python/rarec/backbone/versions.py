"""The oldest version of transformers that rarec supports; `make test-oldest` tests with it."""

from __future__ import annotations

import re
from importlib import metadata

import transformers


def oldest_transformers() -> str | None:
    """Return the oldest version in rarec's requirements; None if rarec is not installed."""
    try:
        requirements = metadata.requires("rarec") or []
    except metadata.PackageNotFoundError:
        return None
    for requirement in requirements:
        found = re.match(r"transformers\b.*>=\s*([\d.]+)", requirement)
        if found is not None:
            return found.group(1)
    return None


def older_than(version: str) -> bool:
    """Return whether the installed transformers is older than a version."""
    return _numbers(transformers.__version__) < _numbers(version)


def require_transformers() -> None:
    """Raise ImportError unless transformers is new enough.

    Raises:
        ImportError: If it is older than the oldest supported version.
    """
    oldest = oldest_transformers()
    if oldest is not None and older_than(oldest):
        raise ImportError(
            f"expected transformers {oldest} or newer, got {transformers.__version__}: "
            f"pip install --upgrade 'transformers>={oldest}'"
        )


def _numbers(version: str) -> list[int]:
    """Return major, minor and patch number."""
    # "5.0.0rc1" and "5" both count as 5.0.0
    numbers = [int(number) for number in re.findall(r"\d+", version)[:3]]
    return numbers + [0] * (3 - len(numbers))
