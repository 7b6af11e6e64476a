"""Correctness before speed: the errors against float64, and their bounds.

The rule is that of FlashAttention (Dao et al.). The error of the result may be at most 2 times, and
the error of a gradient at most 3 times, the error of the plain implementation in the same dtype,
plus two units of rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benches.attention.inputs import Inputs, eager

RESULT_FACTOR, GRADIENT_FACTOR, UNITS = 2.0, 3.0, 2.0
#: Number of logits that are computed at once in float64.
CHUNK = 2**25


@dataclass(frozen=True)
class Verdict:
    """The worst of several errors.

    Attributes:
        name: `result`, or the name of the tensor whose gradient has the error.
        error: Largest absolute difference from float64.
        bound: Largest allowed error.
    """

    name: str
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the error is within its bound; nan never is."""
        return self.error <= self.bound


class Gate:
    """The exact result and gradients for some inputs, and the largest allowed errors."""

    def __init__(self, inputs: Inputs, *, seed: int = 1) -> None:
        self.inputs = inputs
        generator = torch.Generator(inputs.query.device).manual_seed(seed)
        query = inputs.query
        self.grad_out = torch.empty_like(query, requires_grad=False)
        self.grad_out.normal_(generator=generator)
        exact = _in_chunks(inputs, self.grad_out, torch.float64)
        plain = _in_chunks(inputs, self.grad_out, query.dtype)
        rounding = torch.finfo(query.dtype).eps
        self.exact, self.bounds = exact, {}
        for name, expected in exact.items():
            factor = RESULT_FACTOR if name == "result" else GRADIENT_FACTOR
            floor = UNITS * rounding * _error(expected, torch.zeros_like(expected))
            self.bounds[name] = factor * _error(plain[name], expected) + floor

    def judge(self, actual: Mapping[str, Tensor]) -> Verdict:
        """Return the error that is largest relative to its bound, of a result and its gradients."""
        verdicts = [
            Verdict(name, _error(actual[name], expected), self.bounds[name])
            for name, expected in self.exact.items()
        ]
        failed = [verdict for verdict in verdicts if not verdict.passed]
        return max(failed or verdicts, key=lambda verdict: verdict.error / (verdict.bound or 1.0))

    def check(self, run: Callable[[Inputs], Tensor]) -> Verdict:
        """Return the worst error of a provider."""
        return self.judge(with_gradients(run, self.inputs, self.grad_out))


def with_gradients(
    run: Callable[[Inputs], Tensor], inputs: Inputs, grad_out: Tensor
) -> dict[str, Tensor]:
    """Return the result and the gradients of all inputs by name."""
    result = run(inputs)
    tensors = list(inputs.tensors.values())
    # zeros where there is no gradient: an empty prefix has none
    gradients = torch.autograd.grad(result, tensors, grad_out, materialize_grads=True)
    return {"result": result.detach(), **dict(zip(inputs.tensors, gradients, strict=True))}


def _in_chunks(inputs: Inputs, grad_out: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the result of `eager`, a few texts at a time, because all logits may need too much."""
    n_batch, n_heads, n_text, _ = inputs.query.shape
    n_prefix = inputs.prefix_key.shape[2]
    step = max(1, CHUNK // (n_heads * n_text * (n_prefix + n_text)))
    chunks: list[dict[str, Tensor]] = []
    for first in range(0, n_batch, step):
        part = slice(first, first + step)
        chunk = inputs.rows(part).map(lambda x: x.detach().to(dtype).requires_grad_())
        chunks.append(with_gradients(eager, chunk, grad_out[part].to(dtype)))
    whole: dict[str, Tensor] = {}
    for name, tensor in {"result": inputs.query, **inputs.tensors}.items():
        parts = [chunk[name] for chunk in chunks]
        if len(tensor) == n_batch:
            whole[name] = torch.cat(parts)
        else:
            # shared by the batch: its gradient is a sum over the batch, which is rounded once
            whole[name] = torch.stack(parts).double().sum(0).to(dtype)
    return whole


def _error(actual: Tensor, expected: Tensor) -> float:
    return (actual.double() - expected).abs().max().item() if expected.numel() else 0.0
