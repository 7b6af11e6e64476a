"""The attention layers of a model: how they are found, and their keys and values of a prefix.

The attention module of each layer computes the keys and values of its prefix, so the weights,
biases, norms and rotation of that layer apply to the prefix too.

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

from rarec.backbone.attention import ATTENTION_NAME, AttentionContext, Capture, Captured, Prefix


@dataclass(frozen=True)
class Layer:
    """An attention module, and what is needed to call it.

    Attributes:
        module: The attention module.
        rotation: Cosine and sine of position 0, `[1, 1, D]` each; None without rotary positions.
        empty: Names of required arguments that are None in a call with a prefix.
        window: Window of the attention in tokens, as the module passes it; None if a query sees the
            whole text.
        norm: The norm whose output the module reads. It belongs to the layer itself or, in models
            with norms at the end of a layer, to the layer before or to the embeddings. None if the
            module does not read the output of a norm.
    """

    module: nn.Module
    rotation: tuple[Tensor, Tensor] | None
    empty: tuple[str, ...]
    window: int | None
    norm: nn.Module | None


def discover(model: PreTrainedModel) -> list[Layer]:
    """Return the attention layers in the order of their calls, found by one small forward pass.

    A module that several layers share is listed once for each of them.

    Raises:
        ValueError: If the model does not call the attention interface of transformers, or does not
            pass keywords on to it.
    """
    name = type(model).__name__
    try:
        model.set_attn_implementation(ATTENTION_NAME)
    except ValueError as error:
        raise ValueError(f"{name} does not use the attention interface of transformers") from error
    capture = Capture(stop=False)
    rotations: dict[int, tuple[Tensor, Tensor] | None] = {}
    norms: dict[int, list[nn.Module | None]] = {}
    # keeps the tensors: Python gives the `id` of a deleted tensor to a new one
    made: dict[int, tuple[Tensor, nn.Module]] = {}

    def remember(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        rotations[id(module)] = keywords.get("position_embeddings")
        _, maker = made.get(id(_states(arguments, keywords)), (None, None))
        norms.setdefault(id(module), []).append(maker)

    def note(module: nn.Module, _: Any, output: Any) -> None:
        # in evaluation mode dropout returns its input itself, so the norm before it is still found
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
            f"{name} does not pass keywords on to its attention, so it cannot take a prefix "
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
    """Return `[L]` float32: root mean square of the states that each layer's attention reads.

    They are measured on one text of 32 tokens, taken evenly from the vocabulary.
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
            model(input_ids=tokens, rarec=AttentionContext({}), **without_cache(model))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(sizes)


def _states(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor | None:
    """Return the states in the arguments of a module; None if there are none."""
    return arguments[0] if arguments else keywords.get("hidden_states")


def without_cache(model: PreTrainedModel) -> dict[str, bool]:
    """Return the keyword that turns the cache of keys off; empty if the model has no cache."""
    accepted = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in accepted else {}


def _rotation_at_zero(embeddings: Any) -> tuple[Tensor, Tensor] | None:
    """Return cosine and sine of position 0; None without rotary positions."""
    if embeddings is None:
        return None
    cosine, sine = embeddings
    return cosine[:1, :1].detach().clone(), sine[:1, :1].detach().clone()


def layer_prefix(layer: Layer, shared: Tensor | None, own: Tensor | None) -> Prefix:
    """Return the prefix of one layer; one call of its module projects both parts.

    Args:
        layer: The layer.
        shared: `[P, H]` states of the prefix that the batch shares, or None.
        own: `[B, K, H]` states of the prefix of each sample, or None.
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
    """Return the keys and values `[b, h_kv, S, D]` of states, computed by the layer's module.

    Args:
        layer: The layer.
        states: `[b, S, H]` states of prefix tokens.
    """
    keywords: dict[str, Any] = dict.fromkeys(layer.empty)
    if layer.rotation is not None:
        batch, length, _ = states.shape
        # every prefix token is at position 0: the prefix has no order, and the text keeps 0..T-1
        keywords["position_embeddings"] = tuple(
            part.to(states).expand(batch, length, -1) for part in layer.rotation
        )
    capture = Capture(stop=True)
    with suppress(Captured):
        layer.module(states, rarec=capture, **keywords)
    _, key, value, _ = capture.calls[0]
    return key, value
