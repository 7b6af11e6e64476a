"""Checks of the fused kernels: values and gradients against float64, and equal bits in two runs.

They cover what the timed cases do not: odd sizes, spans of every kind, packed texts, windows, each
part of the prefix alone, logits far below zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benches.attention.gate import Gate, with_gradients
from benches.attention.inputs import Inputs, make_inputs
from benches.attention.providers import fused, run_packed
from benches.attention.shapes import Case, Shape

SPANS = ("full", "right", "left", "middle")
#: Logit of every query and key. A backward that does not mask the padding of the prefix gives nan.
LOW_LOGIT = -150.0


@dataclass(frozen=True)
class Check:
    """Inputs of four texts that may show a mistake of a kernel.

    Attributes:
        dtype: Name of the dtype.
        n_text: T, the number of text tokens in a row.
        n_shared: Number of prefix tokens that all texts share.
        n_own: Number of further prefix tokens of each text.
        dim: Head dimension.
        group: Number of query heads for each key head; there are four query heads.
        causal: Whether a token sees only the text up to itself.
        spans: Place of the text in its row, one of `SPANS`. All but `full` have a text of T tokens,
            a text of one token and an empty text.
        window: Window of the attention in tokens, or None.
        packed: Whether the texts are packed in one row; `spans` is then `right`.
        low: Whether all logits are near `LOW_LOGIT`.
    """

    dtype: str = "bfloat16"
    n_text: int = 130
    n_shared: int = 14
    n_own: int = 2
    dim: int = 64
    group: int = 1
    causal: bool = False
    spans: str = "full"
    window: int | None = None
    packed: bool = False
    low: bool = False

    def __str__(self) -> str:
        words = [self.dtype, f"T{self.n_text} P{self.n_shared}+{self.n_own} D{self.dim}"]
        words += [f"group {self.group}", "causal" if self.causal else "bidirectional"]
        words.append("packed" if self.packed else self.spans)
        if self.window is not None:
            words.append(f"window {self.window}")
        return ", ".join([*words, "low logits"] if self.low else words)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a check; `detail` has the worst error and its bound, or the problem."""

    check: str
    passed: bool
    detail: str


def checks(*, quick: bool = False) -> list[Check]:
    """Return the checks, most in bfloat16; with `quick` only one of each kind."""
    base = Check()
    some = [
        base,
        replace(base, causal=True, group=4),
        replace(base, spans="right", causal=True, group=2),
        replace(base, spans="left"),
        replace(base, spans="right", packed=True),
        replace(base, causal=True, window=9),
        replace(base, low=True),
    ]
    others = [
        *(replace(base, n_text=n_text, causal=True) for n_text in (1, 17, 64, 65, 300)),
        *(replace(base, dim=dim, causal=True, group=2) for dim in (32, 48, 128)),
        *(
            replace(base, n_shared=n_shared, n_own=n_own, spans="right")
            for n_shared, n_own in ((1, 0), (0, 2), (16, 1), (3, 0), (40, 24))
        ),
        replace(base, spans="left", causal=True, group=2),
        replace(base, spans="middle"),
        replace(base, spans="middle", causal=True),
        replace(base, spans="right", packed=True, causal=True, group=2, window=33),
        replace(base, spans="left", window=33),
        replace(base, spans="right", low=True, causal=True),
    ]
    halves = [replace(check, dtype="float16") for check in some]
    return some if quick else [*some, *others, *halves]


def build(check: Check, device: str) -> Inputs:
    """Return the inputs of a check."""
    shape = Shape("check", 4, 4 // check.group, check.dim, check.causal)
    sizes = (check.n_text, check.n_shared, check.n_own)
    inputs = make_inputs(Case(shape, 4, *sizes, padded=False, dtype=check.dtype), device)
    inputs = replace(inputs, window=check.window)
    if check.low:
        # query . key / sqrt(D) is near -offset^2 sqrt(D)
        offset = (-LOW_LOGIT / check.dim**0.5) ** 0.5
        moved = {
            name: (0.1 * tensor.detach() + (offset if name == "query" else -offset))
            for name, tensor in inputs.tensors.items()
            if not name.endswith("value")
        }
        inputs = replace(inputs, **{name: x.requires_grad_() for name, x in moved.items()})
    if check.spans != "full":
        lengths = torch.tensor([check.n_text, check.n_text // 2, 1, 0], dtype=torch.int32)
        room = {"right": 0, "left": 1, "middle": 0.5}[check.spans]
        start = ((check.n_text - lengths) * room).int()
        inputs = replace(inputs, padding=(start.to(device), lengths.to(device)))
    return inputs


def run_check(check: Check, device: str, run: Callable[[Inputs], Tensor] | None = None) -> Outcome:
    """Return the outcome of a check for a function; by default it checks the fused kernel."""
    if run is None:
        run = run_packed if check.packed else fused
    try:
        gate = Gate(build(check, device))
        first = with_gradients(run, gate.inputs, gate.grad_out)
        second = with_gradients(run, gate.inputs, gate.grad_out)
        verdict = gate.judge(first)
    except Exception as error:
        # an exception in one check must not end the others
        return Outcome(str(check), False, f"{type(error).__name__}: {error}".partition("\n")[0])
    detail = f"{verdict.name}: error {verdict.error:.2e}, bound {verdict.bound:.2e}"
    different = [name for name in first if not torch.equal(first[name], second[name])]
    if verdict.passed and different:
        return Outcome(str(check), False, f"two runs differ in {', '.join(different)}")
    return Outcome(str(check), verdict.passed, detail)
