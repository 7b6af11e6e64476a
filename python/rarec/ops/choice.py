"""The choice of the implementation of prefix attention: one table of rules."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

import torch

IMPLEMENTATIONS = ("reference", "fused")
IMPLEMENTATION_VARIABLE = "RAREC_PREFIX_ATTENTION"

HAS_TRITON = importlib.util.find_spec("triton") is not None
#: Largest head dimension for which the kernels keep their values in registers (docs/kernels.md).
FUSED_DIM = 128
#: Largest number of prefix tokens that fit one tile.
FUSED_PREFIX = 64
#: Largest number of text tokens, without padding, for which the fused kernel is preferred. The
#: number comes from the memory model in `benches.attention.model`, not from timing on a GPU.
FUSED_TEXT = 256


@dataclass(frozen=True)
class Case:
    """The properties of the inputs that the choice depends on.

    Attributes:
        device: Type of the device, such as `cpu` or `cuda` (the name of ROCm devices too).
        dtype: Dtype of the tensors.
        dim: Head dimension.
        n_text: Number of tokens of the longest text.
        n_prefix: Number of prefix tokens of a text.
        padded: Whether some tokens are padding.
        packed: Whether the texts are packed in one row.
        windowed: Whether a query sees only the text near it.
        reference_only: Name of an input that only the reference supports; None if there is none.
    """

    device: str
    dtype: torch.dtype
    dim: int
    n_text: int = 128
    n_prefix: int = 16
    padded: bool = False
    packed: bool = False
    windowed: bool = False
    reference_only: str | None = None


@dataclass(frozen=True)
class Choice:
    """An implementation, and the reason why it was chosen."""

    implementation: str
    reason: str


def _rules(case: Case) -> tuple[tuple[bool, str, bool, str], ...]:
    """Return the rules in their order; the first rule that applies decides.

    A rule is: whether it applies, the implementation, whether the other one cannot run, the reason.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    masked = case.padded or case.packed or case.windowed
    floats = (torch.float16, torch.bfloat16, torch.float32)
    return (
        (case.reference_only is not None, "reference", True, case.reference_only or ""),
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
            f"device {case.device} (the kernels need a GPU; tests set TRITON_INTERPRET=1)",
        ),
        (
            case.dtype == torch.float32 and not interpreted,
            "reference",
            True,
            "float32 has no matrix unit at full precision",
        ),
        (case.device != "cuda", "reference", False, "Triton's interpreter is only for tests"),
        (
            case.n_text > FUSED_TEXT and not masked,
            "reference",
            False,
            f"more than {FUSED_TEXT} tokens without a mask are left to torch's flash attention",
        ),
        (True, "fused", False, "keys are not concatenated, padding is not read"),
    )


def choose(case: Case, implementation: str | None = None) -> Choice:
    """Return the implementation for a case, and the reason.

    Args:
        case: Properties of the inputs.
        implementation: One of `IMPLEMENTATIONS`. The default is the value of the environment
            variable `RAREC_PREFIX_ATTENTION` if that implementation can run, and otherwise the
            first rule that applies.

    Raises:
        ValueError: If the implementation is unknown, or if the fused one cannot run this case.
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
            # the variable is for a whole program, which may contain attentions with a dense mask
            return Choice(best, reason)
        raise ValueError(f"expected inputs that the fused attention supports, got {reason}")
    return Choice(implementation, f"set by {source}")
