"""LoRA: matrices of low rank beside the weights of the attention."""

import pytest
import torch

from rarec.backbone import Backbone, lora
from tests import tiny_models

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = ("bert", "gpt2", "llama", "phi3", "t5")


def states(backbone: Backbone) -> torch.Tensor:
    ids, mask = tiny_models.texts("right")
    shared, own = tiny_models.make_prefixes(len(ids), backbone.n_layers)
    return backbone.last_hidden_states(ids, mask, shared=shared, own=own)


@pytest.mark.parametrize("name", NAMES)
def test_untrained_lora_changes_nothing(name: str) -> None:
    backbone = tiny_models.backbone_of(name)
    before = states(backbone)
    weights = backbone.train_weights("lora", rank=2, seed=1)
    torch.testing.assert_close(states(backbone), before, rtol=0, atol=0)
    # two matrices for each linear layer of each attention, which has only one if it is fused
    assert len(weights) >= 2 * backbone.n_layers
    assert all(".lora_" in name for name in weights)
    assert {id(w) for w in backbone.model.parameters() if w.requires_grad} == {
        id(weight) for weight in weights.values()
    }
    # the keys and values of the prefix go through the same module
    states(backbone).square().sum().backward()
    grads = [w.grad for name, w in weights.items() if ".lora_B" in name]
    assert all(grad is not None and bool(grad.any()) for grad in grads)


def test_a_seed_fixes_the_initial_values_and_leaves_the_global_seed_alone() -> None:
    torch.manual_seed(3)
    undisturbed = torch.rand(1)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(3)
        weights = tiny_models.backbone_of("bert").train_weights("lora", seed=seed)
        found.append(torch.cat([weight.flatten() for weight in weights.values()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    backbone = tiny_models.backbone_of("bert")
    torch.manual_seed(3)
    backbone.train_weights("lora", seed=1)
    assert torch.equal(torch.rand(1), undisturbed)


def test_weights_that_are_trained_already_are_refused() -> None:
    backbone = tiny_models.backbone_of("bert")
    backbone.train_weights("full")
    assert all(weight.requires_grad for weight in backbone.model.parameters())
    with pytest.raises(ValueError, match="load it again"):
        backbone.train_weights("lora")


def test_without_peft_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'rarec\[lora\]'"):
        tiny_models.backbone_of("bert").train_weights("lora")


@pytest.mark.parametrize("name", ["bert", "roberta", "albert"])
def test_state_sizes_are_those_of_the_states_between_layers(name: str) -> None:
    # in these models the attention reads the states between layers without a norm
    backbone = tiny_models.backbone_of(name)
    tokens = torch.linspace(0, tiny_models.VOCABULARY - 1, 32).long()[None]
    states = backbone.model(input_ids=tokens, output_hidden_states=True).hidden_states
    expected = torch.stack([part.square().mean().sqrt() for part in states[:-1]])
    torch.testing.assert_close(backbone.state_sizes, expected.float())


@pytest.mark.parametrize("name", ["llama", "gemma2", "t5"])
def test_state_sizes_are_measured_after_the_norm(name: str) -> None:
    sizes = tiny_models.backbone_of(name).state_sizes
    assert sizes.shape == (tiny_models.LAYERS,)
    torch.testing.assert_close(sizes, torch.ones_like(sizes), rtol=0.05, atol=0)
