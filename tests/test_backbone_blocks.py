"""Forward passes that stop before a block, and forward passes that begin with one."""

from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from rarec.backbone import Backbone
from tests.prefix_reference import weighted
from tests.tiny_models import ALL, HIDDEN, LAYERS, backbone_of, make_prefixes, texts

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = ["bert", "llama", "mistral", "gemma2", "gemma3_text", "gpt2", "modernbert", "bart"]


def upper(below: int, n_texts: int) -> tuple[Tensor, Tensor]:
    """Return the prefixes of the layers from `below` on."""
    shared, own = make_prefixes(n_texts, LAYERS)
    return shared[below:], own[:, :n_texts][below:]


def read(backbone: Backbone, padding: str, below: int, *, kept: bool) -> list[Tensor]:
    """Return the states of all tokens but the padding, and the gradients of the prefixes."""
    ids, mask = texts(padding)
    parts = upper(below, len(ids))
    lower = backbone.lower_states(ids, mask, below=below) if kept else None
    states = backbone.last_hidden_states(ids, mask, shared=parts[0], own=parts[1], lower=lower)
    real = states[mask.bool()]
    return [real, *torch.autograd.grad(weighted(real), parts)]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 1e-3
        assert torch.equal(one, other)


@pytest.mark.parametrize("below", [1, 2])
@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("name", NAMES)
def test_running_from_a_layer_on_gives_the_same_bits(name: str, padding: str, below: int) -> None:
    backbone = backbone_of(name)
    assert (backbone.packing is not None) == ALL[name].packs
    assert_same(
        read(backbone, padding, below, kept=True), read(backbone, padding, below, kept=False)
    )


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", NAMES)
def test_running_from_a_layer_on_with_padded_texts(name: str, padding: str) -> None:
    backbone = backbone_of(name)
    backbone.packing = None
    assert_same(read(backbone, padding, 1, kept=True), read(backbone, padding, 1, kept=False))


@pytest.mark.parametrize("name", NAMES)
def test_running_from_a_layer_on_with_gradient_checkpointing(name: str) -> None:
    plain = read(backbone_of(name), "right", 1, kept=False)
    backbone = backbone_of(name)
    backbone.checkpoint_layers()
    for one, other in zip(read(backbone, "right", 1, kept=True), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_lower_states_do_not_depend_on_the_batch(name: str) -> None:
    ids, mask = texts("right")
    backbone = backbone_of(name)
    together = backbone.lower_states(ids, mask, below=2)
    assert not together[~mask.bool()].any()
    for row in range(len(ids)):
        real = mask[row].bool()
        alone = backbone.lower_states(ids[[row]][:, real], mask[[row]][:, real], below=2)
        # rotations are computed in float32
        torch.testing.assert_close(together[row, real], alone[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_each_layer_runs_once(name: str) -> None:
    ids, mask = texts("right")
    backbone = backbone_of(name)
    assert backbone.takes_lower_states(2)
    called: list[int] = []
    assert backbone.blocks is not None
    for number, block in enumerate(backbone.blocks.modules):
        norm = next(part for part in block.modules() if "Norm" in type(part).__name__)
        norm.register_forward_hook(lambda *_, number=number: called.append(number))
    lower = backbone.lower_states(ids, mask, below=2)
    assert called == [0, 1]
    called.clear()
    shared, own = upper(2, len(ids))
    backbone.last_hidden_states(ids, mask, shared=shared, own=own, lower=lower)
    assert called == [2]
    called.clear()
    # afterwards the model is unchanged
    backbone.last_hidden_states(ids, mask, shared=shared, own=own)
    assert called == [0, 1, 2]
    assert all("forward" not in vars(block) for block in backbone.blocks.modules)


def test_an_earlier_replacement_of_a_forward_stays() -> None:
    ids, mask = texts("right")
    backbone = backbone_of("bert")
    assert backbone.blocks is not None
    block: Any = backbone.blocks.modules[0]
    ordinary = block.forward
    called = []

    def counted(*args: Any, **keywords: Any) -> Any:
        called.append(1)
        return ordinary(*args, **keywords)

    block.forward = counted
    lower = backbone.lower_states(ids, mask, below=1)
    before = len(called)
    backbone.last_hidden_states(ids, mask, shared=upper(1, 3)[0], lower=lower)
    assert len(called) == before > 0
    assert block.forward is counted


def test_blocks_may_return_tuples() -> None:
    expected = read(backbone_of("bert"), "right", 1, kept=False)
    model = ALL["bert"].make()
    for block in model.encoder.layer:
        ordinary = block.forward
        block.forward = lambda *args, ordinary=ordinary, **named: (ordinary(*args, **named), None)

    def encoder(states: Tensor, attention_mask: Tensor, rarec: Any = None, **_: Any) -> Mock:
        for block in model.encoder.layer:
            states, nothing = block(states, attention_mask, rarec=rarec)
            assert nothing is None
        # the mock has every attribute that the model may want
        return Mock(last_hidden_state=states)

    model.encoder.forward = encoder
    backbone = Backbone(model)
    assert backbone.blocks is not None
    assert backbone.blocks.sizes == (2, 2, 2)
    assert_same(read(backbone, "right", 1, kept=True), expected)


@pytest.mark.parametrize("name", ["t5", "albert"])
def test_models_whose_layers_share_more_than_states_are_refused(name: str) -> None:
    ids, mask = texts("right")
    backbone = backbone_of(name)
    assert not any(backbone.takes_lower_states(below) for below in range(LAYERS + 1))
    with pytest.raises(ValueError, match=rf"expected a layer that {type(backbone.model).__name__}"):
        backbone.lower_states(ids, mask, below=1)


def test_lower_states_need_prefixes_above_them() -> None:
    ids, mask = texts("right")
    backbone = backbone_of("bert")
    assert [backbone.takes_lower_states(below) for below in range(LAYERS + 1)] == [
        False,
        True,
        True,
        False,
    ]
    lower = backbone.lower_states(ids, mask, below=1)
    with pytest.raises(ValueError, match="expected prefixes above the lower states, got none"):
        backbone.last_hidden_states(ids, mask, lower=lower)
    with pytest.raises(ValueError, match="can be run from, got 0"):
        backbone.last_hidden_states(ids, mask, shared=make_prefixes(3, LAYERS)[0], lower=lower)
    with pytest.raises(ValueError, match="expected no lower states"):
        backbone.last_hidden_states(ids, mask, before=torch.zeros(3, 1, HIDDEN), lower=lower)
