"""The time of a GPU's kernels alone, measured by the profiler: without launches and gaps.

A GPU computes a small attention in less time than Python needs to launch it. `measure.py` has the
wall-clock time, which a training depends on; this file has the time of the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from benches.attention.inputs import make_inputs
from benches.attention.providers import PROVIDERS, Provider, forget_compiled
from benches.attention.shapes import BERT, LLAMA, MINILM, QWEN, Case, make_case

#: Texts as long as titles, and as long descriptions.
KERNEL_CASES = tuple(
    make_case(shape, n_text, 16, n_tokens=16_384, padded=padded, dtype="bfloat16")
    for shape in (MINILM, BERT, QWEN, LLAMA)
    for n_text, padded in ((64, True), (64, False), (512, True), (512, False))
)


@dataclass(frozen=True)
class KernelTime:
    """The time and the number of the kernels in one run.

    Attributes:
        case: Description of the case.
        provider: Name of the provider.
        forward_us: Microseconds of a forward pass without gradients.
        forward_kernels: Number of kernels of that pass.
        both_us: Microseconds of a forward and a backward pass.
        both_kernels: Number of kernels of these passes.
    """

    case: str
    provider: str
    forward_us: float
    forward_kernels: float
    both_us: float
    both_kernels: float


def kernel_times(
    case: Case, device: str, *, rounds: int = 10, providers: Sequence[Provider] = PROVIDERS
) -> list[KernelTime]:
    """Return a row for each provider that can run a case; on a CPU it measures torch's operators.

    Args:
        case: The case to run.
        device: `cpu` or `cuda`.
        rounds: Number of profiled runs of each provider.
        providers: The providers to run.
    """
    inputs = make_inputs(case, device)
    tensors = list(inputs.tensors.values())
    grad_out = torch.randn_like(inputs.query)
    rows = []
    for provider in providers:
        if provider.refusal(case, device) is not None:
            continue

        def forward(run=provider.run) -> object:
            with torch.no_grad():
                return run(inputs)

        def both(run=provider.run) -> object:
            return torch.autograd.grad(run(inputs), tensors, grad_out)

        found = (*_profiled(forward, device, rounds), *_profiled(both, device, rounds))
        rows.append(KernelTime(str(case), provider.name, *found))
    forget_compiled()
    return rows


def _profiled(run: Callable[[], object], device: str, rounds: int) -> tuple[float, float]:
    """Return the microseconds and the number of the kernels of a run; it is compiled first."""
    on_gpu = device == "cuda"
    synchronize = torch.cuda.synchronize if on_gpu else torch.cpu.synchronize
    run()
    synchronize()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as watch:
        for _ in range(rounds):
            run()
        synchronize()
    events = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count)
        for event in watch.key_averages()
    ]
    ran = [(time, count) for time, count in events if time > 0]
    return sum(time for time, _ in ran) / rounds, sum(count for _, count in ran) / rounds


def kernel_table(rows: Sequence[KernelTime]) -> str:
    """Return a table in Markdown."""
    lines = ["| case | provider | forward µs (kernels) | both µs (kernels) |", "|---|---|---|---|"]
    lines += [
        f"| {row.case} | {row.provider} | {row.forward_us:.0f} ({row.forward_kernels:.0f}) | "
        f"{row.both_us:.0f} ({row.both_kernels:.0f}) |"
        for row in rows
    ]
    return "\n".join(lines)
