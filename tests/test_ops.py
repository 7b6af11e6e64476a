"""Prefix attention, compared with a softmax written out in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rarec import ops
from rarec.ops import choice, reference


def spelled_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    *,
    added: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Return attention by its formula; `added` is `[B, h, Q, T]`, -inf where text is hidden."""
    n_batch, n_heads, n_queries, dim = query.shape
    group, n_prefix = n_heads // key.shape[1], prefix_key.shape[2]
    keys, values = (
        torch.cat([prefix.expand(n_batch, -1, -1, -1), text], 2).repeat_interleave(group, 1)
        for prefix, text in ((prefix_key, key), (prefix_value, value))
    )
    logits = torch.einsum("bhqd,bhld->bhql", query, keys) * (scale or dim**-0.5)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if added is not None:
        visible = torch.zeros(n_batch, n_heads, n_queries, n_prefix, dtype=logits.dtype)
        logits = logits + torch.cat([visible, added.expand(n_batch, n_heads, n_queries, -1)], -1)
    weights = torch.exp(logits - logits.max(-1, keepdim=True).values)
    return torch.einsum("bhql,bhld->bhqd", weights / weights.sum(-1, keepdim=True), values)


def make_inputs(
    *,
    n_batch: int = 3,
    n_heads: int = 4,
    n_key_heads: int = 4,
    n_queries: int | None = None,
    n_text: int = 6,
    n_prefix: int = 3,
    shared: bool = False,
    dim: int = 5,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n_text * 100 + n_prefix)
    n_queries = n_text if n_queries is None else n_queries
    text = (n_batch, n_key_heads, n_text, dim)
    prefix = (1 if shared else n_batch, n_key_heads, n_prefix, dim)
    return [
        torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((n_batch, n_heads, n_queries, dim), text, text, prefix, prefix)
    ]


def assert_same(actual: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Compare the values, and the gradients of all inputs for one random gradient of the result."""
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    gradient = torch.randn(
        expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    used = [tensor for tensor in inputs if tensor.numel() > 0]
    ours = torch.autograd.grad(actual, used, gradient)
    theirs = torch.autograd.grad(expected, used, gradient)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def hidden(allowed: Tensor) -> Tensor:
    """Return the additive form of a bool mask."""
    return torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed, float("-inf"))


# texts of 6, 2 and 0 tokens: the last one sees only the prefix
RIGHT = (torch.arange(6) < torch.tensor([[6], [2], [0]]))[:, None, None, :]
LEFT = (torch.arange(6) >= torch.tensor([[0], [4], [6]]))[:, None, None, :]
CAUSAL = torch.ones(6, 6, dtype=torch.bool).tril()
SHAPES = [{}, {"shared": True}, {"n_key_heads": 2}, {"n_key_heads": 1, "shared": True}]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", [None, RIGHT, LEFT], ids=["all", "right", "left"])
def test_masks_match_the_formula(shape: dict, causal: bool, mask: Tensor | None) -> None:
    inputs = make_inputs(**shape)
    allowed = torch.ones(3, 1, 6, 6, dtype=torch.bool) if mask is None else mask
    allowed = allowed & CAUSAL if causal else allowed
    actual = ops.prefix_attention(*inputs, mask=mask, causal=causal)
    assert_same(actual, spelled_out(*inputs, added=hidden(allowed)), inputs)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [1, 2, 5, 9])
def test_a_window_matches_the_formula(causal: bool, window: int) -> None:
    inputs = make_inputs(n_key_heads=2, shared=True)
    place = torch.arange(6)
    near = (place[:, None] - place[None, :]).abs() < window
    added = hidden(RIGHT & near & CAUSAL if causal else RIGHT & near)
    actual = ops.prefix_attention(*inputs, mask=RIGHT, causal=causal, window=window)
    assert_same(actual, spelled_out(*inputs, added=added), inputs)


@pytest.mark.parametrize("n_key_heads", [4, 2])
def test_the_causal_form_of_a_gpu_is_the_mask_of_a_cpu(
    n_key_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs(n_key_heads=n_key_heads, shared=True)
    expected = ops.prefix_attention(*inputs, causal=True)
    seen = []

    def on_a_gpu(_: Tensor, causal: bool, *others: object) -> bool:
        seen.append(causal and all(other is None for other in others))
        return seen[-1]

    monkeypatch.setattr(reference, "_lower_right", on_a_gpu)
    assert_same(ops.prefix_attention(*inputs, causal=True), expected, inputs)
    ops.prefix_attention(*inputs, causal=True, window=3)
    assert seen == [True, False]


@pytest.mark.parametrize("shared", [False, True])
def test_the_prefix_of_a_sample_stands_after_the_shared_one(shared: bool) -> None:
    inputs = make_inputs(n_key_heads=2, shared=shared)
    own = [x.detach().requires_grad_() for x in make_inputs(n_key_heads=2, n_prefix=2)[3:]]
    actual = ops.prefix_attention(*inputs, own_key=own[0], own_value=own[1], mask=LEFT)
    joined = [
        torch.cat([prefix.expand(3, -1, -1, -1), rows], dim=2)
        for prefix, rows in zip(inputs[3:], own, strict=True)
    ]
    expected = spelled_out(*inputs[:3], *joined, added=hidden(LEFT.expand(3, 1, 6, 6)))
    assert_same(actual, expected, [*inputs, *own])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 3])
def test_a_packed_text_sees_only_itself(shared: bool, causal: bool, window: int | None) -> None:
    # enough texts for several parts; the last part is short
    lengths = [4, 0, 6, 1, 1, 1, 2, 2, 0, 0, 5, 3, 3, 4, 1, 6, 2]
    packed = ops.Packed.of(torch.arange(6) < torch.tensor(lengths)[:, None])
    assert (packed.offsets[:5].tolist(), packed.longest) == ([0, 4, 4, 10, 11], 6)
    assert [len(part) for part in packed.parts] == [8, 8, 1]
    generator = torch.Generator().manual_seed(0)
    n_texts, n_tokens = len(lengths), sum(lengths)
    shapes = [(1, 4, n_tokens, 5), *[(1, 2, n_tokens, 5)] * 2]
    shapes += [*[(1 if shared else n_texts, 2, 3, 5)] * 2, *[(n_texts, 2, 2, 5)] * 2]
    inputs = [
        torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in shapes
    ]
    *five, own_key, own_value = inputs
    actual = ops.prefix_attention(
        *five, own_key=own_key, own_value=own_value, packed=packed, causal=causal, window=window
    )
    parts = []
    for row, text in enumerate(zip(*(x.split(lengths, dim=2) for x in five[:3]), strict=True)):
        prefix = [x if shared else x[row : row + 1] for x in five[3:]]
        own = {"own_key": own_key[row : row + 1], "own_value": own_value[row : row + 1]}
        parts.append(ops.prefix_attention(*text, *prefix, **own, causal=causal, window=window))
    assert_same(actual, torch.cat(parts, dim=2), inputs)


@pytest.mark.parametrize(
    ("offsets", "longest", "message"),
    [
        ([1, 6], 6, "rise from 0 to 6, got 1 to 6"),
        ([0, 5], 6, "rise from 0 to 6, got 0 to 5"),
        ([0, 7, 6], 7, "rise from 0 to 6"),
        ([0, 5, 6], 4, "longer than 4, got 5 tokens"),
        ([[0, 6]], 6, "int32"),
    ],
)
def test_wrong_offsets_of_packed_texts_are_refused(offsets, longest: int, message: str) -> None:
    packed = ops.Packed(torch.tensor(offsets, dtype=torch.int32), longest)
    tensors = [x[:1] for x in make_inputs(shared=True)]
    with pytest.raises(ValueError, match=message):
        ops.prefix_attention(*tensors, packed=packed)


def test_packed_texts_are_padded_and_unpadded() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0]])
    packed = ops.Packed.of(mask)
    tokens = torch.arange(1.0, 4.0)[:, None].requires_grad_()
    table = packed.pad(tokens)
    assert table[..., 0].tolist() == [[1, 2], [0, 0], [3, 0]]
    assert packed.positions.tolist() == [0, 1, 0]
    assert torch.equal(packed.unpad(table), tokens)
    assert torch.autograd.gradcheck(lambda x: packed.unpad(packed.pad(x) * 2), [tokens.double()])


def test_autocast_converts_all_inputs() -> None:
    inputs = [x.detach().float() for x in make_inputs()]
    with torch.autocast("cpu", torch.bfloat16):
        actual = ops.prefix_attention(inputs[0].bfloat16(), *inputs[1:])
    assert actual.dtype == torch.bfloat16
    assert torch.equal(actual, ops.prefix_attention(*(x.bfloat16() for x in inputs)))


def test_meta_tensors_give_the_shape_of_the_result() -> None:
    inputs = [x.detach().to("meta") for x in make_inputs(n_key_heads=2, shared=True)]
    assert ops.prefix_attention(*inputs, causal=True).shape == inputs[0].shape


def test_the_choice_gives_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(choice, "HAS_TRITON", True)
    half = ops.Case(device="cuda", dtype=torch.bfloat16, dim=64)
    assert ops.choose(half).implementation == "fused"
    for changes, reason in [
        ({"device": "cpu"}, "device cpu"),
        ({"dtype": torch.float32}, "float32 has no matrix unit"),
        ({"dtype": torch.float64}, "dtype torch.float64"),
        ({"dim": 129}, "head dimension 129"),
        ({"n_prefix": 65}, "65 prefix tokens"),
        ({"n_text": 257}, "more than 256 tokens"),
        ({"reference_only": "a dense mask"}, "a dense mask"),
    ]:
        got = ops.choose(replace(half, **changes))
        assert got.implementation == "reference"
        assert reason in got.reason
    # with a mask torch has no flash attention
    assert ops.choose(replace(half, n_text=257, packed=True)).implementation == "fused"
    assert ops.choose(replace(half, n_text=257), "fused").reason == "set by implementation"


@pytest.mark.parametrize("lowest", [float("-inf"), torch.finfo(torch.float64).min])
@pytest.mark.parametrize("causal", [False, True])
def test_float_masks_match_the_formula(lowest: float, causal: bool) -> None:
    inputs = make_inputs(shared=True)
    mask = torch.zeros(RIGHT.shape, dtype=torch.float64).masked_fill(~RIGHT, lowest)
    expected = spelled_out(*inputs, added=hidden(RIGHT & CAUSAL if causal else RIGHT))
    assert_same(ops.prefix_attention(*inputs, mask=mask, causal=causal), expected, inputs)


@pytest.mark.parametrize("bias_shape", [(6, 6), (4, 6, 6), (1, 4, 6, 6), (3, 1, 1, 6)])
@pytest.mark.parametrize("mask", [None, RIGHT, hidden(LEFT)], ids=["none", "bool", "float"])
@pytest.mark.parametrize("causal", [False, True])
def test_bias_matches_the_formula(bias_shape: tuple, mask: Tensor | None, causal: bool) -> None:
    inputs = make_inputs(n_key_heads=2)
    bias = torch.randn(
        bias_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    added = bias + hidden(CAUSAL) if causal else bias
    if mask is not None:
        added = added + (hidden(mask) if mask.dtype == torch.bool else mask)
    added = added.expand(3, 4, 6, 6)
    actual = ops.prefix_attention(*inputs, mask=mask, causal=causal, bias=bias)
    assert_same(actual, spelled_out(*inputs, added=added), [*inputs, bias])


@pytest.mark.parametrize("mask", [None, RIGHT, hidden(LEFT)], ids=["none", "bool", "float"])
@pytest.mark.parametrize("causal", [False, True])
def test_softcap_matches_the_formula(mask: Tensor | None, causal: bool) -> None:
    inputs = make_inputs(n_key_heads=2, shared=True)
    added = torch.zeros(3, 1, 6, 6, dtype=torch.float64)
    if mask is not None:
        added = added + (hidden(mask) if mask.dtype == torch.bool else mask)
    added = added + hidden(CAUSAL) if causal else added
    actual = ops.prefix_attention(*inputs, mask=mask, causal=causal, softcap=0.7, scale=0.9)
    assert_same(actual, spelled_out(*inputs, added=added, scale=0.9, softcap=0.7), inputs)


@pytest.mark.parametrize("n_prefix", [0, 1, 9])
@pytest.mark.parametrize("n_text", [1, 2, 17])
def test_lengths_of_one_and_no_prefix(n_prefix: int, n_text: int) -> None:
    inputs = make_inputs(n_text=n_text, n_prefix=n_prefix)
    assert_same(ops.prefix_attention(*inputs, scale=0.3), spelled_out(*inputs, scale=0.3), inputs)


@pytest.mark.parametrize("shared", [False, True])
def test_the_memory_layout_changes_nothing(shared: bool) -> None:
    inputs = make_inputs(n_key_heads=2, shared=shared)
    by_token = [x.detach().transpose(1, 2).contiguous().transpose(1, 2) for x in inputs]
    by_token = [tensor.requires_grad_() for tensor in by_token]
    assert by_token[1].stride() != inputs[1].stride()
    actual = ops.prefix_attention(*by_token, mask=RIGHT)
    expected = ops.prefix_attention(*inputs, mask=RIGHT)
    torch.testing.assert_close(actual, expected, rtol=1e-14, atol=1e-14)
    ours = torch.autograd.grad(actual.square().sum(), by_token)
    theirs = torch.autograd.grad(expected.square().sum(), inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("n_prefix", [0, 3])
def test_causal_is_lower_right_for_cached_keys(n_prefix: int) -> None:
    inputs = make_inputs(n_queries=2, n_prefix=n_prefix)
    actual = ops.prefix_attention(*inputs, causal=True)
    assert_same(actual, spelled_out(*inputs, added=hidden(CAUSAL[-2:])), inputs)


@given(
    spans=st.lists(st.tuples(st.integers(-2, 7), st.integers(0, 9)), min_size=1, max_size=4),
    causal=st.booleans(),
    shared=st.booleans(),
    n_prefix=st.integers(0, 2),
)
@settings(deadline=None, max_examples=40)
def test_padding_is_a_mask_whose_hidden_rows_are_zero(
    spans: list, causal: bool, shared: bool, n_prefix: int
) -> None:
    inputs = make_inputs(n_batch=len(spans), shared=shared, n_prefix=n_prefix)
    start, length = torch.tensor(spans, dtype=torch.int32).T
    position = torch.arange(6)
    present = (position >= start[:, None]) & (position < (start + length)[:, None])
    actual = ops.prefix_attention(*inputs, padding=(start, length), causal=causal)
    expected = ops.prefix_attention(*inputs, mask=present[:, None, None, :], causal=causal)
    assert_same(actual, expected * present[:, None, :, None], inputs)


@pytest.mark.parametrize("causal", [False, True])
def test_without_a_prefix_it_is_torchs_attention_to_the_bit(causal: bool) -> None:
    query, key, value, *prefix = (x.detach().float() for x in make_inputs(n_prefix=0))
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    assert torch.equal(ops.prefix_attention(query, key, value, *prefix, causal=causal), expected)
    mask = RIGHT[:2].expand(2, 1, 6, 6)
    expected = F.scaled_dot_product_attention(query[:2], key[:2], value[:2], attn_mask=mask)
    actual = ops.prefix_attention(
        query[:2], key[:2], value[:2], *(x[:2] for x in prefix), mask=mask
    )
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("mask", [RIGHT, hidden(RIGHT)], ids=["bool", "float"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_that_sees_nothing_is_zero(
    softcap: float | None, mask: Tensor, dtype: torch.dtype
) -> None:
    inputs = [x.detach().to(dtype).requires_grad_() for x in make_inputs(n_prefix=0)]
    actual = ops.prefix_attention(*inputs, mask=mask, softcap=softcap)
    assert actual[2].eq(0.0).all()
    for gradient in torch.autograd.grad(actual.square().sum() + actual.sum(), inputs[:3]):
        assert gradient.isfinite().all()
        assert gradient[2].eq(0.0).all()


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_gradcheck(softcap: float | None) -> None:
    inputs = make_inputs(n_batch=2, n_heads=2, n_key_heads=1, n_text=3, n_prefix=2, dim=2)
    padding = (torch.tensor([0, 1]).int(), torch.tensor([3, 2]).int())
    assert torch.autograd.gradcheck(
        lambda *x: ops.prefix_attention(*x, padding=padding, causal=True, softcap=softcap), inputs
    )


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_dropout_keeps_the_mean(softcap: float | None) -> None:
    torch.manual_seed(0)
    inputs = [x.detach() for x in make_inputs()]
    exact = ops.prefix_attention(*inputs, softcap=softcap)
    runs = [ops.prefix_attention(*inputs, softcap=softcap, dropout=0.3) for _ in range(400)]
    assert not torch.equal(runs[0], runs[1])
    torch.testing.assert_close(torch.stack(runs).mean(0), exact, atol=0.25, rtol=0.0)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_float64(softcap: float | None, dtype: torch.dtype) -> None:
    inputs = [x.detach().to(dtype) for x in make_inputs(n_key_heads=2)]
    bias = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(1))
    actual = ops.prefix_attention(*inputs, bias=bias, softcap=softcap)
    added = bias.to(dtype).double()[None]
    expected = spelled_out(*(x.double() for x in inputs), added=added, softcap=softcap)
    assert actual.dtype == dtype
    error = (actual.double() - expected).abs().max() / expected.abs().max()
    assert error < (4e-3 if dtype == torch.float16 else 3e-2)


def test_tensors_that_do_not_fit_are_refused() -> None:
    query, key, value, prefix_key, prefix_value = make_inputs(n_key_heads=2)
    wrong = [
        ((query[0], key, value, prefix_key, prefix_value), "4 dimensions"),
        ((query, key, value[:, :, 1:], prefix_key, prefix_value), "expected key and value"),
        ((query, key[:2], value[:2], prefix_key, prefix_value), "expected key and value"),
        ((query[:, :3], key, value, prefix_key, prefix_value), "h a multiple of h_kv, got 3 and 2"),
        ((query, key[:, :, :5], value[:, :, :5], prefix_key, prefix_value), "got 6 and 5"),
        ((query, key, value, prefix_key[:2], prefix_value[:2]), r"\[1 or 3, 2, S, 5\]"),
        ((query, key, value, prefix_key, prefix_value[:, :, 1:]), r"\[1 or 3, 2, S, 5\]"),
        ((query, key, value, prefix_key.float(), prefix_value), "one float dtype"),
        ((query, key, value, prefix_key.to("meta"), prefix_value), "one device"),
    ]
    for tensors, message in wrong:
        with pytest.raises(ValueError, match=message):
            ops.prefix_attention(*tensors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": torch.ones(3, 1, 6, 6, dtype=torch.int64)}, "bool or float mask"),
        ({"mask": torch.ones(6, 6, dtype=torch.bool)}, "mask that broadcasts"),
        ({"mask": torch.ones(3, 1, 1, 1, dtype=torch.bool)}, "mask that broadcasts"),
        ({"mask": torch.ones(3, 3, 1, 6, dtype=torch.bool)}, "mask that broadcasts"),
        ({"bias": torch.ones(6, 5)}, "float bias that broadcasts"),
        ({"bias": torch.ones(6, 6, dtype=torch.bool)}, "float bias that broadcasts"),
        ({"padding": (torch.zeros(3), torch.zeros(3))}, "padding as two int32"),
        ({"padding": (torch.zeros(2, dtype=torch.int32),) * 2}, "padding as two int32"),
        ({"padding": (torch.zeros(3, dtype=torch.int32),) * 2, "mask": RIGHT}, "got both"),
        ({"mask": RIGHT.to("meta")}, "mask, padding, packed and bias on cpu"),
        ({"window": 0}, "window >= 1"),
        ({"own_key": torch.zeros(3, 4, 1, 5)}, "own_key and own_value or neither"),
        ({"own_key": torch.zeros(1, 4, 1, 5), "own_value": torch.zeros(1, 4, 1, 5)}, r"\[3, 4, S"),
        ({"packed": ops.Packed(torch.zeros(2, dtype=torch.int32), 6)}, "B = 1 and Q = T"),
        ({"dropout": 1.0}, "dropout in"),
        ({"softcap": 0.0}, "softcap > 0"),
        ({"implementation": "flash"}, r"\['reference', 'fused'\], got 'flash'"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.prefix_attention(*make_inputs(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": RIGHT}, "a dense mask"),
        ({"bias": torch.zeros(6, 6)}, "bias, softcap or dropout"),
        ({"softcap": 1.0}, "bias, softcap or dropout"),
        ({"dropout": 0.1}, "bias, softcap or dropout"),
        ({}, "dtype torch.float64"),
    ],
)
def test_the_fused_implementation_says_why_it_cannot_run(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.prefix_attention(*make_inputs(), implementation="fused", **options)


def test_the_fused_implementation_says_why_this_machine_cannot_run_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = [x.detach().float() for x in make_inputs()]
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"device cpu|no triton"):
        ops.prefix_attention(*inputs, implementation="fused")
    monkeypatch.setattr(choice, "HAS_TRITON", False)
    with pytest.raises(ValueError, match="no triton"):
        ops.prefix_attention(*inputs, implementation="fused")
    wide = [x.detach().float() for x in make_inputs(dim=130)]
    with pytest.raises(ValueError, match="head dimension 130"):
        ops.prefix_attention(*wide, implementation="fused")
    cached = [x.detach().float() for x in make_inputs(n_queries=2)]
    with pytest.raises(ValueError, match="2 queries for 6 keys"):
        ops.prefix_attention(*cached, implementation="fused")


def test_the_environment_variable_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs()
    monkeypatch.setenv(ops.IMPLEMENTATION_VARIABLE, "fused")
    # the variable is for a whole program: where the fused one cannot run, nothing fails
    expected = ops.prefix_attention(*inputs, implementation="reference")
    assert torch.equal(ops.prefix_attention(*inputs), expected)
    case = ops.Case(device="cuda", dtype=torch.float64, dim=64)
    assert ops.choose(case).reason == "dtype torch.float64"
    half = ops.Case(device="cuda", dtype=torch.bfloat16, dim=64, n_text=300)
    if choice.HAS_TRITON:
        assert ops.choose(half).reason == "set by RAREC_PREFIX_ATTENTION"
    monkeypatch.setenv(ops.IMPLEMENTATION_VARIABLE, "fastest")
    with pytest.raises(ValueError, match="expected RAREC_PREFIX_ATTENTION in"):
        ops.prefix_attention(*inputs)
