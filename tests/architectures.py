"""Language models of many architectures, tiny and random, and what a prefix in them should give.

`make architectures`, or `python -m tests.architectures`, writes `docs/architectures.md` and the
`.json` beside it.

The reference is the model itself over the whole sequence, prefix and text, in float64: what enters
each attention module has its first rows overwritten by the prefix of that layer, which is what
`K = Wk Concat(d, x)` says; whatever becomes of those rows in between is overwritten again. It knows
nothing of how rarec takes keys and values out of a module.

Axes: B batch, T text tokens, L layers, H hidden size, P and K prefix tokens, h heads.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rarec.backbone import Backbone

DOCS = Path(__file__).parents[1] / "docs"
VOCABULARY, HIDDEN, LAYERS, HEADS = 50, 16, 3, 4
SHARED, OWN = 2, 3
#: Largest difference in float64 that counts as none.
EXACT = 1e-12


@dataclass(frozen=True)
class Architecture:
    """A kind of model.

    Attributes:
        make: Returns a tiny random one in float64.
        entry: Name of the module whose result is the states before the first layer, where positions
            cannot be given to the model.
        packs: Whether it is known to read packed texts.
        since: The transformers that gave it the attention interface; older ones are refused.
        notes: For the page.
    """

    make: Callable[[], Any]
    entry: str | None = None
    packs: bool = True
    since: str = "5.3"
    notes: str = ""


def tiny(name: str, **options: Any) -> Any:
    """Return a random model; `name` is that of its class without `Model`."""
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
    """Return the encoder of a random model of two parts."""
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
        notes="one module in all layers, told apart by the order of its calls",
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
        notes="windows both ways",
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
        notes="encoder; zero bias for the prefix",
    ),
    "mt5": Architecture(
        partial(seq2seq, "MT5", **_T5),
        packs=False,
        since="5.16",
        notes="encoder; zero bias for the prefix",
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
        notes="encoder; left padding takes positions",
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
#: Refused with a message that says why, as long as transformers does not give them its attention
#: interface; else exact as the others.
OUTSIDE = {name: kind for name, kind in ALL.items() if name not in ARCHITECTURES}


def texts(padding: str, n_texts: int = 3, length: int = 7) -> tuple[Tensor, Tensor]:
    """Return token numbers and mask; `padding` is `none`, `right` or `left`."""
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
    """Return `[L, P, H]` and `[L, B, K, H]`."""
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> Tensor:
        states = torch.randn(*shape, HIDDEN, generator=generator, dtype=torch.float64)
        return states.requires_grad_()

    return normal(n_layers, shared), normal(n_layers, n_texts, own)


@dataclass(frozen=True, eq=False)
class _Whole:
    """How the reference reads prefix and text: `[B, T]` mask, prefix length."""

    mask: Tensor
    n_prefix: int


def _whole_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    whole: _Whole | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return attention written out in float64, the prefix being the first tokens."""
    assert whole is not None
    n_prefix, n_text = whole.n_prefix, whole.mask.shape[1]
    place = torch.arange(n_text)
    allowed = whole.mask.bool()[:, None, :].expand(-1, n_text, -1)
    # a row of padding sees itself: nothing is undefined
    allowed = allowed | torch.eye(n_text, dtype=torch.bool)
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    if is_causal:
        allowed = allowed & (place[:, None] >= place)
    if sliding_window is not None:
        allowed = allowed & ((place[:, None] - place).abs() < sliding_window)
    # the prefix is seen by all, and sees itself
    allowed = nn.functional.pad(allowed, (n_prefix, 0), value=True)
    allowed = nn.functional.pad(allowed, (0, 0, n_prefix, 0), value=True)
    group = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(group, dim=1) for tensor in (key, value))
    logits = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if position_bias is not None:
        # distances of the text are those without a prefix, which has none
        bias = position_bias.clone()
        bias[..., :n_prefix] = 0.0
        logits = logits + bias
    weights = logits.masked_fill(~allowed[:, None], -torch.inf).softmax(dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register("tests_whole", _whole_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register("tests_whole", sdpa_mask)


def explicit(
    name: str, model: Any, layer_names: list[str], ids: Tensor, mask: Tensor, d: Tensor
) -> Tensor:
    """Return `[B, T, H]`: the states of text that is read after a prefix in each layer.

    Args:
        name: Of the architecture.
        model: Of that architecture; it is changed.
        layer_names: Of its attention modules, in the order of their calls.
        ids: `[B, T]`.
        mask: `[B, T]`.
        d: `[L, B, S, H]` prefixes.
    """
    n_prefix = d.shape[2]
    model.set_attn_implementation("tests_whole")
    calls = iter(d)

    def overwrite(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        prefix = next(calls)
        if args:
            return (torch.cat([prefix, args[0][:, n_prefix:]], dim=1), *args[1:]), keywords
        states = torch.cat([prefix, keywords["hidden_states"][:, n_prefix:]], dim=1)
        return args, {**keywords, "hidden_states": states}

    def prepend(_: nn.Module, __: Any, states: Tensor) -> Tensor:
        return torch.cat([states.new_zeros(len(states), n_prefix, states.shape[2]), states], dim=1)

    modules = [model.get_submodule(layer_name) for layer_name in layer_names]
    hooks = [module.register_forward_pre_hook(overwrite, with_kwargs=True) for module in modules]
    keywords: dict[str, Any] = {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool)}
    entry = ALL[name].entry
    if entry is not None:
        hooks.append(model.get_submodule(entry).register_forward_hook(prepend))
    else:
        # any token: what it gives is overwritten
        ids = nn.functional.pad(ids, (n_prefix, 0), value=4)
    if "position_ids" in arguments(model):
        positions = nn.functional.pad((mask.cumsum(dim=1) - 1).clamp_min(0), (n_prefix, 0))
        keywords["position_ids"] = positions + (2 if name.endswith("roberta") else 0)
    if "use_cache" in arguments(model):
        keywords["use_cache"] = False
    try:
        whole = _Whole(mask, n_prefix)
        states = model(input_ids=ids, whole=whole, **keywords).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    assert next(calls, None) is None
    return states[:, n_prefix:]


def arguments(module: nn.Module) -> set[str]:
    """Return the names of a module's arguments."""
    return set(inspect.signature(module.forward).parameters)


@contextmanager
def in_float64() -> Iterator[None]:
    """Let transformers stay in float64 where it asks for float32: in norms, rotations, softmax."""
    softmax, to = nn.functional.softmax, Tensor.to

    def softmax_in_own_dtype(states: Tensor, dim: int | None = None, **_: Any) -> Tensor:
        return softmax(states, dim=dim)

    def to_but_float32(tensor: Tensor, *args: Any, **keywords: Any) -> Tensor:
        wanted = keywords.get("dtype", args[0] if args else None)
        if tensor.dtype == torch.float64 and wanted is torch.float32:
            return tensor
        return to(tensor, *args, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "softmax", softmax_in_own_dtype)
        patch.setattr(Tensor, "to", to_but_float32)
        # positions too: they meet frequencies that stayed
        patch.setattr(Tensor, "float", Tensor.double)
        yield


def plain(name: str, ids: Tensor, mask: Tensor) -> Tensor:
    """Return `[B, T, H]`: what the model gives without rarec, in its own eager attention."""
    model = ALL[name].make()
    model.set_attn_implementation("eager")
    keywords: dict[str, Any] = {}
    if "position_ids" in arguments(model):
        positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
        keywords["position_ids"] = positions + (2 if name.endswith("roberta") else 0)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, **keywords).last_hidden_state


def layer_names(backbone: Backbone) -> list[str]:
    """Return the names of the attention modules, once each."""
    names = {id(module): name for name, module in backbone.model.named_modules()}
    return list(dict.fromkeys(names[id(layer.module)] for layer in backbone.layers))


def backbone_of(name: str) -> Backbone:
    """Return a backbone of an architecture."""
    return Backbone(ALL[name].make())


def weighted(states: Tensor) -> Tensor:
    """Return a number that depends on all states."""
    weight = torch.linspace(-1, 1, states.numel(), dtype=torch.float64, device=states.device)
    return (states.flatten().double() * weight).sum()


def errors(
    name: str, padding: str, *, packed: bool = True, shared: int = SHARED, own: int = OWN
) -> tuple[float, float]:
    """Return the largest difference of values and of gradients, relative to the largest number."""
    ids, mask = texts(padding)
    backbone = backbone_of(name)
    if not packed:
        backbone.packing = None
    parts = make_prefixes(len(ids), backbone.n_layers, shared=shared, own=own)
    d = torch.cat([parts[0][:, None].expand(-1, len(ids), -1, -1), parts[1]], dim=2)
    used = [part for part in parts if part.numel()]
    expected = explicit(name, ALL[name].make(), layer_names(backbone), ids, mask, d)
    states = backbone.last_hidden_states(ids, mask, shared=parts[0], own=parts[1])
    real = mask.bool()
    wanted = torch.autograd.grad(weighted(expected[real]), used)
    got = torch.autograd.grad(weighted(states[real]), used)
    return _difference([states[real]], [expected[real]]), _difference(got, wanted)


def _difference(ours: Any, theirs: Any) -> float:
    return max(
        ((one - other).abs().max() / other.abs().max().clamp_min(1.0)).item()
        for one, other in zip(ours, theirs, strict=True)
    )


def plain_error(name: str, padding: str) -> float:
    """Return how far texts without a prefix, or with an empty one, are from the plain model."""
    ids, mask = texts(padding)
    backbone = backbone_of(name)
    shared, own = make_prefixes(len(ids), backbone.n_layers, shared=0, own=0)
    real = mask.bool()
    expected = plain(name, ids, mask)[real]
    none = backbone.last_hidden_states(ids, mask)[real]
    empty = backbone.last_hidden_states(ids, mask, shared=shared, own=own)[real]
    return max(_difference([none], [expected]), _difference([empty], [expected]))


def checkpointing_error(name: str) -> float:
    """Return how far gradients with gradient checkpointing are from those without."""
    ids, mask = texts("right")
    results = []
    for checkpointed in (False, True):
        backbone = backbone_of(name)
        if checkpointed:
            backbone.checkpoint_layers()
        parts = make_prefixes(len(ids), backbone.n_layers)
        states = backbone.last_hidden_states(ids, mask, shared=parts[0], own=parts[1])
        results.append([states, *torch.autograd.grad(weighted(states[mask.bool()]), parts)])
    return _difference(*results)


def bfloat16_error(name: str) -> float:
    """Return how far states in bfloat16 are from those in float64, both read with a prefix."""
    ids, mask = texts("right")
    model = ALL[name].make()
    results = []
    for dtype in (torch.float64, torch.bfloat16):
        backbone = Backbone(model.to(dtype))
        shared, own = make_prefixes(len(ids), backbone.n_layers)
        with torch.no_grad():
            states = backbone.last_hidden_states(ids, mask, shared=shared, own=own)
        results.append(states[mask.bool()].double())
    return ((results[1] - results[0]).norm() / results[0].norm()).item()


def examine(name: str) -> dict[str, Any]:
    """Return the row of an architecture."""
    with in_float64():
        found = [errors(name, padding) for padding in ("none", "right", "left")]
        # one text alone; one part of the prefix alone; padding that stays
        found += [errors(name, "none", shared=0), errors(name, "right", own=0)]
        found.append(errors(name, "right", packed=False))
        error = max(value for value, _ in found)
        plain_errors = [plain_error(name, padding) for padding in ("none", "right")]
    packs = backbone_of(name).packing is not None
    try:
        checkpointing = checkpointing_error(name) <= EXACT
    except ValueError:
        checkpointing = False
    notes = [ALL[name].notes, "" if packs else "padded"]
    return {
        "model_type": name,
        "exact": max(error, *plain_errors) <= EXACT,
        "error": max(error, *plain_errors),
        "gradient_error": max(value for _, value in found),
        "checkpointing": checkpointing,
        "bf16": bfloat16_error(name),
        "notes": "; ".join(filter(None, notes)),
    }


def refusal(name: str) -> str | None:
    """Return why an architecture is refused, or None."""
    try:
        backbone_of(name)
    except (ValueError, AttributeError) as error:
        # an attribute: older versions of transformers have no such class
        return str(error)
    return None


def page(rows: list[dict[str, Any]], refused: dict[str, str]) -> str:
    """Return the page in Markdown."""
    lines = [
        "# Architectures",
        "",
        f"Made by `make architectures` with transformers {transformers.__version__}. Tiny random "
        "models in float64, against the model",
        "itself over prefix and text, the prefix written over what enters each attention "
        "(`tests/architectures.py`).",
        "`error` and `gradient error` are the largest differences over texts without padding, "
        "padded on the right and on the",
        "left, packed and padded, with either part of the prefix alone and with none, relative to "
        "the largest number or 1. `bf16` is",
        "the relative distance of the states in bfloat16 from those in float64. `padded` models "
        "are read with padding.",
        "",
        "| model type | exact | error | gradient error | checkpointing | bf16 | notes |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        marks = ["yes" if row[key] else "no" for key in ("exact", "checkpointing")]
        lines.append(
            f"| {row['model_type']} | {marks[0]} | {row['error']:.0e} | "
            f"{row['gradient_error']:.0e} | {marks[1]} | {row['bf16']:.1%} | {row['notes']} |"
        )
    lines += ["", "Refused, each with the reason:", ""]
    lines += [f"- `{name}`: {reason}" for name, reason in refused.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Examine all, and write the page."""
    refused = {name: reason for name in OUTSIDE if (reason := refusal(name)) is not None}
    rows = [examine(name) for name in ALL if name not in refused]
    (DOCS / "architectures.json").write_text(json.dumps(rows, indent=1) + "\n")
    (DOCS / "architectures.md").write_text(page(rows, refused))
    exact = sum(row["exact"] for row in rows)
    print(f"{exact} of {len(rows)} architectures exact; docs/architectures.md written")
    if exact < len(rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
