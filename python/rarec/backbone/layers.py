"""The attention layers of a model: which they are, and the keys and values they make of a prefix.

Prefix keys and values come out of each layer's own attention module, so its weights, biases, norms
and rotation apply.

Axes: B batch, H hidden size, P shared prefix tokens, K prefix tokens of each sample, h_kv key
heads, D head dimension.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rarec.backbone.attention import ATTENTION_NAME, Capture, Captured, Prefix, Reading


@dataclass(frozen=True)
class Layer:
    """An attention module, and what it is called with.

    Attributes:
        module: The attention module.
        rotation: cos and sin of position 0, `[1, 1, D]` each; None without rotation.
        empty: Arguments that it wants and that are None here.
        window: Text tokens that a query sees, as the module says it; None for all.
        norm: The norm whose output it reads: that of the layer, or where norms come last, of the
            layer before (or the embeddings). None where it reads something else.
    """

    module: nn.Module
    rotation: tuple[Tensor, Tensor] | None
    empty: tuple[str, ...]
    window: int | None
    norm: nn.Module | None


def discover(model: PreTrainedModel) -> list[Layer]:
    """Return the attention layers in the order of their calls, by watching one small forward.

    A module that several layers share is there once for each.

    Raises:
        ValueError: If the model does not call the attention interface of transformers, or does not
            hand keywords down to it.
    """
    name = type(model).__name__
    try:
        model.set_attn_implementation(ATTENTION_NAME)
    except ValueError as error:
        raise ValueError(f"{name} does not use the attention interface of transformers") from error
    capture = Capture(stop=False)
    rotations: dict[int, tuple[Tensor, Tensor] | None] = {}
    norms: dict[int, list[nn.Module | None]] = {}
    # kept with their makers until the end: the number of a tensor that is gone is used again
    made: dict[int, tuple[Tensor, nn.Module]] = {}

    def remember(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        rotations[id(module)] = keywords.get("position_embeddings")
        _, maker = made.get(id(_states(arguments, keywords)), (None, None))
        norms.setdefault(id(module), []).append(maker)

    def note(module: nn.Module, _: Any, output: Any) -> None:
        # dropout hands on what it was given
        if "norm" in type(module).__name__.lower() and isinstance(output, Tensor):
            made.setdefault(id(output), (output, module))

    hooks = [m.register_forward_pre_hook(remember, with_kwargs=True) for m in model.modules()]
    hooks += [m.register_forward_hook(note) for m in model.modules()]
    tokens = torch.zeros(1, 3, dtype=torch.int64, device=model.device)
    try:
        with torch.no_grad():
            model(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                rarec=capture,
                **without_cache(model),
            )
    except TypeError as error:
        raise ValueError(
            f"{name} does not hand keywords down to its attention, so it cannot take a prefix "
            f"({error})"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not capture.calls:
        raise ValueError(
            f"{name} never calls the attention interface of transformers, so it cannot take a "
            "prefix in its layers"
        )
    layers = []
    for module, _, _, window in capture.calls:
        accepted = inspect.signature(module.forward).parameters
        empty = tuple(name for name in ("attention_mask", "mask") if name in accepted)
        rotation = _rotation_at_zero(rotations.get(id(module)))
        layers.append(Layer(module, rotation, empty, window, norms[id(module)].pop(0)))
    return layers


def state_sizes(model: PreTrainedModel, layers: Sequence[Layer]) -> Tensor:
    """Return `[L]` float32: root mean square of what each layer's attention reads.

    Of a text of 32 tokens from all over the vocabulary.
    """
    sizes: list[Tensor] = []

    def measure(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        states = _states(arguments, keywords)
        assert states is not None
        sizes.append(states.float().square().mean().sqrt().cpu())

    modules = {id(layer.module): layer.module for layer in layers}.values()
    hooks = [module.register_forward_pre_hook(measure, with_kwargs=True) for module in modules]
    n_tokens = model.config.get_text_config().vocab_size
    tokens = torch.linspace(0, n_tokens - 1, 32, device=model.device).long()[None]
    try:
        with torch.no_grad():
            model(input_ids=tokens, rarec=Reading({}), **without_cache(model))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(sizes)


def _states(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor | None:
    """Return the states that a module is called with; None if it is called with something else."""
    return arguments[0] if arguments else keywords.get("hidden_states")


def without_cache(model: PreTrainedModel) -> dict[str, bool]:
    """Return the keyword that keeps a model from caching keys, if it has one."""
    accepted = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in accepted else {}


def _rotation_at_zero(embeddings: Any) -> tuple[Tensor, Tensor] | None:
    if embeddings is None:
        return None
    cosine, sine = embeddings
    return cosine[:1, :1].detach().clone(), sine[:1, :1].detach().clone()


def layer_prefix(layer: Layer, shared: Tensor | None, own: Tensor | None) -> Prefix:
    """Return the prefix of one layer; both parts go through the layer's projections at once.

    Args:
        layer: The layer.
        shared: `[P, H]` prefix of the whole batch, or None.
        own: `[B, K, H]` prefix of each sample, or None.
    """
    rows = [part.flatten(0, -2) for part in (shared, own) if part is not None]
    key, value = keys_values(layer, torch.cat(rows)[None])
    n_shared = 0 if shared is None else len(shared)
    parts = [tensor.split([n_shared, tensor.shape[2] - n_shared], dim=2) for tensor in (key, value)]
    (key, own_key), (value, own_value) = parts
    if own is None:
        return Prefix(key, value)

    # [1, h_kv, B * K, D] to [B, h_kv, K, D]
    def by_sample(tensor: Tensor) -> Tensor:
        return tensor[0].unflatten(1, own.shape[:2]).transpose(0, 1)

    return Prefix(key, value, by_sample(own_key), by_sample(own_value))


def keys_values(layer: Layer, states: Tensor) -> tuple[Tensor, Tensor]:
    """Return `[b, h_kv, S, D]` twice: what the layer's own module makes of `[b, S, H]`."""
    keywords: dict[str, Any] = dict.fromkeys(layer.empty)
    if layer.rotation is not None:
        batch, length, _ = states.shape
        # every prefix token stands at position 0: the prefix is a set, the text keeps 0..T-1
        keywords["position_embeddings"] = tuple(
            part.to(states).expand(batch, length, -1) for part in layer.rotation
        )
    capture = Capture(stop=True)
    with suppress(Captured):
        layer.module(states, rarec=capture, **keywords)
    _, key, value, _ = capture.calls[0]
    return key, value
