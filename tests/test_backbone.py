"""The prefix in each layer, compared with references that concatenate prefix and text."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
)
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from rarec.backbone import Backbone

HIDDEN, HEADS, LAYERS, VOCABULARY = 16, 4, 3, 50


def tiny_bert() -> Any:
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    return BertModel(config).double().eval()


def tiny_llama() -> Any:
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    return LlamaModel(config).double().eval()


MODELS = {"bert": tiny_bert, "llama": tiny_llama}


def texts(padding: str, n_texts: int = 3, length: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(1, VOCABULARY, (n_texts, length), generator=generator)
    mask = torch.ones_like(ids)
    if padding != "none":
        for row in range(1, n_texts):
            absent = slice(length - 2 * row, None) if padding == "right" else slice(0, 2 * row)
            mask[row, absent] = 0
    return ids, mask


def prefixes(n_texts: int, shared: int = 2, own: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    first = torch.randn(LAYERS, shared, HIDDEN, generator=generator, dtype=torch.float64)
    second = torch.randn(LAYERS, n_texts, own, HIDDEN, generator=generator, dtype=torch.float64)
    return first.requires_grad_(), second.requires_grad_()


def heads(states: Tensor, n_heads: int) -> Tensor:
    return states.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    weights = logits.masked_fill(~allowed, -torch.inf).softmax(dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def positions_of(mask: Tensor) -> Tensor:
    """Return positions that begin with 0 at the text, for padding on either side."""
    return (mask.cumsum(1) - 1).clamp_min(0)


def bert_reference(model: Any, ids: Tensor, mask: Tensor, d: Sequence[Tensor]) -> Tensor:
    states = model.embeddings(input_ids=ids, position_ids=positions_of(mask))
    for layer, prefix in zip(model.encoder.layer, d, strict=True):
        seen = torch.cat([torch.ones(prefix.shape[:2]), mask], dim=1).bool()[:, None, None]
        attention = layer.attention
        both = torch.cat([prefix, states], dim=1)
        mixed = attend(
            heads(attention.self.query(states), HEADS),
            heads(attention.self.key(both), HEADS),
            heads(attention.self.value(both), HEADS),
            seen,
        )
        states = attention.output(mixed, states)
        states = layer.output(layer.intermediate(states), states)
    return states


def llama_reference(model: Any, ids: Tensor, mask: Tensor, d: Tensor) -> Tensor:
    states = model.embed_tokens(ids)
    length, n_prefix = ids.shape[1], d.shape[2]
    cosine, sine = model.rotary_emb(states, positions_of(mask))
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    allowed = torch.cat(
        [
            torch.ones(len(ids), length, n_prefix, dtype=torch.bool),
            causal & mask.bool()[:, None, :],
        ],
        dim=2,
    )[:, None]
    for layer, prefix in zip(model.layers, d, strict=True):
        attention = layer.self_attn
        read = layer.input_layernorm(states)
        query, key = heads(attention.q_proj(read), HEADS), heads(attention.k_proj(read), 2)
        query, key = apply_rotary_pos_emb(query, key, cosine, sine)
        # the prefix is at position 0, where the rotation changes nothing
        key = torch.cat([heads(attention.k_proj(prefix), 2), key], dim=2)
        value = heads(attention.v_proj(torch.cat([prefix, read], dim=1)), 2)
        key, value = key.repeat_interleave(2, dim=1), value.repeat_interleave(2, dim=1)
        states = states + attention.o_proj(attend(query, key, value, allowed))
        states = states + layer.mlp(layer.post_attention_layernorm(states))
    return model.norm(states)


REFERENCES = {"bert": bert_reference, "llama": llama_reference}


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_without_prefix_it_is_the_plain_model(name: str, padding: str) -> None:
    ids, mask = texts(padding)
    plain = MODELS[name]()
    # the eager attention of Llama computes its softmax in float32 for every dtype
    plain.set_attn_implementation("sdpa" if name == "llama" else "eager")
    expected = plain(
        input_ids=ids, attention_mask=mask, position_ids=positions_of(mask)
    ).last_hidden_state
    backbone = Backbone(MODELS[name]())
    for shared, own in ((None, None), prefixes(len(ids), shared=0, own=0)):
        states = backbone.last_hidden_states(ids, mask, shared=shared, own=own)
        real = mask.bool()
        torch.testing.assert_close(states[real], expected[real], rtol=0, atol=1e-12)


@pytest.mark.parametrize("parts", ["both", "shared", "own"])
@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_a_prefix_equals_explicit_concatenation(name: str, padding: str, parts: str) -> None:
    ids, mask = texts(padding)
    model = MODELS[name]()
    shared, own = prefixes(len(ids))
    pieces = {"shared": shared, "own": own}
    used = [tensor for part, tensor in pieces.items() if parts in (part, "both")]
    given = {part: tensor for part, tensor in pieces.items() if parts in (part, "both")}
    d = torch.cat(
        [
            tensor if tensor is own else tensor[:, None].expand(-1, len(ids), -1, -1)
            for tensor in used
        ],
        dim=2,
    )
    real = mask.bool()
    expected = REFERENCES[name](model, ids, mask, d)[real]
    weight = torch.randn(expected.shape, dtype=torch.float64)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), used)

    states = Backbone(model).last_hidden_states(
        ids, mask, shared=given.get("shared"), own=given.get("own")
    )[real]
    gradients = torch.autograd.grad((states * weight).sum(), used)
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-12)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)
        assert wanted.abs().max() > 1e-3


@pytest.mark.parametrize("padding", ["none", "right"])
def test_fewer_prefixes_belong_to_the_top_layers(padding: str) -> None:
    ids, mask = texts(padding)
    shared, own = (part[1:] for part in prefixes(len(ids)))
    model = tiny_bert()
    both = torch.cat([shared[:, None].expand(-1, len(ids), -1, -1), own], dim=2)
    expected = bert_reference(model, ids, mask, [both[0, :, :0], *both])
    backbone = Backbone(model)
    states = backbone.last_hidden_states(ids, mask, shared=shared, own=own)
    real = mask.bool()
    torch.testing.assert_close(states[real], expected[real], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("n_shared", "n_own", "got"), [(4, None, "4"), (None, 4, "4"), (1, 2, "1 and 2")]
)
def test_wrong_numbers_of_prefixes_are_refused(
    n_shared: int | None, n_own: int | None, got: str
) -> None:
    ids, mask = texts("none")
    shared = None if n_shared is None else torch.zeros(n_shared, 2, HIDDEN)
    own = None if n_own is None else torch.zeros(n_own, len(ids), 1, HIDDEN)
    with pytest.raises(ValueError, match=f"at most 3, got {got}$"):
        Backbone(tiny_bert()).last_hidden_states(ids, mask, shared=shared, own=own)


def test_no_backward_goes_below_the_lowest_prefix() -> None:
    ids, mask = texts("right")
    backbone = Backbone(tiny_bert())
    asked: list[bool] = []
    for layer in backbone.model.get_submodule("encoder.layer").children():
        layer.register_forward_hook(lambda *call: asked.append(call[2].requires_grad))
    assert backbone.packing is not None
    asked.clear()
    backbone.last_hidden_states(ids, mask, shared=prefixes(len(ids))[0][2:])
    assert asked == [False, False, True]


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_a_text_does_not_depend_on_its_batch(name: str, padding: str) -> None:
    ids, mask = texts(padding)
    backbone = Backbone(MODELS[name]())
    shared, own = prefixes(len(ids))
    together = backbone.last_hidden_states(ids, mask, shared=shared, own=own)
    for row in range(len(ids)):
        real = mask[row].bool()
        alone = backbone.last_hidden_states(
            ids[row : row + 1, real], mask[row : row + 1, real], shared=shared, own=own[:, [row]]
        )
        torch.testing.assert_close(together[row, real], alone[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_the_language_model_stays_frozen(name: str) -> None:
    ids, mask = texts("none")
    backbone = Backbone(MODELS[name]())
    shared, own = prefixes(len(ids))
    backbone.last_hidden_states(ids, mask, shared=shared, own=own).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())
    assert not backbone.model.training


def test_a_copied_backbone_works_and_a_copy_of_its_model_alone_is_refused() -> None:
    ids, mask = texts("right")
    backbone = Backbone(tiny_bert())
    shared, own = prefixes(len(ids))
    expected = backbone.last_hidden_states(ids, mask, shared=shared, own=own)
    copied = copy.deepcopy(backbone)
    states = copied.last_hidden_states(ids, mask, shared=shared, own=own)
    torch.testing.assert_close(states, expected, rtol=0, atol=0)
    copied.model = copy.deepcopy(backbone.model)
    with pytest.raises(
        RuntimeError, match="expected an attention module of the backbone, got another"
    ):
        copied.last_hidden_states(ids, mask, shared=shared, own=own)


@pytest.mark.parametrize("name", MODELS)
def test_text_states_are_the_states_that_enter_each_layer(name: str) -> None:
    ids, mask = texts("right")
    backbone = Backbone(MODELS[name](), pooling="mean")
    assert backbone.packing is not None
    entering: list[Tensor] = []
    model: Any = backbone.model
    for layer in model.encoder.layer if name == "bert" else model.layers:
        layer.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    states = backbone.text_states(ids, mask)
    assert states.shape == (3, LAYERS, HIDDEN)
    assert len(entering) == LAYERS
    for number, state in enumerate(entering):
        # no padding enters a layer
        assert state.shape == (1, int(mask.sum()), HIDDEN)
        # short texts first
        lengths, order = mask.sum(dim=1).sort(stable=True)
        for row, text in zip(order.tolist(), state[0].split(lengths.tolist()), strict=True):
            torch.testing.assert_close(states[row, number], text.mean(dim=0))


def test_models_with_other_masks_are_padded() -> None:
    # these masks hold more than causality and a window that the attention knows
    model = tiny_llama()
    model.config.attention_chunk_size = 4
    assert Backbone(model).packing is None
    model = tiny_llama()
    model.config.sliding_window = 4
    assert Backbone(model).packing is None


@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_pooling_takes_real_tokens_only(padding: str) -> None:
    _, mask = texts(padding)
    states = torch.randn(*mask.shape, HIDDEN, dtype=torch.float64)
    expected = {
        "mean": [s[m.bool()].mean(dim=0) for s, m in zip(states, mask, strict=True)],
        "first": [s[m.bool()][0] for s, m in zip(states, mask, strict=True)],
        "last": [s[m.bool()][-1] for s, m in zip(states, mask, strict=True)],
    }
    for pooling, rows in expected.items():
        pooled = Backbone(tiny_bert(), pooling=pooling).pool(states, mask)
        torch.testing.assert_close(pooled, torch.stack(rows))


def test_pooling_follows_the_architecture() -> None:
    assert Backbone(tiny_bert()).pooling == "mean"
    assert Backbone(tiny_llama()).pooling == "last"
    with pytest.raises(ValueError, match="expected pooling to be one of"):
        Backbone(tiny_bert(), pooling="max")


class PrivateAttentionModel(BertModel):
    """A model that does not use the attention interface."""

    def forward(self, *, input_ids: Any, attention_mask: Any, **_: Any) -> Any:  # pyright: ignore
        return self.embeddings(input_ids=input_ids) * attention_mask[..., None]


class NoKeywordsModel(BertModel):
    """A model that accepts no keywords for its attention."""

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:  # pyright: ignore
        return super().forward(input_ids=input_ids, attention_mask=attention_mask)


def test_models_that_cannot_take_a_prefix_are_refused() -> None:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    with pytest.raises(
        ValueError, match="PrivateAttentionModel never calls the attention interface"
    ):
        Backbone(PrivateAttentionModel(config))
    with pytest.raises(ValueError, match="NoKeywordsModel does not pass keywords on"):
        Backbone(NoKeywordsModel(config))


def bert_norms(model: Any) -> list[Any]:
    before = [layer.output.LayerNorm for layer in model.encoder.layer[:-1]]
    return [model.embeddings.LayerNorm, *before]


NORMS = {"bert": bert_norms, "llama": lambda model: [x.input_layernorm for x in model.layers]}


@pytest.mark.parametrize("name", MODELS)
def test_prompts_pass_through_the_norm_before_the_attention(name: str) -> None:
    model = MODELS[name]()
    norms = NORMS[name](model)
    generator = torch.Generator().manual_seed(6)
    for norm in norms:
        norm.weight.data = torch.rand(HIDDEN, generator=generator, dtype=torch.float64)
    backbone = Backbone(model)
    assert [layer.norm for layer in backbone.layers] == norms
    first, second = prefixes(3)
    for part in (first, second, second[1:]):
        expected = [norm(x) for norm, x in zip(norms[-len(part) :], part, strict=True)]
        torch.testing.assert_close(backbone.normed(part), torch.stack(expected))
