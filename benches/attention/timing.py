"""Clocks: time and memory of functions that run in turns.

On a CPU the clock is the process's own time, on one thread; on a GPU, events on the stream. The
order of the turns rotates, so that the machine's mood is the same for all.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

#: More than the second-level cache of any GPU: writing it leaves no input there.
FLUSHED_BYTES = 2**28


@dataclass(frozen=True)
class Run:
    """What is prepared untimed, and what is timed, given that."""

    prepare: Callable[[], Any]
    timed: Callable[[Any], object]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def warm_up(run: Run, device: str) -> float | None:
    """Run until it is compiled and tuned, and return the megabytes it allocates at most.

    Returns:
        On a GPU, what is allocated at most beyond what is before, preparation included; on a CPU
        none, since torch does not say.
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
    """Return the milliseconds of each run in each round; all are warm."""
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
    """Milliseconds of a run on the GPU whose inputs are in no cache."""

    def __init__(self) -> None:
        self._flushed = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device="cuda")

    def __call__(self, run: Run) -> float:
        prepared = run.prepare()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # it keeps the GPU busy too, so that it does not wait for the launches that follow
        self._flushed.zero_()
        begin.record()
        run.timed(prepared)
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end)
