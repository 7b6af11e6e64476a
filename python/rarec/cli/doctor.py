"""What rarec finds on this machine, and which implementations it will use."""

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
from rarec.ops import IMPLEMENTATION_VARIABLE, Case, Trial, choose, try_fused
from rarec.ops.choice import HAS_TRITON


def examine(output: Console) -> None:
    """Print what this machine has, and what will run where, and why."""
    found = Table("", "", box=SIMPLE_HEAD, show_header=False, pad_edge=False)
    for name, text in _machine():
        found.add_row(name, text)
    output.print(found)
    if not torch.cuda.is_available():
        output.print(f"prefix attention here: {_said(Case('cpu', torch.float32, 64))}\n")
    choices = Table(
        "texts",
        "dtype",
        "dim",
        "implementation: why",
        title=f"prefix attention on a GPU ({IMPLEMENTATION_VARIABLE} overrides)",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name, case in _cases():
        choices.add_row(name, str(case.dtype).removeprefix("torch."), str(case.dim), _said(case))
    output.print(choices)
    for number in range(torch.cuda.device_count() if HAS_TRITON else 0):
        with output.status(f"trying the fused attention on GPU {number}"):
            trials = list(try_fused(torch.device("cuda", number)))
        output.print(_judged(number, trials))


def _judged(number: int, trials: Sequence[Trial]) -> str:
    failed = [trial for trial in trials if not trial.passed]
    if not failed:
        worst = max(trial.error for trial in trials)
        return f"fused attention on GPU {number}: right in {len(trials)} trials (error {worst:.0e})"
    lines = [f"  {trial.case}: error {trial.error:.0e}, {trial.worst}" for trial in failed]
    return "\n".join(
        [
            f"fused attention on GPU {number}: WRONG in {len(failed)} of {len(trials)} trials; set "
            f"{IMPLEMENTATION_VARIABLE}=reference, and report this with the versions above",
            *lines,
        ]
    )


def _said(case: Case) -> str:
    try:
        choice = choose(case)
    except ValueError as error:
        return f"none: {error}"
    return f"{choice.implementation}: {choice.reason}"


def _machine() -> Iterator[tuple[str, str]]:
    for package in ("rarec", "torch", "transformers", "triton"):
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield package, "not installed"
    yield "python", platform.python_version()
    instructions = ItemIndex(np.zeros((1, 1), dtype=np.float32), ["0"], [""]).instructions
    yield "processor", f"{os.cpu_count()} cores, extension uses {instructions} instructions"
    if not torch.cuda.is_available():
        yield "GPU", "none"
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield f"GPU {number}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def _cases() -> Iterator[tuple[str, Case]]:
    half = torch.bfloat16
    yield "packed, 64 tokens", Case("cuda", half, 64, n_text=64, packed=True)
    yield "padded, 64 tokens", Case("cuda", half, 32, n_text=64, padded=True)
    yield "packed, 1024 tokens", Case("cuda", half, 128, n_text=1024, packed=True)
    yield "all of 1024 tokens", Case("cuda", half, 128, n_text=1024)
    yield "packed, 64 tokens", Case("cuda", torch.float32, 32, n_text=64, packed=True)
    yield "packed, 64 tokens", Case("cuda", half, 256, n_text=64, packed=True)
    yield "100 tokens of prefix", Case("cuda", half, 64, n_prefix=100, packed=True)
    yield "bias or softcap", Case("cuda", half, 64, other="bias, softcap or dropout")
