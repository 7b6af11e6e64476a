"""Measures the memory that the process has used."""

from __future__ import annotations

import resource
import sys


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, in units of 2**20 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
