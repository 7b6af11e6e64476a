"""Which implementation of prefix attention runs where: one table."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

import torch

IMPLEMENTATIONS = ("reference", "fused")
IMPLEMENTATION_VARIABLE = "RAREC_PREFIX_ATTENTION"

HAS_TRITON = importlib.util.find_spec("triton") is not None
#: Largest head dimension whose kernels keep their values in registers (docs/kernels.md).
FUSED_DIM = 128
#: Prefix tokens that fit one tile.
FUSED_PREFIX = 64
#: Text tokens up to which the fused kernel moves less memory than it computes slower, by the model
#: of `benches.attention.model`: no GPU has timed it.
FUSED_TEXT = 256


@dataclass(frozen=True)
class Case:
    """What the choice depends on.

    Attributes:
        device: Type of the device: `cuda` (also of ROCm), `cpu`, ...
        dtype: Of the tensors.
        dim: Head dimension.
        n_text: Tokens of the longest text.
        n_prefix: Prefix tokens of a text.
        padded: Some tokens are padding.
        packed: The texts stand one after the other.
        windowed: A query sees near text only.
        other: What else is asked that only the reference can do.
    """

    device: str
    dtype: torch.dtype
    dim: int
    n_text: int = 128
    n_prefix: int = 16
    padded: bool = False
    packed: bool = False
    windowed: bool = False
    other: str | None = None


@dataclass(frozen=True)
class Choice:
    """An implementation and the reason for it."""

    implementation: str
    reason: str


def _rules(case: Case) -> tuple[tuple[bool, str, bool, str], ...]:
    """Return the table: applies, implementation, no other can run, reason; the first decides."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    masked = case.padded or case.packed or case.windowed
    floats = (torch.float16, torch.bfloat16, torch.float32)
    return (
        (case.other is not None, "reference", True, case.other or ""),
        (case.dtype not in floats, "reference", True, f"dtype {case.dtype}"),
        (
            case.dim > FUSED_DIM,
            "reference",
            True,
            f"head dimension {case.dim}, more than {FUSED_DIM}",
        ),
        (
            case.n_prefix > FUSED_PREFIX,
            "reference",
            True,
            f"{case.n_prefix} prefix tokens, more than {FUSED_PREFIX}",
        ),
        (not HAS_TRITON, "reference", True, "no triton (pip install triton)"),
        (
            case.device != "cuda" and not interpreted,
            "reference",
            True,
            f"device {case.device} (a GPU's kernel; TRITON_INTERPRET=1 interprets it, for tests)",
        ),
        (
            case.dtype == torch.float32 and not interpreted,
            "reference",
            True,
            "float32 has no matrix unit at full precision",
        ),
        (case.device != "cuda", "reference", False, "Triton's interpreter is for tests"),
        (
            case.n_text > FUSED_TEXT and not masked,
            "reference",
            False,
            f"more than {FUSED_TEXT} tokens without a mask: torch's flash attention",
        ),
        (True, "fused", False, "keys are not concatenated, padding is not read"),
    )


def choose(case: Case, implementation: str | None = None) -> Choice:
    """Return the implementation of a case, and why.

    Args:
        case: What is to be computed.
        implementation: One of `IMPLEMENTATIONS`; default the environment variable
            `RAREC_PREFIX_ATTENTION`, where what it says can run, else the best.

    Raises:
        ValueError: If there is no such implementation, or it cannot run this case.
    """
    source = "implementation"
    if implementation is None and os.environ.get(IMPLEMENTATION_VARIABLE):
        source, implementation = IMPLEMENTATION_VARIABLE, os.environ[IMPLEMENTATION_VARIABLE]
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"expected {source} in {list(IMPLEMENTATIONS)}, got {implementation!r}")
    best, forced, reason = next(row[1:] for row in _rules(case) if row[0])
    if implementation is None:
        return Choice(best, reason)
    if implementation == "fused" and forced:
        if source == IMPLEMENTATION_VARIABLE:
            # it speaks of a whole program, some of whose attentions have a dense mask
            return Choice(best, reason)
        raise ValueError(f"expected inputs the fused prefix attention can run, got {reason}")
    return Choice(implementation, f"{source} says so")
