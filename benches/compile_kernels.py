"""Compile the fused prefix attention for several GPUs, without any GPU, and refuse what spills.

`make compile-kernels` calls `python -m benches.compile_kernels`. It prepares every launch of
`rarec.kernels` for each target, with the arguments and specialisations of a real launch, and stops
before the kernel runs. ptxas and LLVM report the resources of each program. The rows are written to
`benches/results/kernels.json`. The exit status is 1 if a configuration is refused, because

- it spills registers or has a stack;
- it has no product on tensor cores, or a pipelined loop has no asynchronous copies;
- it needs more shared memory than one program can have (or more tensor memory, on sm_100).

It does not work with TRITON_INTERPRET=1, because interpreted kernels are not compiled.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import triton
from rich.console import Console
from rich.progress import track
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

RESULTS = Path(__file__).parent / "results" / "kernels.json"


@dataclass(frozen=True)
class Target:
    """A GPU: its target in Triton, its instructions for products and copies, its shared memory."""

    name: str
    gpu: GPUTarget
    product: str
    copy: str | None
    shared_bytes: int


TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", GPUTarget("cuda", 80, 32), "mma.sync", "cp.async", 163 * 1024),
        Target("sm_90", GPUTarget("cuda", 90, 32), "wgmma.mma_async", "cp.async", 227 * 1024),
        Target("sm_100", GPUTarget("cuda", 100, 32), "tcgen05.mma", "cp.async", 227 * 1024),
        Target("gfx942", GPUTarget("hip", "gfx942", 64), "v_mfma", None, 64 * 1024),
    )
}
KERNELS = ("forward", "backward_query", "backward_text")
#: Tensor memory of a program on sm_100, in columns; with more Triton makes an empty kernel.
TENSOR_MEMORY = 512


@dataclass(frozen=True)
class Launch:
    """Inputs of one launch, forward and backward."""

    dim: int
    dtype: torch.dtype
    n_text: int
    causal: bool = False
    window: int | None = None
    packed: bool = False
    group: int = 1
    n_shared: int = 8
    n_own: int = 2

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        kinds = [
            "causal" if self.causal else "",
            "window" if self.window else "",
            "packed" if self.packed else "",
            f"group {self.group}" if self.group > 1 else "",
            f"prefix {self.n_shared}+{self.n_own}",
        ]
        return " ".join([f"{dtype} D{self.dim} T{self.n_text}", *filter(None, kinds)])


def shipped() -> Iterator[Launch]:
    """Yield launches that together reach every tile and every branch of the kernels."""
    for dim in (32, 64, 128):
        whole = Launch(dim, torch.bfloat16, 512)
        # tiles are smaller for short texts, so each size is another configuration
        for n_text in (16, 32, 64, 512):
            yield replace(whole, n_text=n_text)
        yield replace(whole, causal=True, window=100, packed=True, group=4)
        yield replace(whole, causal=True, dtype=torch.float16)
        yield replace(whole, n_shared=60, n_own=4, window=100)
        yield replace(whole, n_shared=0, n_own=0, packed=True)
    for dim in (48, 80, 96):
        yield Launch(dim, torch.bfloat16, 512, n_shared=16, n_own=0)


class FakeDriver:
    """The part of a driver that a launch uses before the kernel runs."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: object = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self) -> object:
        return torch.cpu

    def map_python_to_cpp_type(self, name: str) -> str:
        return name

    def is_active(self) -> bool:
        return True

    def assemble_tensormap_to_arg(self, *args: object) -> tuple[object, ...]:
        return args


class Recorder:
    """A replacement for a kernel that compiles each launch and keeps it instead of running it."""

    def __init__(self, kernel: Any, kept: list[tuple[str, dict[str, Any], Any]]) -> None:
        self.kernel = kernel
        self.kept = kept

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **constants: Any) -> None:
            compiled = self.kernel.warmup(*args, **constants, grid=grid)
            self.kept.append((self.kernel.fn.__name__, constants, compiled))

        return launch


def compile_launch(launch: Launch, target: str) -> list[dict[str, Any]]:
    """Return a row for each kernel of a launch."""
    from rarec.kernels import prefix_attention as module

    fake: Any = FakeDriver(TARGETS[target].gpu)
    driver.set_active(fake)
    kept: list[tuple[str, dict[str, Any], Any]] = []
    originals = {name: getattr(module, name) for name in KERNELS}
    for name, kernel in originals.items():
        kernel.device_caches.clear()
        setattr(module, name, Recorder(kernel, kept))
    try:
        # as Hugging Face lays them out
        def text(n_heads: int) -> torch.Tensor:
            shape = (1 if launch.packed else 2, launch.n_text, n_heads, launch.dim)
            return torch.zeros(shape, dtype=launch.dtype).transpose(1, 2).requires_grad_()

        def prefix(n_rows: int, n_tokens: int) -> torch.Tensor:
            shape = (n_rows, 2, n_tokens, launch.dim)
            return torch.zeros(shape, dtype=launch.dtype).requires_grad_()

        packed = None
        if launch.packed:
            half = launch.n_text // 2
            lengths = torch.tensor([half, launch.n_text - half], dtype=torch.int32)
            packed = (torch.tensor([0, half], dtype=torch.int32), lengths, half)
        out = module.prefix_attention(
            text(2 * launch.group),
            text(2),
            text(2),
            prefix(1, launch.n_shared),
            prefix(1, launch.n_shared),
            own_key=prefix(2, launch.n_own),
            own_value=prefix(2, launch.n_own),
            packed=packed,
            causal=launch.causal,
            window=launch.window,
        )
        out.sum().backward()
    finally:
        for name, kernel in originals.items():
            setattr(module, name, kernel)
    return [_row(launch, target, *entry) for entry in kept]


def _row(
    launch: Launch, target: str, kernel: str, constants: dict[str, Any], compiled: Any
) -> dict[str, Any]:
    """Return the resources of a compiled kernel, and the reason if it is refused."""
    chip = TARGETS[target]
    tile = [constants[name] for name in ("BLOCK_Q", "BLOCK_T", "num_warps", "num_stages")]
    row: dict[str, Any] = {
        "config": f"{kernel} {launch}",
        "dim": constants["BLOCK_D"],
        "tile": tile,
        "target": target,
        **(_nvidia(compiled) if chip.gpu.backend == "cuda" else _amd(compiled)),
        "shared_bytes": compiled.metadata.shared,
    }
    assembly = compiled.asm["ptx" if chip.gpu.backend == "cuda" else "amdgcn"]
    # with fewer than 64 rows there is no product of the newest kind, but one as on sm_80
    older = tile[1 if kernel == "backward_text" else 0] < 64 and chip.gpu.backend == "cuda"
    row["tensor_cores"] = assembly.count(chip.product)
    if older and chip.product != "mma.sync":
        row["tensor_cores"] += assembly.count("mma.sync")
    refused = []
    if row["spill_bytes"]:
        refused.append(f"spills {row['spill_bytes']} bytes")
    if not row["tensor_cores"]:
        refused.append("no tensor core")
    if row["shared_bytes"] > chip.shared_bytes:
        refused.append(f"more shared memory than {chip.shared_bytes}")
    if getattr(compiled.metadata, "tmem_size", 0) > TENSOR_MEMORY:
        refused.append(f"more tensor memory than {TENSOR_MEMORY}")
    if chip.copy and tile[3] >= 2 and _copies_whole_rows(launch) and chip.copy not in assembly:
        refused.append("no asynchronous copy")
    row["refused"] = "; ".join(refused)
    return row


def _copies_whole_rows(launch: Launch) -> bool:
    """Return whether rows fill their tile; otherwise a mask prevents asynchronous copies."""
    return launch.dim == triton.next_power_of_2(launch.dim)


def _nvidia(compiled: Any) -> dict[str, int]:
    """Return the registers of a thread, and the bytes of stack and local memory (spills)."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", cubin.name], capture_output=True, text=True, check=True
        ).stdout
    usage = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return {"registers": usage["REG"], "spill_bytes": usage["STACK"] + usage["LOCAL"]}


def _amd(compiled: Any) -> dict[str, int]:
    """Return the vector registers of a thread, and the bytes of private memory (spills)."""
    text = compiled.asm["amdgcn"]

    def number(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        assert found is not None, name
        return int(found[1])

    # scalar registers spill into lanes of vector registers, not into memory
    spilled = max(4 * number("vgpr_spill_count"), number("private_segment_fixed_size"))
    return {"registers": number("vgpr_count"), "spill_bytes": spilled}


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table of the largest numbers for each kernel and head dimension."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    lines = [f"| kernel, D | {' | '.join(targets)} |", f"|---|{'---|' * len(targets)}"]
    cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        name = f"{row['config'].split()[0]} {row['dim']}"
        cells.setdefault(name, {}).setdefault(row["target"], []).append(row)
    for name, by_target in cells.items():
        texts = []
        for target in targets:
            worst = {
                key: max(row[key] for row in by_target[target])
                for key in ("registers", "spill_bytes", "shared_bytes")
            }
            shared = worst["shared_bytes"] / 1024
            texts.append(f"{worst['registers']} / {worst['spill_bytes']} / {shared:.0f}")
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return [*lines, "", "registers a thread / bytes spilled / KiB of shared memory"]


def main() -> int:
    """Compile all launches, print the table, write the rows; return 1 if any is refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--target", choices=list(TARGETS), action="append", help="default: all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    console = Console()
    jobs = [(launch, target) for target in options.target or TARGETS for launch in shipped()]
    # spawn: torch's threads do not survive a fork
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        results = pool.map(compile_launch, *zip(*jobs, strict=True))
        rows = [
            row
            for result in track(results, "compiling", total=len(jobs), console=console)
            for row in result
        ]
    console.print("\n".join(summary(rows)), soft_wrap=True)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(
        json.dumps({"triton": triton.__version__, "rows": rows}, indent=1) + "\n"
    )
    refused = [row for row in rows if row["refused"]]
    for row in refused:
        console.print(f"refused: {row['target']} {row['config']} {row['tile']}: {row['refused']}")
    console.print(
        f"{len(rows)} kernels compiled, {len(refused)} refused; {options.out.name} written"
    )
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
