"""A frozen Hugging Face model that takes a prefix in the attention of every layer.

Masks, positions and lengths of the text never see the prefix.

Axes: B batch, T text tokens, L layers, H hidden size, P shared prefix tokens, K prefix tokens of
each sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from rarec.backbone.attention import Prefix, Reading
from rarec.backbone.blocks import Blocks, find_blocks
from rarec.backbone.layers import discover, layer_prefix, state_sizes, without_cache
from rarec.backbone.lora import add_lora
from rarec.backbone.prepared import PreparedPrefixes, prepare
from rarec.backbone.texts import Layout, Packing, find_packing, short_texts

POOLINGS = ("mean", "first", "last")


class Backbone:
    """A frozen language model with a prefix in each layer.

    Args:
        model: Any transformers model that uses its attention interface. It is changed in place:
            frozen, in evaluation mode, attention set to that of rarec.
        pooling: `mean`, `first` or `last` token; by default `last` for causal models, else `mean`.
        name: By which it is loaded again; by default the model's own.
        revision: The same.
        quantization: The same.

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
        quantization: str | None = None,
    ) -> None:
        if pooling is not None and pooling not in POOLINGS:
            raise ValueError(f"expected pooling to be one of {list(POOLINGS)}, got {pooling!r}")
        self.model = model.requires_grad_(False).eval()
        self.layers = discover(model)
        causal = bool(getattr(self.layers[0].module, "is_causal", False))
        self.pooling = pooling or ("last" if causal else "mean")
        self.name = name or str(model.name_or_path)
        self.revision = revision
        self.quantization = quantization
        self.hidden_size = int(model.config.hidden_size)
        self._begins_at: dict[int, bool] = {}

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

    def checkpoint_layers(self) -> None:
        """Keep the states between layers alone for the backward, and compute the others again.

        Less memory for more time. Dropout stays off.

        Raises:
            ValueError: If the model has no gradient checkpointing, or layers that share a module.
        """
        name = type(self.model).__name__
        if len({id(layer.module) for layer in self.layers}) < self.n_layers:
            raise ValueError(f"{name} has layers that share a module: no gradient checkpointing")
        if not self.model.supports_gradient_checkpointing:
            raise ValueError(f"{name} has no gradient checkpointing")
        # the name it has in newer versions of transformers, and that of the others
        enable = getattr(self.model, "activation_checkpointing_enable", None)
        (enable or self.model.gradient_checkpointing_enable)({"use_reentrant": False})
        # embeddings would ask for a gradient, and the backward go below the lowest prefix for it
        self.model.disable_input_require_grads()
        for module in self.model.modules():
            if hasattr(module, "gradient_checkpointing"):
                # transformers does it in training alone, where these modules would drop states
                for option, value in vars(module).items():
                    if "drop" in option and isinstance(value, float):
                        setattr(module, option, 0.0)
                # not `train()`, which is for all modules inside
                module.training = True

    @cached_property
    def state_sizes(self) -> Tensor:
        """`[L]` float32: root mean square of what each layer's attention reads."""
        return state_sizes(self.model, self.layers)

    def train_weights(
        self, kind: str, *, rank: int = 8, alpha: int = 16, seed: int = 0
    ) -> dict[str, nn.Parameter]:
        """Return weights of the model that are trained from now on, by name.

        Args:
            kind: `lora`, matrices of low rank put beside those of the attention; `full`, all.
            rank: Of these matrices.
            alpha: Their product counts `alpha / rank` times.
            seed: Of their start values.

        Raises:
            ValueError: If weights of the model are trained already or in few bits, or `peft` is
                missing.
        """
        if self.quantization is not None:
            raise ValueError(f"expected weights as they are to train some, got {self.quantization}")
        if any(weight.requires_grad for weight in self.model.parameters()):
            raise ValueError(
                f"expected a language model whose weights nobody trains, got {self.name} with "
                "trained ones: load it again"
            )
        if kind == "lora":
            modules = [layer.module for layer in self.layers]
            add_lora(self.model, modules, rank=rank, alpha=alpha, seed=seed)
        else:
            self.model.requires_grad_(True)
        return {name: w for name, w in self.model.named_parameters() if w.requires_grad}

    @cached_property
    def packing(self) -> Packing | None:
        """How the model reads texts without padding; None if they have to be padded."""
        return find_packing(self.model, self.layers)

    @cached_property
    def blocks(self) -> Blocks | None:
        """The blocks around the attention layers; None if there is no list of them."""
        return find_blocks(self.model, self.layers)

    def last_hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        shared: Tensor | None = None,
        own: Tensor | None = None,
        before: Tensor | None = None,
        prefixes: Sequence[Prefix] | None = None,
        lower: Tensor | None = None,
    ) -> Tensor:
        """Return `[B, T, H]`: the last hidden states of texts read with a prefix in each layer.

        Padding may stand on either side. Where the model allows it is dropped before the first
        layer, and its states are zero; else rotary models read a text as if it stood alone, and
        models with learned positions read left padding as they do without rarec, each padding
        token taking a position.

        Args:
            input_ids: `[B, T]` int64, or `[B, T, H]` token embeddings.
            attention_mask: `[B, T]` 1 for text, 0 for padding.
            shared: `[L, P, H]` prefix of the whole batch; with fewer layers, of the top ones.
            own: `[L, B, K, H]` prefix of each sample; it stands after the shared one.
            before: `[B, S, H]` vectors that stand before the text as token embeddings do, taking
                the first positions, instead of or beside prefixes.
            prefixes: In place of both, what `prepare` gives for the batch.
            lower: `[B, T, H]` what `lower_states` gave for the texts below the lowest prefix:
                layers below are not run again. What it has in the padding is not read.

        Raises:
            ValueError: If there are more prefixes than layers, or not as many of one kind as of the
                other; if there is `lower` without them, or with vectors before the text.
        """
        if before is not None and before.shape[1]:
            if lower is not None:
                raise ValueError("expected no lower states of texts that vectors stand before")
            given = {"shared": shared, "own": own, "prefixes": prefixes}
            return self._read_after(before, input_ids, attention_mask, given)
        counts = {len(part) for part in (shared, own, prefixes) if part is not None}
        if len(counts) > 1 or any(count > self.n_layers for count in counts):
            raise ValueError(
                f"expected prefixes of the same layers, at most {self.n_layers}, "
                f"got {' and '.join(map(str, sorted(counts)))}"
            )
        if lower is not None and not counts:
            raise ValueError("expected prefixes over the lower states, got none")
        layout = Layout.of(attention_mask.bool(), self.packing)
        if prefixes is None:
            if own is not None and layout.order is not None:
                own = own[:, layout.order]
            prefixes = self._made(shared, own)
        elif layout.order is not None:
            prefixes = [prefix.in_order(layout.order) for prefix in prefixes]
        keywords = self._keywords(layout, input_ids, attention_mask, prefixes)
        if lower is None:
            return layout.to_batch(self.model(**keywords).last_hidden_state)
        below = self.n_layers - counts.pop()
        lower = layout.to_model(lower)
        return layout.to_batch(self._blocks(below).last_states(below, lower, keywords))

    def _read_after(
        self,
        before: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        prefixes: dict[str, Any],
    ) -> Tensor:
        """Return `[B, T, H]`: the last hidden states of texts, other vectors in front of them."""
        # text first, padding after it: nothing may stand between the vectors and the text
        order = attention_mask.argsort(dim=1, descending=True, stable=True)
        tokens = self.model.get_input_embeddings()(input_ids.gather(1, order))
        n_before = before.shape[1]
        states = self.last_hidden_states(
            torch.cat([before.to(tokens.dtype), tokens], dim=1),
            F.pad(attention_mask.gather(1, order), (n_before, 0), value=1),
            **prefixes,
        )[:, n_before:]
        return states.gather(1, order.argsort(dim=1)[..., None].expand_as(states))

    def normed(self, prompts: Tensor) -> Tensor:
        """Return prompts after the norm of what each layer's attention reads.

        Args:
            prompts: `[L, ..., H]`; with fewer layers, of the top ones.

        Raises:
            ValueError: If a layer's attention reads what no norm gave.
        """
        layers = self.layers[self.n_layers - len(prompts) :]
        norms = [layer.norm for layer in layers if layer.norm is not None]
        if len(norms) < len(layers):
            raise ValueError(
                f"expected a norm before the attention of each layer of "
                f"{type(self.model).__name__}, got none for {len(layers) - len(norms)} of them"
            )
        parts = zip(norms, prompts.to(self.dtype), strict=True)
        return torch.stack([norm(part) for norm, part in parts])

    def prepare(
        self,
        shared: Tensor,
        projector: Tensor | None,
        projector_bias: Tensor | None,
        *,
        n_vectors: int,
    ) -> PreparedPrefixes:
        """Return what gives the prefixes of many batches, without gradients.

        Args:
            shared: `[L, P, H]` prefix of all; with fewer layers, of the top ones.
            projector: `[L, H, E]` of ID vectors; None without any.
            projector_bias: `[L, H]`.
            n_vectors: ID vectors that there will be.
        """
        layers = self.layers[self.n_layers - len(shared) :]
        shared = shared.to(self.dtype)
        return prepare(layers, shared, projector, projector_bias, n_vectors=n_vectors)

    @torch.no_grad()
    def lower_states(self, input_ids: Tensor, attention_mask: Tensor, *, below: int) -> Tensor:
        """Return `[B, T, H]`: states of text alone entering layer `below`, zero in the padding.

        Args:
            input_ids: `[B, T]` int64.
            attention_mask: `[B, T]` 1 for text, 0 for padding.
            below: Number of the layer, from 0; it and those above are not run.

        Raises:
            ValueError: If the model cannot be begun there: see `takes_lower_states`.
        """
        present = attention_mask.bool()
        layout = Layout.of(present, self.packing)
        keywords = self._keywords(layout, input_ids, attention_mask)
        states = layout.to_batch(self._blocks(below).states_entering(below, keywords))
        return states.masked_fill(~present[..., None], 0.0)

    def takes_lower_states(self, below: int) -> bool:
        """Return whether `last_hidden_states` can begin at a layer with the states entering it.

        The model is asked once for two texts both ways, padded and packed: the last states have to
        be the same to the bit.

        Args:
            below: Number of the layer, from 0.
        """
        if below not in self._begins_at:
            self._begins_at[below] = 0 < below < self.n_layers and self._same_from(below)
        return self._begins_at[below]

    def _blocks(self, below: int) -> Blocks:
        blocks = self.blocks
        if blocks is None or not self.takes_lower_states(below):
            name = type(self.model).__name__
            raise ValueError(f"expected a layer that {name} can be begun at, got {below}")
        return blocks

    @torch.no_grad()
    def _same_from(self, below: int) -> bool:
        if self.blocks is None:
            return False
        input_ids, mask = short_texts(self.model)
        for packing in {None, self.packing}:
            layout = Layout.of(mask.bool(), packing)
            keywords = self._keywords(layout, input_ids, mask)
            expected = layout.to_batch(self.model(**keywords).last_hidden_state)
            lower = layout.to_batch(self.blocks.states_entering(below, keywords))
            if lower.dtype != self.dtype or lower.shape[2] != self.hidden_size:
                return False
            lower = layout.to_model(lower * mask[..., None])
            try:
                states = self.blocks.last_states(below, lower, keywords)
            except Exception:  # whatever a model does that wants more of its blocks than states
                return False
            if not torch.equal(layout.to_batch(states)[mask.bool()], expected[mask.bool()]):
                return False
        return True

    @torch.no_grad()
    def text_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return `[B, L, H]`: pooled states entering each layer, text alone (`g` of the paper).

        Args:
            input_ids: `[B, T]` int64.
            attention_mask: `[B, T]` 1 for text, 0 for padding.
        """
        layout = Layout.of(attention_mask.bool(), self.packing)
        keywords = self._keywords(layout, input_ids, attention_mask)
        states = self.model(**keywords, output_hidden_states=True).hidden_states[: self.n_layers]
        pooled = [self.pool(layout.to_batch(state), attention_mask) for state in states]
        return torch.stack(pooled, dim=1)

    def _keywords(
        self,
        layout: Layout,
        input_ids: Tensor,
        attention_mask: Tensor,
        prefixes: Sequence[Prefix] = (),
    ) -> dict[str, Any]:
        """Return the arguments of the model's forward for texts and prefixes of the top layers."""
        keywords: dict[str, Any] = without_cache(self.model)
        keywords |= layout.arguments(input_ids, attention_mask)
        if layout.order is None and any(layer.rotation is not None for layer in self.layers):
            # a prefix stands at 0: counting left padding would move the text away from it
            keywords["position_ids"] = (attention_mask.cumsum(dim=1) - 1).clamp_min(0)
        by_module: dict[int, list[Prefix | None]] = {}
        first = self.n_layers - len(prefixes)
        for number, layer in enumerate(self.layers if prefixes else ()):
            prefix = None if number < first else prefixes[number - first]
            by_module.setdefault(id(layer.module), []).append(prefix)
        keywords["rarec"] = Reading(by_module, layout.packed)
        return keywords

    def _made(self, shared: Tensor | None, own: Tensor | None) -> list[Prefix]:
        """Return the prefixes of the top layers, empty without any."""
        shared = None if shared is None or shared.shape[1] == 0 else shared.to(self.dtype)
        own = None if own is None or own.shape[2] == 0 else own.to(self.dtype)
        given = own if shared is None else shared
        if given is None:
            return []
        return [
            layer_prefix(
                layer,
                None if shared is None else shared[number],
                None if own is None else own[number],
            )
            for number, layer in enumerate(self.layers[self.n_layers - len(given) :])
        ]

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
