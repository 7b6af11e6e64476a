"""Measures the memory that the process has used."""

from __future__ import annotations

import sys


def peak_memory_mb() -> float | None:
    """Return the largest resident memory of this process so far in MB; None on Windows."""
    try:
        # imported here: the module is absent on Windows
        import resource
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
