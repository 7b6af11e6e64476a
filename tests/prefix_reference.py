"""The language model itself over prefix and text: the reference for prefixes of any architecture.

The model reads the whole sequence, prefix and text, in float64. Before each attention module the
first rows of its input are overwritten with the prefix of that layer, as `K = Wk Concat(d, x)`
says. What a layer computes for these rows does not matter, because the next layer overwrites them
again. The reference does not use rarec's code for keys and values.

Axes: B batch, T text tokens, S prefix tokens, L layers, H hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rarec.backbone import Backbone
from tests.tiny_models import ALL, OWN, SHARED, backbone_of, make_prefixes, texts

#: Largest difference in float64 that counts as none.
EXACT = 1e-12


@dataclass(frozen=True, eq=False)
class _Whole:
    """The `[B, T]` mask of the texts, and the length of the prefix before them."""

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
    """Return the attention over prefix and text, written out; the prefix comes first."""
    assert whole is not None
    n_prefix, n_text = whole.n_prefix, whole.mask.shape[1]
    place = torch.arange(n_text)
    allowed = whole.mask.bool()[:, None, :].expand(-1, n_text, -1)
    # padding sees itself, so that its softmax is defined
    allowed = allowed | torch.eye(n_text, dtype=torch.bool)
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    if is_causal:
        allowed = allowed & (place[:, None] >= place)
    if sliding_window is not None:
        allowed = allowed & ((place[:, None] - place).abs() < sliding_window)
    # all tokens see the prefix, and the prefix sees itself
    allowed = nn.functional.pad(allowed, (n_prefix, 0), value=True)
    allowed = nn.functional.pad(allowed, (0, 0, n_prefix, 0), value=True)
    group = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(group, dim=1) for tensor in (key, value))
    logits = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if position_bias is not None:
        # distances within the text are those without a prefix; the prefix has no distance
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
    """Return `[B, T, H]`: the states of texts that are read after a prefix in each layer.

    Args:
        name: Name of the architecture.
        model: Model of that architecture. It is changed.
        layer_names: Names of the attention modules, in the order of their calls.
        ids: `[B, T]` token numbers.
        mask: `[B, T]` mask, 0 for padding.
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
        # any token will do: its states are overwritten
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
    """Keep float64 where transformers asks for float32: in norms, rotations and softmax."""
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
        # positions are multiplied by frequencies, which stay in float64
        patch.setattr(Tensor, "float", Tensor.double)
        yield


def plain(name: str, ids: Tensor, mask: Tensor) -> Tensor:
    """Return `[B, T, H]`: the states of the model without rarec, with transformers' attention."""
    model = ALL[name].make()
    model.set_attn_implementation("eager")
    keywords: dict[str, Any] = {}
    if "position_ids" in arguments(model):
        positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
        keywords["position_ids"] = positions + (2 if name.endswith("roberta") else 0)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, **keywords).last_hidden_state


def layer_names(backbone: Backbone) -> list[str]:
    """Return the names of the attention modules, each name once."""
    names = {id(module): name for name, module in backbone.model.named_modules()}
    return list(dict.fromkeys(names[id(layer.module)] for layer in backbone.layers))


def weighted(states: Tensor) -> Tensor:
    """Return a number that depends on all states."""
    weight = torch.linspace(-1, 1, states.numel(), dtype=torch.float64, device=states.device)
    return (states.flatten().double() * weight).sum()


def errors(
    name: str, padding: str, *, packed: bool = True, shared: int = SHARED, own: int = OWN
) -> tuple[float, float]:
    """Return the largest errors of states and gradients, relative to the largest value."""
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
    """Return the largest error of texts without a prefix, or with an empty prefix."""
    ids, mask = texts(padding)
    backbone = backbone_of(name)
    shared, own = make_prefixes(len(ids), backbone.n_layers, shared=0, own=0)
    real = mask.bool()
    expected = plain(name, ids, mask)[real]
    none = backbone.last_hidden_states(ids, mask)[real]
    empty = backbone.last_hidden_states(ids, mask, shared=shared, own=own)[real]
    return max(_difference([none], [expected]), _difference([empty], [expected]))


def checkpointing_error(name: str) -> float:
    """Return the largest difference between gradients with and without checkpointing."""
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
    """Return the relative distance of the states in bfloat16 from those in float64."""
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
