"""A decoder goes on generating after its model became a backbone."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from rarec.backbone import Backbone

VOCABULARY, NEW = 60, 12
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
    # with tied embeddings the last token is mostly the most likely next one
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    # without an end token each prompt gets all of its tokens
    "eos_token_id": None,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 4},
    "Gemma2": {"sliding_window": 4, "query_pre_attn_scalar": 4},
}


def make(name: str) -> Any:
    """Return a tiny random language model with a head."""
    torch.manual_seed(9)
    config = getattr(transformers, f"{name}Config")(**SIZES, **OPTIONS[name])
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def generate(model: Any, ids: Tensor, mask: Tensor, *, use_cache: bool) -> Tensor:
    return model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        use_cache=use_cache,
    )[:, ids.shape[1] :]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("use_cache", [True, False])
def test_the_same_tokens_are_generated(name: str, use_cache: bool) -> None:
    model = make(name)
    first, second = torch.arange(2, 9), torch.arange(20, 24)
    ids = torch.zeros(2, 7, dtype=torch.int64)
    ids[0], ids[1, 3:] = first, second
    prompts = [
        (first[None], torch.ones(1, 7, dtype=torch.int64)),
        (ids, (ids > 0).long()),
    ]
    expected = [generate(model, *prompt, use_cache=use_cache) for prompt in prompts]
    assert len(expected[0].unique()) > 2
    backbone = Backbone(model.model)
    for prompt, tokens in zip(prompts, expected, strict=True):
        assert torch.equal(generate(model, *prompt, use_cache=use_cache), tokens)
    # the same after texts were read with a prefix
    prefix = torch.randn(3, 2, 16)
    backbone.last_hidden_states(*prompts[1], shared=prefix)
    assert torch.equal(generate(model, *prompts[1], use_cache=use_cache), expected[1])
    # a prompt alone, and beside another with padding on the left
    alone = generate(model, second[None], torch.ones(1, 4).long(), use_cache=use_cache)
    assert torch.equal(alone[0], expected[1][1])
