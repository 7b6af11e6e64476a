"""A frozen Hugging Face model that takes a prefix in the attention of every layer.

One mechanism for all models: an attention function and a mask function registered with
transformers. Prefix keys and values come out of each layer's own attention module, so its weights,
biases, norms and rotation apply; they reach the registered function as a keyword of the forward
call. Masks, positions and lengths of the text never see the prefix.

Axes: B batch, T text tokens, L layers, H hidden size, P shared prefix tokens, K prefix tokens of
each sample, h heads, D head dimension.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rarec import assets
from rarec.ops import prefix_attention

ATTENTION_NAME = "rarec_prefix"
POOLINGS = ("mean", "first", "last")


class _Captured(Exception):  # noqa: N818 (control flow, not an error)
    """Ends a call of an attention module once its keys and values are known."""


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    rarec: dict[str, Any] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return `[B, T, h, D]`: what transformers asks of an attention function.

    Without `rarec` this is the plain attention of the model. `rarec` holds either `capture`, a list
    that receives (module, key, value), or `prefixes`, the prefix keys and values of each module.
    """
    rarec = rarec or {}
    if "capture" in rarec:
        rarec["capture"].append((module, key, value))
        if rarec["stop"]:
            raise _Captured
    prefix_key, prefix_value = key[:1, :, :0], value[:1, :, :0]
    if prefixes := rarec.get("prefixes"):
        if id(module) not in prefixes:
            # a copy of the model, as data parallelism makes them: text alone would look right
            raise RuntimeError(f"{type(module).__name__} is none of the layers that take a prefix")
        prefix_key, prefix_value = prefixes[id(module)]
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    output = prefix_attention(
        query,
        key,
        value,
        prefix_key.to(key.dtype),
        prefix_value.to(value.dtype),
        mask=attention_mask,
        # transformers leaves the mask out where causality alone says it all
        causal=is_causal and attention_mask is None and query.shape[2] > 1,
        bias=position_bias,
        scale=scaling,
        dropout=dropout,
        softcap=softcap,
    )
    return output.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, _attention)
# without a mask function of the same name transformers would silently make no mask at all
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, sdpa_mask)


@dataclass(frozen=True)
class _Layer:
    """An attention module, and the rotation of position 0 that it is called with."""

    module: nn.Module
    rotation: tuple[Tensor, Tensor] | None  # cos and sin, [1, 1, D] each


class Backbone:
    """A frozen language model with a prefix in each layer.

    Args:
        model: Any transformers model that uses its attention interface. It is changed in place:
            frozen, in evaluation mode, attention set to that of rarec.
        pooling: `mean`, `first` or `last` token; by default `last` for causal models, else `mean`.
        name: By which it is loaded again; by default the model's own.
        revision: The same.

    Raises:
        ValueError: If the model does not call the attention interface, or pooling is unknown.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        pooling: str | None = None,
        name: str | None = None,
        revision: str | None = None,
    ) -> None:
        if pooling is not None and pooling not in POOLINGS:
            raise ValueError(f"expected pooling to be one of {list(POOLINGS)}, got {pooling!r}")
        self.model = model.requires_grad_(False).eval()
        self.layers = _discover(model)
        causal = bool(getattr(self.layers[0].module, "is_causal", False))
        self.pooling = pooling or ("last" if causal else "mean")
        self.name = name or str(model.name_or_path)
        self.revision = revision
        self.hidden_size = int(model.config.hidden_size)

    @property
    def n_layers(self) -> int:
        """The number of attention layers, each of which takes a prefix."""
        return len(self.layers)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the model's weights."""
        return self.model.dtype

    def prefix_keys_values(self, prefixes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the prefix keys and values of each layer, `[b, h_kv, S, D]`.

        Args:
            prefixes: `[L, b, S, H]` states in the input space of each attention module.
        """
        return [
            _keys_values(layer, states.to(self.dtype))
            for layer, states in zip(self.layers, prefixes, strict=True)
        ]

    def last_hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        shared: Tensor | None = None,
        own: Tensor | None = None,
    ) -> Tensor:
        """Return `[B, T, H]`: the last hidden states of texts read with a prefix in each layer.

        Padding may stand on either side. Rotary models then read a text as if it stood alone;
        models with learned positions read left padding as they do without rarec, each padding
        token taking a position.

        Args:
            input_ids: `[B, T]` int64.
            attention_mask: `[B, T]` 1 for text, 0 for padding.
            shared: `[L, P, H]` prefix of the whole batch.
            own: `[L, B, K, H]` prefix of each sample; it stands after the shared one.
        """
        parts = []
        if shared is not None and shared.shape[1]:
            parts.append(self.prefix_keys_values(shared[:, None]))
        if own is not None and own.shape[2]:
            parts.append(self.prefix_keys_values(own))
        prefixes = {
            id(layer.module): _joined([part[number] for part in parts], len(input_ids))
            for number, layer in enumerate(self.layers)
            if parts
        }
        keywords: dict[str, Any] = _without_cache(self.model)
        if prefixes and any(layer.rotation is not None for layer in self.layers):
            # the prefix stands at 0: counting left padding would move the text away from it
            keywords["position_ids"] = (attention_mask.cumsum(dim=1) - 1).clamp_min(0)
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            rarec={"prefixes": prefixes},
            **keywords,
        )
        return output.last_hidden_state

    @torch.no_grad()
    def text_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return `[B, L, H]`: pooled states entering each layer, text alone (`g` of the paper).

        Args:
            input_ids: `[B, T]` int64.
            attention_mask: `[B, T]` 1 for text, 0 for padding.
        """
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=True,
            **_without_cache(self.model),
        )
        states = output.hidden_states[: self.n_layers]
        return torch.stack([self.pool(state, attention_mask) for state in states], dim=1)

    def pool(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Return `[B, H]`: the mean, first or last real token of each text.

        Args:
            states: `[B, T, H]`.
            attention_mask: `[B, T]` 1 for text, 0 for padding (on either side).
        """
        if self.pooling == "mean":
            weight = attention_mask[..., None].to(states.dtype)
            return (states * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)
        if self.pooling == "first":
            token = attention_mask.argmax(dim=1)
        else:
            token = attention_mask.shape[1] - 1 - attention_mask.flip(1).argmax(dim=1)
        return states[torch.arange(len(states), device=states.device), token]


def load_backbone(
    name: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    pooling: str | None = None,
) -> tuple[Backbone, PreTrainedTokenizerBase]:
    """Return the named model as a backbone, and its tokenizer.

    Args:
        name: A folder, a name of `rarec.assets`, or a name on the Hugging Face hub.
        revision: Of the hub.
        dtype: Of the weights; by default float32.
        device: Where to put it; by default a GPU if there is one.
        pooling: See `Backbone`.

    Raises:
        ValueError: If no model of that name can be had; the message says what was tried.
    """
    path = str(assets.fetch(name)) if name in assets.names() else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        model = AutoModel.from_pretrained(path, revision=revision, dtype=dtype or torch.float32)
    except (OSError, ValueError) as error:
        cause = str(error).strip().splitlines()[0]
        raise ValueError(
            f"no language model {name!r}: expected a folder with config.json, one of "
            f"{assets.names()}, or a model of the Hugging Face hub ({cause})"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = Backbone(model.to(device), pooling=pooling, name=name, revision=revision)
    return backbone, tokenizer


def _without_cache(model: PreTrainedModel) -> dict[str, bool]:
    accepted = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in accepted else {}


def _discover(model: PreTrainedModel) -> list[_Layer]:
    """Return the attention modules in the order of their calls, by watching one small forward."""
    name = type(model).__name__
    try:
        model.set_attn_implementation(ATTENTION_NAME)
    except ValueError as error:
        raise ValueError(f"{name} does not use the attention interface of transformers") from error
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []
    rotations: dict[int, tuple[Tensor, Tensor] | None] = {}

    def remember(module: nn.Module, _: Any, keywords: dict[str, Any]) -> None:
        rotations[id(module)] = keywords.get("position_embeddings")

    hooks = [m.register_forward_pre_hook(remember, with_kwargs=True) for m in model.modules()]
    tokens = torch.zeros(1, 3, dtype=torch.int64, device=model.device)
    try:
        with torch.no_grad():
            model(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                rarec={"capture": calls, "stop": False},
                **_without_cache(model),
            )
    except TypeError as error:
        raise ValueError(
            f"{name} does not hand keywords down to its attention, so it cannot take a prefix "
            f"({error})"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not calls:
        raise ValueError(
            f"{name} never calls the attention interface of transformers, so it cannot take a "
            "prefix in its layers"
        )
    modules = [module for module, _, _ in calls]
    if len({id(module) for module in modules}) < len(modules):
        raise ValueError(
            f"{name} calls one attention module in several layers; such models are not supported"
        )
    return [_Layer(module, _rotation_at_zero(rotations.get(id(module)))) for module in modules]


def _rotation_at_zero(embeddings: Any) -> tuple[Tensor, Tensor] | None:
    if embeddings is None:
        return None
    cosine, sine = embeddings
    return cosine[:1, :1].detach().clone(), sine[:1, :1].detach().clone()


def _keys_values(layer: _Layer, states: Tensor) -> tuple[Tensor, Tensor]:
    """Return the keys and values that the layer's own attention module makes of `[b, S, H]`."""
    keywords: dict[str, Any] = {}
    accepted = inspect.signature(layer.module.forward).parameters
    for name in ("attention_mask", "mask"):
        if name in accepted:
            keywords[name] = None
    if layer.rotation is not None:
        batch, length, _ = states.shape
        # every prefix token stands at position 0: the prefix is a set, the text keeps 0..T-1
        keywords["position_embeddings"] = tuple(
            part.to(states).expand(batch, length, -1) for part in layer.rotation
        )
    captured: list[tuple[nn.Module, Tensor, Tensor]] = []
    with suppress(_Captured):
        layer.module(states, rarec={"capture": captured, "stop": True}, **keywords)
    _, key, value = captured[0]
    return key, value


def _joined(parts: list[tuple[Tensor, Tensor]], batch: int) -> tuple[Tensor, Tensor]:
    if len(parts) == 1:
        return parts[0]
    keys, values = zip(*parts, strict=True)
    return tuple(  # type: ignore[return-value]
        torch.cat([tensor.expand(batch, -1, -1, -1) for tensor in tensors], dim=2)
        for tensors in (keys, values)
    )
