"""The fused prefix attention, compared with the reference in float64.

Without a GPU the kernels run in Triton's interpreter:
`TRITON_INTERPRET=1 OMP_NUM_THREADS=1 pytest tests/test_kernels.py`. The variable must be set before
triton is imported; more than one BLAS thread makes the interpreter many times slower.
`python -m benches.tools.kernel_mutants` shows which mistakes these tests find.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("KERNELS NOT TESTED: neither TRITON_INTERPRET=1 nor a GPU", allow_module_level=True)
pytest.importorskip("triton", reason="KERNELS NOT TESTED: triton is not installed")

import transformers  # noqa: E402

from rarec import ops  # noqa: E402
from rarec.backbone import Backbone  # noqa: E402
from rarec.kernels import prefix_attention as kernels  # noqa: E402
from rarec.kernels.tiles import Tile  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
#: Dtype that `ops` passes to the kernels: a GPU has no matrix unit for float32.
FUSED_DTYPE = torch.float32 if INTERPRETED else torch.bfloat16
FLOORS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}
NAMES = ("query", "key", "value", "prefix_key", "prefix_value", "own_key", "own_value")
SMALL = Tile(16, 16, 4, 1)
WIDE = Tile(16, 32, 4, 1)
TALL = Tile(32, 16, 4, 1)

pytestmark = pytest.mark.usefixtures("poisoned_empty")


def inside_nan(values: Tensor, *, by_token: bool = False) -> Tensor:
    """Return `values` as a view inside a buffer of NaN; with `by_token` laid out `[B, T, H, D]`."""
    values = values.transpose(1, 2) if by_token else values
    buffer = torch.full([size + 2 for size in values.shape], float("nan"), dtype=values.dtype)
    view = buffer.to(values.device)[tuple(slice(1, size + 1) for size in values.shape)]
    view.copy_(values)
    return view.transpose(1, 2) if by_token else view


run_kernels = kernels.prefix_attention


def fused(*tensors: Tensor, packed: Any = None, **options: Any) -> Tensor:
    """Return the fused attention; `tile` may be one that no GPU uses."""
    if isinstance(packed, ops.Packed):
        packed = (packed.start, packed.lengths, packed.longest)
    return run_kernels(*tensors, packed=packed, **options)


@dataclass
class Inputs:
    """Float inputs in the order of `NAMES`, and the options of the call."""

    tensors: list[Tensor]
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, function: Any, tensors: list[Tensor] | None = None, **more: Any) -> Tensor:
        """Return the attention of the inputs, or of other tensors in their place."""
        *five, own_key, own_value = self.tensors if tensors is None else tensors
        own = {} if own_key.shape[2] == 0 else {"own_key": own_key, "own_value": own_value}
        return function(*five, **own, **self.options, **more)


def make_inputs(
    n_text: int,
    n_prefix: int,
    dim: int,
    *,
    n_own: int = 0,
    n_batch: int = 2,
    n_key_heads: int = 2,
    group: int = 1,
    shared: bool = False,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Inputs:
    generator = torch.Generator().manual_seed(n_text + n_prefix + dim)
    packed = options.get("packed")
    n_rows = n_batch if packed is None else len(packed)
    n_batch = n_batch if packed is None else 1
    text = (n_batch, n_key_heads, n_text, dim)
    prefix = (1 if shared else n_rows, n_key_heads, n_prefix, dim)
    own = (n_rows, n_key_heads, n_own, dim)
    shapes = ((n_batch, n_key_heads * group, n_text, dim), text, text, prefix, prefix, own, own)
    values = (torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes)
    # transformers passes the text as a transposed view, and rarec the prefix as plain rows
    tensors = [
        inside_nan(value, by_token=number < 3).requires_grad_()
        for number, value in enumerate(values)
    ]
    return Inputs(tensors, options)


def spans(*pairs: tuple[int, int]) -> tuple[Tensor, Tensor]:
    # columns of one table, so not contiguous
    start, length = torch.tensor(pairs, dtype=torch.int32, device=DEVICE).T
    return start, length


def packed_texts(*lengths: int) -> ops.Packed:
    offsets = torch.tensor([0, *lengths], dtype=torch.int32, device=DEVICE).cumsum(0)
    return ops.Packed(offsets.int(), max(lengths))


def gradients(out: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Return the gradients for one random gradient of the result, which is not contiguous."""
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(out.shape, generator=generator).to(DEVICE, out.dtype)
    if out.ndim == 4:
        gradient = inside_nan(gradient, by_token=True)
    return list(torch.autograd.grad(out, tensors, gradient, materialize_grads=True))


def assert_as_near(
    names: Sequence[str],
    truths: list[Tensor],
    plains: list[Tensor],
    ours: list[Tensor],
    floor: float,
) -> None:
    """Check that each of `ours` is about as near to the truth as the reference in the same dtype.

    The error may be at most twice (values, which come first) or three times (gradients) the error
    of the reference, or a floor relative to the largest number.
    """
    for name, truth, plain, our in zip(names, truths, plains, ours, strict=True):
        assert our.shape == truth.shape
        assert our.dtype == plain.dtype
        if truth.numel() == 0:
            continue
        # the floor is needed: a softmax over one key has a gradient of exactly zero
        size = max(truth.abs().max().item(), 1.0)
        error, usual = ((x.double() - truth).abs().max().item() for x in (our, plain))
        allowed = max((2 if name == names[0] else 3) * usual, floor * size)
        assert error <= allowed, f"{name}: {error:.2e} > {allowed:.2e}"


def assert_matches(inputs: Inputs, tile: Tile, *, tolerance: float | None = None) -> None:
    """Compare values and gradients with those of the reference in float64."""
    # copies: on a GPU torch's attention refuses rows that are not aligned, or reads them wrongly
    copies = [tensor.clone(memory_format=torch.contiguous_format) for tensor in inputs.tensors]
    exact = [tensor.detach().double().requires_grad_() for tensor in copies]
    plain = [tensor.detach().requires_grad_() for tensor in copies]
    results = []
    for tensors, function, more in (
        (exact, ops.prefix_attention_reference, {}),
        (plain, ops.prefix_attention_reference, {}),
        (inputs.tensors, fused, {"tile": tile}),
    ):
        out = inputs.run(function, tensors, **more)
        results.append([out, *gradients(out, tensors)])
    floor = FLOORS[inputs.tensors[0].dtype] if tolerance is None else tolerance
    exactly, plainly, ours = results
    assert_as_near(("result", *NAMES), exactly, plainly, ours, floor)


@pytest.mark.parametrize(
    ("n_text", "n_prefix", "n_own", "dim", "group", "shared", "causal", "tile"),
    [
        (1, 3, 0, 32, 1, True, False, SMALL),
        (1, 0, 2, 32, 1, True, True, SMALL),
        (15, 1, 0, 48, 2, False, True, SMALL),
        (16, 15, 1, 32, 1, True, True, WIDE),
        (16, 16, 1, 64, 4, True, False, SMALL),
        (17, 8, 3, 64, 2, True, False, TALL),
        (17, 3, 2, 80, 1, False, True, WIDE),
        (33, 0, 0, 48, 2, False, True, WIDE),
        (33, 0, 0, 32, 1, True, False, TALL),
        (35, 16, 0, 64, 1, False, True, TALL),
        (35, 40, 24, 32, 2, True, True, SMALL),
        (35, 0, 3, 32, 4, True, False, WIDE),
        (20, 3, 0, 128, 1, True, True, SMALL),
    ],
)
def test_values_and_gradients(
    n_text: int,
    n_prefix: int,
    n_own: int,
    dim: int,
    group: int,
    shared: bool,
    causal: bool,
    tile: Tile,
) -> None:
    inputs = make_inputs(
        n_text, n_prefix, dim, n_own=n_own, group=group, shared=shared, causal=causal, scale=0.3
    )
    assert_matches(inputs, tile)


@pytest.mark.parametrize(("n_prefix", "n_own", "dim"), [(3, 2, 32), (20, 1, 48)])
@pytest.mark.parametrize("by_row", [False, True])
def test_parts_of_the_prefix_by_row_and_by_column(
    n_prefix: int, n_own: int, dim: int, by_row: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "parts_by_row", lambda: by_row)
    options = {"packed": packed_texts(7, 35), "group": 2, "shared": True, "causal": True}
    assert_matches(make_inputs(42, n_prefix, dim, n_own=n_own, **options), SMALL)


def test_one_key_head_for_all() -> None:
    inputs = make_inputs(18, 3, 32, n_own=1, n_key_heads=1, group=3, shared=True, causal=True)
    assert_matches(inputs, SMALL)


@pytest.mark.parametrize("n_prefix", [0, 3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tile", [WIDE, TALL], ids=["wide", "tall"])
def test_spans_of_every_kind(n_prefix: int, causal: bool, tile: Tile) -> None:
    # full, padded right, padded left, in the middle, one token, no token
    padding = spans((0, 35), (0, 17), (18, 17), (15, 4), (34, 1), (5, 0))
    options = {"padding": padding, "causal": causal}
    shared = n_prefix == 3
    inputs = make_inputs(35, n_prefix, 32, n_batch=6, group=2, shared=shared, **options)
    assert_matches(inputs, tile)


@pytest.mark.parametrize("n_prefix", [0, 3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tile", [WIDE, TALL], ids=["wide", "tall"])
def test_packed_texts(n_prefix: int, causal: bool, tile: Tile) -> None:
    # one tile, several tiles, one token, no token, whole tiles
    packed = packed_texts(7, 35, 1, 0, 32)
    shared = n_prefix == 3
    options: dict[str, Any] = {"n_own": 2 if shared else 0, "packed": packed, "causal": causal}
    assert_matches(make_inputs(75, n_prefix, 32, group=2, shared=shared, **options), tile)


def test_a_packed_text_does_not_write_into_the_next() -> None:
    # interpreted programs run one after the other: only the last one shows what it writes too much
    packed = packed_texts(7, 35, 1, 32)
    inputs = make_inputs(75, 3, 32, n_batch=1, shared=True)
    results = []
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        spans = (packed.start[order], packed.lengths[order], packed.longest)
        out = inputs.run(fused, packed=spans, tile=TALL)
        results.append([out, *gradients(out, inputs.tensors[:3])])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("n_prefix", [0, 3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("window", "tile"), [(1, SMALL), (2, SMALL), (5, WIDE), (17, TALL), (90, SMALL)]
)
def test_windows(n_prefix: int, causal: bool, window: int, tile: Tile) -> None:
    options = {"window": window, "causal": causal, "padding": spans((0, 52), (9, 40))}
    assert_matches(make_inputs(52, n_prefix, 32, shared=True, **options), tile)


def test_windows_in_packed_texts() -> None:
    options = {"packed": packed_texts(40, 3, 33), "window": 9, "causal": True}
    assert_matches(make_inputs(76, 3, 32, n_own=1, shared=True, **options), WIDE)


def test_spans_are_cut_to_the_text() -> None:
    padding = spans((12, 90), (-20, 25))
    assert_matches(make_inputs(19, 3, 32, padding=padding, causal=True), SMALL)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shared", [False, True])
def test_half_precision(dtype: torch.dtype, shared: bool) -> None:
    options = {"padding": spans((0, 20), (2, 31)), "causal": True}
    inputs = make_inputs(33, 9, 48, n_own=2, group=2, shared=shared, dtype=dtype, **options)
    assert_matches(inputs, SMALL)


@pytest.mark.parametrize("n_prefix", [0, 3])
@pytest.mark.parametrize("causal", [False, True])
def test_logits_far_below_zero(n_prefix: int, causal: bool) -> None:
    options = {"padding": spans((0, 11), (4, 14)), "causal": causal}
    inputs = make_inputs(18, n_prefix, 32, **options)
    with torch.no_grad():
        for tensor, value in zip(inputs.tensors[:5], (5.0, -5.0, 1.0, -5.0, 1.0), strict=True):
            # all logits are near -5 * 5 * 32 / sqrt(32) = -141: padding with logit 0 would win
            tensor.mul_(0.05).add_(value)
    # float32 holds a logit of 141 to 1e-5, so the weights are no more exact
    assert_matches(inputs, SMALL, tolerance=1e-4)


def test_padded_rows_are_zero_and_their_sum_infinite() -> None:
    tensors = [tensor.detach() for tensor in make_inputs(20, 3, 48).tensors]
    start, length = spans((4, 9), (0, 0))
    options = (start, length, 20, False, False, 0, 0.1, list(SMALL))
    out, lse = torch.ops.rarec.prefix_attention(*tensors, *options)
    absent = torch.ones(2, 20, dtype=torch.bool, device=DEVICE)
    absent[0, 4:13] = False
    assert out.transpose(1, 2)[absent].eq(0.0).all()
    assert lse.transpose(1, 2)[absent].eq(float("inf")).all()
    assert lse.transpose(1, 2)[~absent].isfinite().all()


@pytest.mark.parametrize("packed", [False, True])
def test_nothing_is_written_outside_the_result(packed: bool) -> None:
    options: dict[str, Any] = {"padding": spans((0, 35), (5, 9))}
    if packed:
        options = {"packed": packed_texts(21, 14)}
    inputs = make_inputs(35, 3, 48, group=2, **options)
    buffers: list[Tensor] = []
    plain = torch.empty_like

    def guarded(like: Tensor, **keywords: Any) -> Tensor:
        """Return a tensor laid out like `like`, inside a buffer filled with a known number."""
        if like.ndim != 4:
            return plain(like, **keywords)
        buffer = like.new_full([size + 2 for size in like.transpose(1, 2).shape], 7.0)
        buffers.append(buffer)
        return buffer[tuple(slice(1, -1) for _ in range(4))].transpose(1, 2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty_like", guarded)
        out = inputs.run(fused, tile=SMALL)
        torch.autograd.grad(out.sum(), inputs.tensors[:5])
    assert len(buffers) == 4
    for buffer in buffers:
        inner = tuple(slice(1, -1) for _ in range(4))
        margin = torch.ones_like(buffer, dtype=torch.bool)
        margin[inner] = False
        assert buffer[margin].eq(7.0).all()
        assert buffer[inner].isfinite().all()


def test_same_bits_twice() -> None:
    inputs = make_inputs(35, 9, 32, n_own=2, group=2, shared=True, causal=True)

    def run() -> list[Tensor]:
        out = inputs.run(fused, tile=SMALL)
        return [out, *gradients(out, inputs.tensors)]

    assert all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (6,), (3, 4), (1, 5)])
def test_gradients_of_some_inputs_are_those_of_all(wanted: tuple[int, ...]) -> None:
    inputs = make_inputs(17, 3, 32, n_own=2, shared=True)
    every = gradients(inputs.run(fused, tile=SMALL), inputs.tensors)
    some = [x if i in wanted else x.detach() for i, x in enumerate(inputs.tensors)]
    out = inputs.run(fused, some, tile=SMALL)
    for gradient, i in zip(gradients(out, [some[i] for i in wanted]), wanted, strict=True):
        assert torch.equal(gradient, every[i])


def test_ops_runs_the_kernels_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"padding": spans((0, 21), (3, 10)), "dtype": FUSED_DTYPE}
    inputs = make_inputs(21, 3, 32, group=2, shared=True, **options)
    copies = [tensor.clone(memory_format=torch.contiguous_format) for tensor in inputs.tensors]
    expected = inputs.run(ops.prefix_attention, copies, implementation="reference")
    actual = inputs.run(ops.prefix_attention, implementation="fused")
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=2.5 * FLOORS[FUSED_DTYPE])
    # two implementations round differently: equal bits would mean that one of them ran twice
    assert not torch.equal(actual, expected)
    monkeypatch.setenv(ops.IMPLEMENTATION_VARIABLE, "fused")
    assert torch.equal(inputs.run(ops.prefix_attention), actual)


def test_an_empty_batch_and_an_axis_with_strides() -> None:
    empty = make_inputs(4, 3, 32)
    empty.tensors = [tensor.detach()[:0].requires_grad_() for tensor in empty.tensors]
    out = empty.run(fused)
    assert out.shape == (0, 2, 4, 32)
    assert torch.autograd.grad(out.sum(), empty.tensors[:5])[3].shape == (0, 2, 3, 32)
    inputs = make_inputs(19, 3, 32)
    inputs.tensors = [x.detach().mT.contiguous().mT.requires_grad_() for x in inputs.tensors]
    assert inputs.tensors[0].stride(-1) != 1
    assert_matches(inputs, SMALL)


def test_torch_knows_its_shapes_strides_and_gradients() -> None:
    inputs = make_inputs(17, 3, 32, n_own=2, group=2, shared=True)
    start, length = spans((0, 17), (4, 9))
    options = (start, length, 17, False, True, 5, 0.2, list(SMALL))
    torch.library.opcheck(
        torch.ops.rarec.prefix_attention.default,
        (*inputs.tensors, *options),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


@pytest.mark.parametrize("shared", [False, True])
def test_the_call_without_the_dispatcher_gives_the_same_bits(shared: bool) -> None:
    inputs = make_inputs(17, 3, 32, n_own=2, group=2, shared=shared, dtype=FUSED_DTYPE)
    start, length = spans((0, 17), (4, 9))
    eager = inputs.run(fused, padding=(start, length), causal=True, tile=SMALL)
    options = (start, length, 17, False, True, 0, 32**-0.5, list(SMALL))
    dispatched, _ = torch.ops.rarec.prefix_attention(*inputs.tensors, *options)
    assert type(eager.grad_fn) is not type(dispatched.grad_fn)
    assert torch.equal(eager, dispatched)
    pairs = zip(
        gradients(eager, inputs.tensors), gradients(dispatched, inputs.tensors), strict=True
    )
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_compiler_sees_one_operation() -> None:
    inputs = make_inputs(17, 3, 32, n_own=2, shared=True, causal=True, dtype=FUSED_DTYPE)
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(graph)
        return graph.forward

    def run(*tensors: Tensor) -> Tensor:
        return inputs.run(ops.prefix_attention, list(tensors), implementation="fused")

    compiled = torch.compile(run, backend=keep, fullgraph=True)
    out = compiled(*inputs.tensors)
    assert torch.equal(out, inputs.run(fused))
    targets = [node.target for node in graphs[0].graph.nodes]
    assert targets.count(torch.ops.rarec.prefix_attention.default) == 1


def test_checkpointing_and_autocast_change_nothing() -> None:
    inputs = make_inputs(17, 3, 32, n_own=2, shared=True, dtype=torch.bfloat16)
    plain = inputs.run(ops.prefix_attention, implementation="fused")
    floats = [x.detach().float().requires_grad_() for x in inputs.tensors]
    with torch.autocast(DEVICE, torch.bfloat16):
        out = checkpoint(
            lambda *tensors: inputs.run(
                ops.prefix_attention, list(tensors), implementation="fused"
            ),
            *floats,
            use_reentrant=False,
        )
    assert torch.equal(out, plain)
    ours = gradients(out, floats)
    for one, other in zip(ours, gradients(plain, inputs.tensors), strict=True):
        assert torch.equal(one, other.float())


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["bert", "mistral"])
def test_language_models_run_with_the_kernels(
    name: str, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 40,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
    }
    if name == "bert":
        model: Any = transformers.BertModel(
            transformers.BertConfig(num_attention_heads=2, initializer_range=0.3, **sizes)
        )
    else:
        config = transformers.MistralConfig(
            num_attention_heads=4, num_key_value_heads=2, sliding_window=4, **sizes
        )
        model = transformers.MistralModel(config)
    backbone = Backbone(model.to(DEVICE, FUSED_DTYPE))
    mask = torch.ones(3, 9, dtype=torch.int64)
    mask[1, 5:] = 0
    mask[2, 1:] = 0
    mask = (mask if side == "right" else mask.flip(1)).to(DEVICE)
    ids = torch.arange(27).view(3, 9).to(DEVICE) + 1
    shared = torch.randn(2, 3, 64).to(DEVICE, FUSED_DTYPE)
    own = torch.randn(2, 3, 1, 64).to(DEVICE, FUSED_DTYPE)
    calls: list[object] = []
    monkeypatch.setattr(
        kernels, "prefix_attention", lambda *a, **k: calls.append(k["packed"]) or fused(*a, **k)
    )
    results = []
    for implementation, dtype in (
        ("reference", FUSED_DTYPE),
        ("fused", FUSED_DTYPE),
        ("reference", torch.float64),
    ):
        monkeypatch.setenv(ops.IMPLEMENTATION_VARIABLE, implementation)
        model.to(dtype)
        prefixes = [x.to(dtype).requires_grad_() for x in (shared, own)]
        states = backbone.last_hidden_states(ids, mask, shared=prefixes[0], own=prefixes[1])
        states = states[mask.bool()]
        results.append([states, *gradients(states[None], prefixes)])
    assert len(calls) == 2
    assert None not in calls
    plain, ours, exact = results
    assert_as_near(("states", "shared", "own"), exact, plain, ours, FLOORS[FUSED_DTYPE])


def test_the_self_test_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = list(ops.run_self_test(DEVICE, dtype=FUSED_DTYPE, n_text=18))
    assert len(cases) == 6
    assert all(case.passed for case in cases), cases
    add_up = kernels._add_up

    def wrong(*parts: Tensor) -> tuple[Tensor, ...]:
        key, value, own_key, own_value = add_up(*parts)
        return key, value * 1.5, own_key, own_value

    monkeypatch.setattr(kernels, "_add_up", wrong)
    case = next(ops.run_self_test(DEVICE, dtype=FUSED_DTYPE, n_text=18))
    assert not case.passed
    assert case.worst == "prefix value"
    monkeypatch.setattr(
        kernels, "_add_up", lambda *parts: [x * float("nan") for x in add_up(*parts)]
    )
    assert not next(ops.run_self_test(DEVICE, dtype=FUSED_DTYPE, n_text=18)).passed


def test_the_self_test_reports_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Tensor) -> None:
        raise RuntimeError("an illegal memory access\nand more")

    monkeypatch.setattr(kernels, "_add_up", broken)
    case = next(ops.run_self_test(DEVICE, dtype=FUSED_DTYPE, n_text=18))
    assert not case.passed
    assert case.worst == "RuntimeError: an illegal memory access"
