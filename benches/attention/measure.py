"""The measurements of a case for each provider: correctness first, then time and memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benches.attention.gate import Gate
from benches.attention.inputs import Inputs, make_inputs
from benches.attention.model import PASSES, bytes_moved, flops
from benches.attention.providers import PROVIDERS, Provider, forget_compiled
from benches.attention.shapes import Case
from benches.attention.timing import Run, one_thread, take_turns, warm_up

NO_MEMORY = "not enough memory"
#: The providers that belong to rarec. An exception in one of them is a fault.
OURS = ("sdpa", "fused")


@dataclass(frozen=True)
class Row:
    """The measurements of one provider, case and pass; the names hold the units.

    Attributes:
        status: `measured`; `skipped`; `wrong` if the result differs too much from float64, in which
            case it is not timed; `broken` if the provider raised an exception.
        reason: The reason why it is not measured.
        median_ms: Median time of all `rounds`; `p20_ms` and `p80_ms` are percentiles.
        against_sdpa: Time of `sdpa` divided by the time of this provider, median over rounds: above
            1 if this provider is faster.
        tflops: Operations, as `model.flops` counts them, divided by the median time.
        gbs: `model_mb` divided by the median time.
        model_mb: Megabytes moved, as `model.bytes_moved` counts them.
        peak_mb: Largest number of megabytes allocated beyond the inputs; for a backward this
            includes what its forward keeps. None on a CPU.
        worst: `result`, or the tensor whose gradient has the error nearest to its bound.
        error: Largest difference of that tensor from float64; `bound` is the largest allowed one.
    """

    provider: str
    part: str
    shape: str
    n_heads: int
    n_key_heads: int
    dim: int
    causal: bool
    n_batch: int
    n_text: int
    n_shared: int
    n_own: int
    padded: bool
    dtype: str
    device: str
    status: str = "measured"
    reason: str = ""
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    rounds: int = 0
    against_sdpa: float | None = None
    tflops: float | None = None
    gbs: float | None = None
    model_mb: float | None = None
    peak_mb: float | None = None
    worst: str = ""
    error: float | None = None
    bound: float | None = None

    @property
    def faulty(self) -> bool:
        """Whether the result is wrong, or a provider of rarec is broken."""
        return self.status == "wrong" or (self.status == "broken" and self.provider in OURS)


def measure_case(
    case: Case, device: str, *, rounds: int, providers: Sequence[Provider] = PROVIDERS
) -> list[Row]:
    """Return a row for each provider and pass of a case.

    Args:
        case: The case to run.
        device: `cpu` (one thread) or `cuda`.
        rounds: Number of timed runs of each provider.
        providers: The providers to run.
    """
    with one_thread():
        try:
            inputs = make_inputs(case, device)
            gate = Gate(inputs)
        except torch.OutOfMemoryError:
            blanks = [_blank(case, device, provider.name) for provider in providers]
            skipped = [replace(row, status="skipped", reason=NO_MEMORY) for row in blanks]
            return [replace(row, part=part) for part in PASSES for row in skipped]
        checked = {x.name: _check(case, device, gate, x) for x in providers}
        grad_out = gate.grad_out
        # it holds gigabytes in float64 that the timing does not need
        del gate
        rows = []
        for part in PASSES:
            runs = {x.name: _run(x, inputs, grad_out, part) for x in providers}
            rows += _time(case, device, part, runs, checked, rounds)
    forget_compiled()
    return rows


def _blank(case: Case, device: str, provider: str) -> Row:
    shape = case.shape
    return Row(
        provider=provider,
        part="",
        shape=shape.name,
        n_heads=shape.n_heads,
        n_key_heads=shape.n_key_heads,
        dim=shape.dim,
        causal=shape.causal,
        n_batch=case.n_batch,
        n_text=case.n_text,
        n_shared=case.n_shared,
        n_own=case.n_own,
        padded=case.padded,
        dtype=case.dtype,
        device=device,
    )


def _check(case: Case, device: str, gate: Gate, provider: Provider) -> Row:
    """Return a row without times, with the status and the worst error of a provider."""
    row = _blank(case, device, provider.name)
    reason = provider.refusal(case, device)
    if reason is not None:
        return replace(row, status="skipped", reason=reason)
    try:
        verdict = gate.check(provider.run)
    except Exception as error:
        # a provider that raises an exception must not end the others
        return _failed(row, error)
    row = replace(row, worst=verdict.name, error=verdict.error, bound=verdict.bound)
    if verdict.passed:
        return row
    reason = f"error of {verdict.name} is {verdict.error:.2e}, more than {verdict.bound:.2e}"
    return replace(row, status="wrong", reason=reason)


def _failed(row: Row, error: Exception) -> Row:
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
        return replace(row, status="skipped", reason=NO_MEMORY)
    first = str(error).strip().partition("\n")[0]
    return replace(row, status="broken", reason=f"{type(error).__name__}: {first}")


def _run(provider: Provider, inputs: Inputs, grad_out: Tensor, part: str) -> Run:
    tensors = list(inputs.tensors.values())
    forward = partial(provider.run, inputs)

    def backward(result: Any) -> object:
        return torch.autograd.grad(result, tensors, grad_out)

    if part == "forward":
        return Run(lambda: None, lambda _: torch.no_grad()(forward)())
    if part == "backward":
        return Run(forward, backward)
    return Run(lambda: None, lambda _: backward(forward()))


def _time(
    case: Case,
    device: str,
    part: str,
    runs: dict[str, Run],
    checked: dict[str, Row],
    rounds: int,
) -> list[Row]:
    """Return the rows of a pass."""
    rows = {name: replace(row, part=part) for name, row in checked.items()}
    for name, row in rows.items():
        if row.status != "measured":
            continue
        try:
            rows[name] = replace(row, peak_mb=warm_up(runs[name], device))
        except Exception as error:
            rows[name] = _failed(row, error)
    sound = {name: runs[name] for name, row in rows.items() if row.status == "measured"}
    times = take_turns(sound, device, rounds)
    for name in sound:
        rows[name] = _with_times(rows[name], case, times[name], times.get("sdpa"))
    return list(rows.values())


def _with_times(row: Row, case: Case, times: list[float], sdpa: list[float] | None) -> Row:
    median = statistics.median(times)
    fifths = statistics.quantiles(times, n=5, method="inclusive")
    moved = bytes_moved(row.provider, case, row.part, row.device)
    seconds = median / 1e3
    ratio = None
    if sdpa is not None:
        # a ratio within each round, then the median: the speed of a machine varies between rounds
        ratio = statistics.median(one / own for one, own in zip(sdpa, times, strict=True))
    return replace(
        row,
        median_ms=median,
        p20_ms=fifths[0],
        p80_ms=fifths[-1],
        rounds=len(times),
        against_sdpa=ratio,
        tflops=flops(case, row.part) / seconds / 1e12,
        gbs=moved / seconds / 1e9,
        model_mb=moved / 1e6,
    )
