"""The fused prefix attention against the reference in float64; interpreted where there is no GPU.

`TRITON_INTERPRET=1 OMP_NUM_THREADS=1 pytest tests/test_kernels.py`: the variable must be set before
triton is imported, and more than one BLAS thread makes the interpreter many times slower.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("KERNELS NOT TESTED: neither TRITON_INTERPRET=1 nor a GPU", allow_module_level=True)
pytest.importorskip("triton", reason="KERNELS NOT TESTED: triton is not installed")

from rarec import ops  # noqa: E402
from rarec.kernels.prefix_attention import (  # noqa: E402
    Tile,
    prefix_attention,
    prefix_attention_forward,
)

DEVICE = "cpu" if INTERPRETED else "cuda"
TOLERANCE = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SMALL = Tile(16, 16, 4, 1)
WIDE = Tile(16, 32, 4, 1)
TALL = Tile(32, 16, 4, 1)

pytestmark = pytest.mark.usefixtures("poisoned_empty")


def inside_nan(values: Tensor, *, by_token: bool = False) -> Tensor:
    """Return `values` as a view inside a buffer of NaN; `by_token`: laid out `[B, T, H, D]`."""
    values = values.transpose(1, 2) if by_token else values
    buffer = torch.full([size + 2 for size in values.shape], float("nan"), dtype=values.dtype)
    view = buffer.to(values.device)[tuple(slice(1, size + 1) for size in values.shape)]
    view.copy_(values)
    return view.transpose(1, 2) if by_token else view


def make_inputs(
    n_text: int,
    n_prefix: int,
    dim: int,
    *,
    n_batch: int = 2,
    group: int = 1,
    shared: bool = False,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n_text + n_prefix + dim)
    text = (n_batch, 2, n_text, dim)
    prefix = (1 if shared else n_batch, 2, n_prefix, dim)
    shapes = ((n_batch, 2 * group, n_text, dim), text, text, prefix, prefix)
    values = (torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes)
    # text as Hugging Face hands it over, a transposed view; the prefix as plain rows
    return [
        inside_nan(value, by_token=number < 3).requires_grad_()
        for number, value in enumerate(values)
    ]


def spans(*pairs: tuple[int, int]) -> tuple[Tensor, Tensor]:
    # columns of one table: not contiguous
    start, length = torch.tensor(pairs, dtype=torch.int32, device=DEVICE).T
    return start, length


def assert_near(actual: Tensor, expected: Tensor, tolerance: float, name: str) -> None:
    assert actual.shape == expected.shape
    if expected.numel() == 0:
        return
    difference = (actual.double() - expected.double()).abs().max().item()
    # the floor: a softmax over one key has a gradient of exactly zero
    bound = tolerance * max(expected.abs().max().item(), 1.0)
    assert difference <= bound, f"{name}: {difference:.2e} > {bound:.2e}"


def assert_matches(
    inputs: list[Tensor], tile: Tile, *, tolerance: float | None = None, **options: Any
) -> None:
    """Check values and all gradients against float64 autograd of the reference."""
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = ops.prefix_attention_reference(*exact, **options)
    actual = prefix_attention(*inputs, tile=tile, **options)
    tolerance = TOLERANCE[actual.dtype] if tolerance is None else tolerance
    assert_near(actual, expected, tolerance, "result")

    generator = torch.Generator().manual_seed(0)
    gradient = inside_nan(
        torch.randn(actual.shape, generator=generator).to(DEVICE, actual.dtype), by_token=True
    )
    theirs = torch.autograd.grad(expected, exact, gradient.double(), materialize_grads=True)
    ours = torch.autograd.grad(actual, inputs, gradient)
    names = ("query", "key", "value", "prefix_key", "prefix_value")
    for name, one, other in zip(names, ours, theirs, strict=True):
        assert one.dtype == actual.dtype
        assert_near(one, other, tolerance, f"gradient of {name}")


@pytest.mark.parametrize(
    ("n_text", "n_prefix", "dim", "group", "shared", "causal", "tile"),
    [
        (1, 3, 32, 1, True, False, SMALL),
        (1, 0, 32, 1, False, True, SMALL),
        (15, 1, 48, 2, False, True, SMALL),
        (16, 16, 32, 1, True, True, WIDE),
        (17, 3, 64, 2, True, False, TALL),
        (33, 0, 48, 2, False, True, WIDE),
        (33, 0, 32, 1, True, False, TALL),
        (35, 16, 64, 1, False, True, TALL),
        (35, 19, 32, 2, True, True, SMALL),
    ],
)
def test_values_and_gradients(
    n_text: int,
    n_prefix: int,
    dim: int,
    group: int,
    shared: bool,
    causal: bool,
    tile: Tile,
) -> None:
    inputs = make_inputs(n_text, n_prefix, dim, group=group, shared=shared)
    assert_matches(inputs, tile, causal=causal, scale=0.3)


@pytest.mark.parametrize("n_prefix", [0, 3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tile", [WIDE, TALL], ids=["wide", "tall"])
def test_spans_of_every_kind(n_prefix: int, causal: bool, tile: Tile) -> None:
    # full, right padding, left padding, in the middle, one token, none
    padding = spans((0, 35), (0, 17), (18, 17), (15, 4), (34, 1), (5, 0))
    inputs = make_inputs(35, n_prefix, 32, n_batch=6, group=2, shared=n_prefix == 3)
    assert_matches(inputs, tile, padding=padding, causal=causal)


def test_spans_are_cut_to_the_text() -> None:
    padding = spans((12, 90), (-20, 25))
    assert_matches(make_inputs(19, 3, 32), SMALL, padding=padding, causal=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shared", [False, True])
def test_half_precision(dtype: torch.dtype, shared: bool) -> None:
    inputs = make_inputs(33, 9, 48, group=2, shared=shared, dtype=dtype)
    assert_matches(inputs, SMALL, padding=spans((0, 20), (2, 31)), causal=True)


@pytest.mark.parametrize("n_prefix", [0, 3])
def test_logits_far_below_zero(n_prefix: int) -> None:
    inputs = make_inputs(18, n_prefix, 32)
    with torch.no_grad():
        for tensor, value in zip(inputs, (5.0, -5.0, 1.0, -5.0, 1.0), strict=True):
            # all logits near -5 * 5 * 32 / sqrt(32) = -141: padding at logit 0 would win
            tensor.mul_(0.05).add_(value)
    # a logit of 141 is known to 1e-5 in float32, and so are the weights
    assert_matches(inputs, SMALL, tolerance=1e-4, padding=spans((0, 11), (4, 14)))


def test_padded_rows_are_zero_and_their_sum_infinite() -> None:
    query, key, value, *prefix = (tensor.detach() for tensor in make_inputs(20, 3, 48))
    start, length = spans((4, 9), (0, 0))
    out, lse = prefix_attention_forward(
        query, key, value, prefix[0], prefix[1], start, length, causal=False, scale=0.1, tile=SMALL
    )
    absent = torch.ones(2, 20, dtype=torch.bool, device=DEVICE)
    absent[0, 4:13] = False
    assert out.transpose(1, 2)[absent].eq(0.0).all()
    assert lse.transpose(1, 2)[absent].eq(float("inf")).all()
    assert lse.transpose(1, 2)[~absent].isfinite().all()


def test_same_bits_twice() -> None:
    inputs = make_inputs(35, 9, 32, group=2, shared=True)

    def run() -> tuple[Tensor, ...]:
        out = prefix_attention(*inputs, causal=True, tile=SMALL)
        return out, *torch.autograd.grad(out.square().sum(), inputs)

    assert all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (4,), (3, 4)])
def test_gradients_of_some_inputs_are_those_of_all(wanted: tuple[int, ...]) -> None:
    inputs = make_inputs(17, 3, 32, shared=True)
    every = torch.autograd.grad(prefix_attention(*inputs, tile=SMALL).square().sum(), inputs)
    some = [tensor if i in wanted else tensor.detach() for i, tensor in enumerate(inputs)]
    out = prefix_attention(*some, tile=SMALL)
    gradients = torch.autograd.grad(out.square().sum(), [some[i] for i in wanted])
    for gradient, i in zip(gradients, wanted, strict=True):
        assert torch.equal(gradient, every[i])


def test_ops_runs_it_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(21, 3, 32, group=2, shared=True)
    padding = spans((0, 21), (3, 10))
    expected = ops.prefix_attention(*inputs, padding=padding, causal=True)
    actual = ops.prefix_attention(*inputs, padding=padding, causal=True, implementation="fused")
    assert_near(actual, expected, TOLERANCE[torch.float32], "result")
    # two implementations, two roundings: equal bits would mean that one ran twice
    assert not torch.equal(actual, expected)
    monkeypatch.setenv(ops.IMPLEMENTATION_VARIABLE, "fused")
    assert torch.equal(ops.prefix_attention(*inputs, padding=padding, causal=True), actual)


def test_an_empty_batch_and_an_axis_with_strides() -> None:
    empty = [tensor.detach()[:0] for tensor in make_inputs(4, 3, 32)]
    assert prefix_attention(*empty).shape == (0, 2, 4, 32)
    inputs = [tensor.detach().mT.contiguous().mT for tensor in make_inputs(19, 3, 32)]
    assert inputs[0].stride(-1) != 1
    assert_matches([tensor.requires_grad_() for tensor in inputs], SMALL)
