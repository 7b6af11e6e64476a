"""The self-test of the fused attention: is its result right on this machine?

Compilers differ from machine to machine, and a kernel that is compiled wrongly gives no error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rarec.ops.attention import prefix_attention
from rarec.ops.packing import Packed
from rarec.ops.reference import prefix_attention_reference

_NAMES = ("result", "query", "key", "value", "prefix key", "prefix value", "own key", "own value")


@dataclass(frozen=True)
class SelfTestCase:
    """The outcome of one case: a small attention, forward and backward.

    Attributes:
        case: Description of the inputs.
        error: Largest difference of the result, or of a gradient, from its value in float64. It is
            relative to the largest number of that tensor, or to 1 if that is larger; nan if a
            number is nan.
        worst: Name of the tensor with the largest error, or the message of the exception.
    """

    case: str
    error: float
    worst: str

    @property
    def passed(self) -> bool:
        """Whether rounding explains the error: the limit is 0.02; bfloat16 usually has 0.004."""
        return self.error <= 0.02


def run_self_test(
    device: str | torch.device, *, dtype: torch.dtype = torch.bfloat16, n_text: int = 130
) -> Iterator[SelfTestCase]:
    """Yield the outcome of each case: the fused attention compared with float64.

    Args:
        device: The GPU to test.
        dtype: Dtype of the inputs.
        n_text: T, the number of tokens of the longest of three packed texts.
    """
    for dim in (32, 64, 128):
        for causal in (False, True):
            case = f"head dimension {dim}, {'causal' if causal else 'bidirectional'}"
            try:
                error, worst = _worst_error(device, dtype, n_text, dim, causal)
            # a compiler or a GPU may raise any exception
            except Exception as broken:
                reason = str(broken).strip().partition("\n")[0]
                error, worst = float("nan"), f"{type(broken).__name__}: {reason}"
            yield SelfTestCase(case, error, worst)


def _worst_error(
    device: str | torch.device, dtype: torch.dtype, n_text: int, dim: int, causal: bool
) -> tuple[float, str]:
    """Return the largest relative error of one case, and the name of the tensor that has it."""
    generator = torch.Generator().manual_seed(dim)
    lengths = (n_text, n_text // 2, 1)
    offsets = torch.tensor([0, *lengths]).cumsum(0).int().to(device)
    packed = Packed(offsets, n_text)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    text = [draw(1, n_heads, sum(lengths), dim) for n_heads in (4, 2, 2)]
    shared = [draw(1, 2, 14, dim) for _ in range(2)]
    own = [draw(len(lengths), 2, 2, dim) for _ in range(2)]
    gradient = draw(1, 4, sum(lengths), dim)

    def run(wanted: torch.dtype) -> list[Tensor]:
        inputs = [x.to(wanted).requires_grad_() for x in (*text, *shared, *own)]
        options = {"own_key": inputs[5], "own_value": inputs[6], "packed": packed, "causal": causal}
        if wanted == torch.float64:
            result = prefix_attention_reference(*inputs[:5], **options)
        else:
            result = prefix_attention(*inputs[:5], **options, implementation="fused")
        grads = torch.autograd.grad(result, inputs, gradient.to(wanted))
        return [result.detach(), *grads]

    errors = {
        name: float((one.double() - truth).abs().max() / truth.abs().max().clamp(min=1.0))
        for name, one, truth in zip(_NAMES, run(dtype), run(torch.float64), strict=True)
    }
    # nan counts as the largest error; a plain comparison with nan is always false
    worst = max(errors, key=lambda name: (errors[name] != errors[name], errors[name]))
    return errors[worst], worst
