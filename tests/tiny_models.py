"""Tiny random language models of many architectures, and texts and prefixes for them.

Axes: B batch, T text tokens, L layers, H hidden size, P and K prefix tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor

from rarec.backbone import Backbone

VOCABULARY, HIDDEN, LAYERS, HEADS = 50, 16, 3, 4
SHARED, OWN = 2, 3


@dataclass(frozen=True)
class Architecture:
    """One architecture of language models.

    Attributes:
        make: Function that returns a tiny random model in float64.
        entry: Name of the module that returns the states before the first layer. It is needed where
            the model takes no positions.
        packs: Whether the model can read packed texts.
        since: Version of transformers that moved the model to the attention interface. The model is
            refused with older versions.
        notes: Remark for `docs/architectures.md`.
    """

    make: Callable[[], Any]
    entry: str | None = None
    packs: bool = True
    since: str = "5.3"
    notes: str = ""


def tiny(name: str, **options: Any) -> Any:
    """Return a random model of the class `{name}Model`."""
    torch.manual_seed(5)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "initializer_range": 0.5,
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    config = getattr(transformers, options.pop("config", f"{name}Config"))
    model = getattr(transformers, f"{name}Model")(config(**{**sizes, **options}))
    return model.double().eval()


def seq2seq(name: str, **options: Any) -> Any:
    """Return the encoder of a random encoder-decoder model."""
    torch.manual_seed(5)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCABULARY, d_model=HIDDEN, **options
    )
    if name == "Bart":
        return transformers.BartModel(config).double().eval().get_encoder()
    return getattr(transformers, f"{name}EncoderModel")(config).double().eval()


_GROUPED = {"num_key_value_heads": 2, "head_dim": 4}
_GROUPED_BY_SIZE = {"num_key_value_heads": 2}
_T5 = {"d_kv": 4, "d_ff": 32, "num_layers": LAYERS, "num_heads": HEADS}
_WINDOWED = {
    "sliding_window": 3,
    "query_pre_attn_scalar": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    **_GROUPED,
}

_INTERFACE = {
    "bert": Architecture(partial(tiny, "Bert")),
    "roberta": Architecture(partial(tiny, "Roberta")),
    "xlm-roberta": Architecture(partial(tiny, "XLMRoberta")),
    "distilbert": Architecture(
        partial(tiny, "DistilBert", dim=HIDDEN, n_layers=LAYERS, n_heads=HEADS, hidden_dim=32)
    ),
    "electra": Architecture(partial(tiny, "Electra", embedding_size=HIDDEN)),
    "albert": Architecture(
        partial(tiny, "Albert", embedding_size=HIDDEN),
        notes="all layers share one module; the order of its calls tells the layers apart",
    ),
    "modernbert": Architecture(
        partial(
            tiny,
            "ModernBert",
            local_attention=4,
            global_attn_every_n_layers=2,
            cls_token_id=0,
            sep_token_id=2,
        ),
        since="5.9",
        notes="windows to both sides",
    ),
    "eurobert": Architecture(partial(tiny, "EuroBert", **_GROUPED_BY_SIZE)),
    "gpt2": Architecture(partial(tiny, "GPT2")),
    "opt": Architecture(partial(tiny, "OPT", ffn_dim=32, word_embed_proj_dim=HIDDEN)),
    "gpt_neox": Architecture(partial(tiny, "GPTNeoX")),
    "llama": Architecture(partial(tiny, "Llama", **_GROUPED)),
    "mistral": Architecture(partial(tiny, "Mistral", sliding_window=3, **_GROUPED), notes="window"),
    "qwen2": Architecture(partial(tiny, "Qwen2", **_GROUPED_BY_SIZE)),
    "qwen3": Architecture(partial(tiny, "Qwen3", **_GROUPED), notes="norms of queries and keys"),
    "gemma": Architecture(partial(tiny, "Gemma", **_GROUPED)),
    "gemma2": Architecture(partial(tiny, "Gemma2", **_WINDOWED), notes="windows, capped logits"),
    "gemma3_text": Architecture(
        partial(tiny, "Gemma3Text", **_WINDOWED), notes="windows, norms of queries and keys"
    ),
    "phi": Architecture(partial(tiny, "Phi")),
    "phi3": Architecture(partial(tiny, "Phi3", **_GROUPED_BY_SIZE)),
    "olmo2": Architecture(partial(tiny, "Olmo2", **_GROUPED_BY_SIZE)),
    "smollm3": Architecture(partial(tiny, "SmolLM3", **_GROUPED_BY_SIZE)),
    "granite": Architecture(partial(tiny, "Granite", **_GROUPED_BY_SIZE)),
    "starcoder2": Architecture(partial(tiny, "Starcoder2", **_GROUPED_BY_SIZE)),
    "cohere": Architecture(partial(tiny, "Cohere", **_GROUPED_BY_SIZE)),
    "t5": Architecture(
        partial(seq2seq, "T5", **_T5),
        packs=False,
        since="5.16",
        notes="encoder; the prefix has no position bias",
    ),
    "mt5": Architecture(
        partial(seq2seq, "MT5", **_T5),
        packs=False,
        since="5.16",
        notes="encoder; the prefix has no position bias",
    ),
    "bart": Architecture(
        partial(
            seq2seq,
            "Bart",
            encoder_layers=LAYERS,
            encoder_attention_heads=HEADS,
            encoder_ffn_dim=32,
            decoder_layers=1,
            init_std=0.5,
            max_position_embeddings=64,
        ),
        entry="layernorm_embedding",
        packs=False,
        since="5.6",
        notes="encoder; padding on the left takes positions",
    ),
}

_NO_INTERFACE = {
    "mpnet": Architecture(partial(tiny, "MPNet")),
    "bloom": Architecture(partial(tiny, "Bloom", n_layer=LAYERS, n_head=HEADS)),
    "falcon": Architecture(partial(tiny, "Falcon")),
    "gptj": Architecture(partial(tiny, "GPTJ", rotary_dim=4)),
    "deberta-v2": Architecture(partial(tiny, "DebertaV2")),
    "stablelm": Architecture(
        partial(tiny, "StableLm", num_key_value_heads=4, partial_rotary_factor=0.5)
    ),
}
ALL = _INTERFACE | _NO_INTERFACE
_VERSION = Version(transformers.__version__)
ARCHITECTURES = {name: kind for name, kind in _INTERFACE.items() if Version(kind.since) <= _VERSION}
#: These are refused with a reason while their class in transformers lacks the attention interface.
#: With it they are as exact as the others.
OUTSIDE = {name: kind for name, kind in ALL.items() if name not in ARCHITECTURES}


def texts(padding: str, n_texts: int = 3, length: int = 7) -> tuple[Tensor, Tensor]:
    """Return `[B, T]` token numbers and mask; `padding` is `none`, `right` or `left`."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(4, VOCABULARY, (n_texts, length), generator=generator)
    mask = torch.ones_like(ids)
    if padding != "none":
        for row in range(1, n_texts):
            mask[
                row, slice(length - 2 * row, None) if padding == "right" else slice(0, 2 * row)
            ] = 0
    return torch.where(mask.bool(), ids, 1), mask


def make_prefixes(
    n_texts: int, n_layers: int, *, shared: int = SHARED, own: int = OWN
) -> tuple[Tensor, Tensor]:
    """Return random prefixes: `[L, P, H]` for all texts and `[L, B, K, H]` for each text."""
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> Tensor:
        states = torch.randn(*shape, HIDDEN, generator=generator, dtype=torch.float64)
        return states.requires_grad_()

    return normal(n_layers, shared), normal(n_layers, n_texts, own)


def backbone_of(name: str) -> Backbone:
    """Return a backbone around a tiny model of an architecture."""
    return Backbone(ALL[name].make())


def refusal(name: str) -> str | None:
    """Return the reason why an architecture is refused, or None."""
    try:
        backbone_of(name)
    except (ValueError, AttributeError) as error:
        # AttributeError: older versions of transformers do not have the class
        return str(error)
    return None
