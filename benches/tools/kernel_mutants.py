"""Check that the tests of the kernels notice mistakes in the kernels.

`make test-mutants`, or `python -m benches.tools.kernel_mutants [NAME ...]`. Each mistake is made in
a copy of the package, and `tests/test_kernels.py` must fail on that copy. The status is 1 if the
tests do not notice a mistake.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

ROOT = Path(__file__).parents[2]
#: Seconds after which the tests count as failed: a mistake can keep a kernel from ending.
TIMEOUT = 600


class Mutant(NamedTuple):
    """A mistake: `new` replaces every `old` in a file of `kernels/`."""

    name: str
    file: str
    old: str
    new: str


MUTANTS = (
    Mutant(
        "text past the end is seen",
        "forward.py",
        "visible = (column < length)[None, :]",
        "visible = (column >= 0)[None, :]",
    ),
    Mutant(
        "padding of the prefix is seen",
        "forward.py",
        "tl.where(token[None, :] < S + K, prefix_logits",
        "tl.where(token[None, :] >= 0, prefix_logits",
    ),
    Mutant(
        "padding of the prefix is seen backward",
        "backward.py",
        "tl.where(token[None, :] < S + K, logits",
        "tl.where(token[None, :] >= 0, logits",
    ),
    Mutant(
        "text past the end is seen backward",
        "backward.py",
        "visible = (column < length)[:, None]",
        "visible = (column >= 0)[:, None]",
    ),
    Mutant(
        "a query does not see itself",
        "common.py",
        "visible & (column <= row)",
        "visible & (column < row)",
    ),
    Mutant(
        "keys are seen from the next tile of queries on",
        "backward.py",
        "begin = first // BLOCK_Q * BLOCK_Q",
        "begin = first // BLOCK_Q * BLOCK_Q + BLOCK_Q",
    ),
    Mutant(
        "text ends as if tiles were square",
        "common.py",
        "end = tl.minimum(end, first + SIZE)",
        "end = tl.minimum(end, first + STEP)",
    ),
    Mutant(
        "query heads are dealt out to key heads",
        "forward.py",
        "key_head_number = head // G",
        "key_head_number = head % (H // G)",
    ),
    Mutant(
        "query heads are dealt out to key heads backward",
        "backward.py",
        "key_head_number = head // G",
        "key_head_number = head % (H // G)",
    ),
    Mutant("one query head of a key head", "backward.py", "in range(G)", "in range(1)"),
    Mutant("keys without scale", "backward.py", "written, grad_key * scale", "written, grad_key"),
    Mutant("prefix keys without scale", "backward.py", ".to(query.dtype), UPCAST) * scale",
           ".to(query.dtype), UPCAST)"),
    Mutant(
        "shared and own prefix change places",
        "common.py",
        "(token < S)[:, None],",
        "(token >= S)[:, None],",
    ),
    Mutant(
        "rows past the text are written",
        "common.py",
        "place >= n_text, place - n_text, place), row < n_text",
        "place >= n_text, place - n_text, place), row >= 0",
    ),
    Mutant(
        "padding on the left is not written",
        "common.py",
        "tl.where(place >= n_text, place - n_text, place), row < n_text",
        "place, place < n_text",
    ),
    Mutant(
        "packed rows run into the next text",
        "common.py",
        "return place, row < length",
        "return place, place < n_text",
    ),
    Mutant("window one longer", "common.py", "row - column < window", "row - column <= window"),
    Mutant(
        "window one longer ahead", "common.py", "column - row < window", "column - row <= window"
    ),
    Mutant(
        "windows skip a tile",
        "common.py",
        "begin = tl.maximum(first - window + 1, 0) // STEP * STEP",
        "begin = tl.maximum(first - window + 1, 0) // STEP * STEP + STEP",
    ),
    Mutant(
        "windows end early backward",
        "backward.py",
        "first + BLOCK_T - 1 + window",
        "first + BLOCK_T - 2 + window",
    ),
    Mutant("no delta", "backward.py", "weights * (dlogits - delta[None, :])", "weights * dlogits"),
    Mutant(
        "no delta for the prefix",
        "backward.py",
        "        dlogits = weights * (dlogits - delta[:, None])",
        "        dlogits = weights * dlogits",
    ),
    Mutant(
        "parts of empty tiles stay unwritten",
        "backward.py",
        "if NEED_PREFIX:\n                not",
        "if False:\n                not",
    ),
    Mutant(
        "old tiles keep their weight",
        "forward.py",
        "result = result * decay[:, None] + dot(",
        "result = result + dot(",
    ),
    Mutant(
        "values of the prefix get the gradient of its keys, by rows",
        "backward.py",
        "token < S + K, part_value, D, BLOCK_D)",
        "token < S + K, part_key, D, BLOCK_D)",
    ),
    Mutant(
        "own prefix gets the gradient of the shared one",
        "prefix_attention.py",
        "shared, own = sums.split((prefix_key.shape[2], n_own), dim=3)",
        "shared, own = sums[:, :, :, : prefix_key.shape[2]], sums[:, :, :, :n_own]",
    ),
    Mutant(
        "the text starts at 0 backward",
        "backward.py",
        "key_head_number * key_head + from_start * key_row",
        "key_head_number * key_head",
    ),
)  # fmt: skip


def survives(mutant: Mutant) -> bool:
    """Return whether the tests pass with the mistake."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "rarec"
        # rarec/kernels is a link; the copy holds the files themselves
        shutil.copytree(ROOT / "python" / "rarec", package)
        path = package / "kernels" / mutant.file
        source = path.read_text()
        if mutant.old not in source:
            raise ValueError(f"{mutant.name}: {mutant.file} has no {mutant.old!r}")
        path.write_text(source.replace(mutant.old, mutant.new))
        environment = {
            **os.environ,
            "PYTHONPATH": folder,
            "TRITON_INTERPRET": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        try:
            done = subprocess.run(
                [*command, "tests/test_kernels.py"],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def main() -> int:
    """Try all mistakes, or the named ones, and return 1 if one is not found."""
    console = Console()
    chosen = [mutant for mutant in MUTANTS if not sys.argv[1:] or mutant.name in sys.argv[1:]]
    survivors = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutant, survived in zip(chosen, pool.map(survives, chosen), strict=True):
            survivors += survived
            console.print(f"{'NOT FOUND' if survived else 'found':10} {mutant.name}")
    console.print(f"{len(chosen) - survivors} of {len(chosen)} mistakes found")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
