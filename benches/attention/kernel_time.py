"""Time that a GPU's kernels take by themselves, by its profiler: without launches and gaps.

Small attentions take a GPU less time than Python takes to ask for them. What a training feels is in
`rarec`'s favour or not by the clock (`measure.py`); what the kernels are worth is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from benches.attention.inputs import make_inputs
from benches.attention.providers import PROVIDERS, Provider, forget_compiled
from benches.attention.shapes import BERT, LLAMA, MINILM, QWEN, Case, make_case

#: Titles alone and long descriptions.
KERNEL_CASES = tuple(
    make_case(shape, n_text, 16, n_tokens=16_384, padded=padded, dtype="bfloat16")
    for shape in (MINILM, BERT, QWEN, LLAMA)
    for n_text, padded in ((64, True), (64, False), (512, True), (512, False))
)


@dataclass(frozen=True)
class KernelTime:
    """Microseconds of kernels, and how many there are, of one run.

    Attributes:
        case: What was run.
        provider: Who ran it.
        forward_us: Of a forward pass that keeps nothing.
        forward_kernels: Of the same.
        both_us: Of a forward and a backward pass.
        both_kernels: Of the same.
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
    """Return a row for each provider that can run a case; on a CPU, of torch's operators.

    Args:
        case: What to compute.
        device: `cpu` or `cuda`.
        rounds: Profiled runs of each.
        providers: Who computes it.
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
    """Return microseconds and number of the kernels of a run, which is compiled first."""
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
