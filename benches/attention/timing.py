"""Time and memory of functions that run in turns.

On a CPU the clock is the processor time of the process, on one thread. On a GPU it is events on the
stream. The order of the turns rotates, so that changes in the machine's speed affect all alike.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

#: More than the second-level cache of any GPU: writing this much removes all inputs from the cache.
FLUSHED_BYTES = 2**28


@dataclass(frozen=True)
class Run:
    """A function that prepares and is not timed, and a function of its result that is timed."""

    prepare: Callable[[], Any]
    timed: Callable[[Any], object]


@contextmanager
def one_thread() -> Iterator[None]:
    """Make torch compute on one CPU thread inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def warm_up(run: Run, device: str) -> float | None:
    """Run once to compile and tune; return the largest number of megabytes it allocates.

    Returns:
        On a GPU, the largest number of megabytes allocated during a run, including its preparation.
        On a CPU None, because torch does not measure it.
    """
    run.timed(run.prepare())
    if device != "cuda":
        return None
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        run.timed(run.prepare())
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def take_turns(runs: Mapping[str, Run], device: str, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each run in each round; all runs have to be warm."""
    clock = _GpuClock() if device == "cuda" else _cpu_milliseconds
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds if names else 0):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(clock(runs[name]))
    return times


def _cpu_milliseconds(run: Run) -> float:
    prepared = run.prepare()
    begin = time.process_time()
    run.timed(prepared)
    return (time.process_time() - begin) * 1e3


class _GpuClock:
    """A clock of milliseconds on the GPU, for runs whose inputs are in no cache."""

    def __init__(self) -> None:
        self._flushed = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device="cuda")

    def __call__(self, run: Run) -> float:
        prepared = run.prepare()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # this also keeps the GPU busy while the launches that follow are prepared
        self._flushed.zero_()
        begin.record()
        run.timed(prepared)
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end)
