"""The report of `rarec doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rarec.index import ItemIndex
from rarec.ops import IMPLEMENTATION_VARIABLE, Case, SelfTestCase, choose, run_self_test
from rarec.ops.choice import HAS_TRITON


def examine(output: Console) -> None:
    """Print versions and hardware, the chosen implementations with reasons, and the self-test."""
    found = Table("", "", box=SIMPLE_HEAD, show_header=False, pad_edge=False)
    for name, text in _machine():
        found.add_row(name, text)
    output.print(found)
    if not torch.cuda.is_available():
        output.print(f"prefix attention here: {_choice(Case('cpu', torch.float32, 64))}\n")
    choices = Table(
        "texts",
        "dtype",
        "head dimension",
        "implementation: reason",
        title=f"prefix attention on a GPU ({IMPLEMENTATION_VARIABLE} overrides this)",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name, case in _cases():
        choices.add_row(name, str(case.dtype).removeprefix("torch."), str(case.dim), _choice(case))
    output.print(choices)
    for number in range(torch.cuda.device_count() if HAS_TRITON else 0):
        with output.status(f"self-test of the fused attention on GPU {number}"):
            cases = list(run_self_test(torch.device("cuda", number)))
        output.print(self_test_report(number, cases))


def self_test_report(number: int, cases: Sequence[SelfTestCase]) -> str:
    """Return the lines that say whether the self-test passed, and which cases failed."""
    failed = [case for case in cases if not case.passed]
    if not failed:
        worst = max(case.error for case in cases)
        return (
            f"fused attention on GPU {number}: self-test passed, {len(cases)} cases "
            f"(largest error {worst:.0e})"
        )
    lines = [f"  {case.case}: error {case.error:.0e}, {case.worst}" for case in failed]
    return "\n".join(
        [
            f"fused attention on GPU {number}: self-test FAILED, {len(failed)} of {len(cases)} "
            f"cases are wrong; set {IMPLEMENTATION_VARIABLE}=reference, and report this with the "
            "versions above",
            *lines,
        ]
    )


def _choice(case: Case) -> str:
    """Return the implementation that will run, and the reason."""
    try:
        choice = choose(case)
    except ValueError as error:
        return f"none: {error}"
    return f"{choice.implementation}: {choice.reason}"


def _machine() -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each line about versions and hardware."""
    for package in ("rarec", "torch", "transformers", "triton"):
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield package, "not installed"
    yield "python", platform.python_version()
    instructions = ItemIndex(np.zeros((1, 1), dtype=np.float32), ["0"], [""]).instructions
    yield "processor", f"{os.cpu_count()} cores; the extension uses {instructions} instructions"
    if not torch.cuda.is_available():
        yield "GPU", "none"
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield f"GPU {number}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def _cases() -> Iterator[tuple[str, Case]]:
    """Yield typical cases on a GPU, each with its description."""
    half = torch.bfloat16
    yield "packed, 64 tokens", Case("cuda", half, 64, n_text=64, packed=True)
    yield "padded, 64 tokens", Case("cuda", half, 32, n_text=64, padded=True)
    yield "packed, 1024 tokens", Case("cuda", half, 128, n_text=1024, packed=True)
    yield "unpadded, 1024 tokens", Case("cuda", half, 128, n_text=1024)
    yield "packed, 64 tokens", Case("cuda", torch.float32, 32, n_text=64, packed=True)
    yield "packed, 64 tokens", Case("cuda", half, 256, n_text=64, packed=True)
    yield "100 prefix tokens", Case("cuda", half, 64, n_prefix=100, packed=True)
    yield "bias or softcap", Case("cuda", half, 64, reference_only="bias, softcap or dropout")
