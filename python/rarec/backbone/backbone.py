"""A frozen Hugging Face model that takes a prefix in the attention of every layer.

The prefix changes neither the mask nor the positions nor the length of the text.

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

from rarec.backbone.attention import AttentionContext, Prefix
from rarec.backbone.blocks import Blocks, find_blocks
from rarec.backbone.layers import discover, layer_prefix, state_sizes, without_cache
from rarec.backbone.lora import add_lora
from rarec.backbone.names import full_name
from rarec.backbone.prepared import PreparedPrefixes, prepare
from rarec.backbone.texts import Layout, Packing, find_packing, short_texts

POOLINGS = ("mean", "first", "last")


class Backbone:
    """A frozen language model with a prefix in each layer.

    Args:
        model: Any model that uses the attention interface of transformers. It is changed in place:
            its weights are frozen, it is in evaluation mode, and it uses the attention of rarec.
        pooling: `mean`, `first` or `last` token. The default is `last` for causal models and `mean`
            for all others.
        name: Name to load the model by; the name that transformers knows by default.
        revision: Revision of that name on the Hugging Face hub.
        quantization: `8bit` or `4bit` if the weights are quantized, else None.
        sha256: Hash of its files (see `content_sha256`); None if it was built in memory.

    Raises:
        ValueError: If the model does not call the attention interface, or if pooling is unknown.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        pooling: str | None = None,
        name: str | None = None,
        revision: str | None = None,
        quantization: str | None = None,
        sha256: str | None = None,
    ) -> None:
        if pooling is not None and pooling not in POOLINGS:
            raise ValueError(f"expected pooling to be one of {list(POOLINGS)}, got {pooling!r}")
        self.model = model.requires_grad_(False).eval()
        self.layers = discover(model)
        causal = bool(getattr(self.layers[0].module, "is_causal", False))
        self.pooling = pooling or ("last" if causal else "mean")
        # a path, made absolute, means the same in any working directory
        self.name = full_name(name or str(model.name_or_path))
        self.revision = revision
        self.quantization = quantization
        self.sha256 = sha256
        self.hidden_size = int(model.config.hidden_size)
        self._runs_from: dict[int, bool] = {}

    @property
    def n_layers(self) -> int:
        """The number of attention layers, each of which takes a prefix."""
        return len(self.layers)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the model's weights."""
        return self.model.dtype

    def checkpoint_layers(self) -> None:
        """Switch gradient checkpointing on, which saves memory and takes more time.

        Only the states between layers are kept for the backward; the states inside a layer are
        computed again. Dropout stays off.

        Raises:
            ValueError: If the model has no gradient checkpointing, or if layers share a module.
        """
        name = type(self.model).__name__
        if len({id(layer.module) for layer in self.layers}) < self.n_layers:
            raise ValueError(
                f"expected layers with separate modules for gradient checkpointing, got {name}, "
                "whose layers share one"
            )
        if not self.model.supports_gradient_checkpointing:
            raise ValueError(
                f"expected a model that supports gradient checkpointing, got {name}, which does not"
            )
        # newer versions of transformers have the first name, older ones the second
        enable = getattr(self.model, "activation_checkpointing_enable", None)
        (enable or self.model.gradient_checkpointing_enable)({"use_reentrant": False})
        # else the embeddings get a gradient, and the backward runs below the lowest prefix for it
        self.model.disable_input_require_grads()
        for module in self.model.modules():
            if hasattr(module, "gradient_checkpointing"):
                # transformers checkpoints only in training mode, in which dropout would be on
                for option, value in vars(module).items():
                    if "drop" in option and isinstance(value, float):
                        setattr(module, option, 0.0)
                # not `train()`, which would also change all modules inside
                module.training = True

    @cached_property
    def state_sizes(self) -> Tensor:
        """`[L]` float32: root mean square of the states that each layer's attention reads."""
        return state_sizes(self.model, self.layers)

    def train_weights(
        self, kind: str, *, rank: int = 8, alpha: int = 16, seed: int = 0
    ) -> dict[str, nn.Parameter]:
        """Return the weights of the model that will be trained, by name.

        Args:
            kind: `lora` adds trainable matrices of low rank to the attention; `full` trains all
                weights.
            rank: Rank of the LoRA matrices.
            alpha: The product of the LoRA matrices is multiplied by `alpha / rank`.
            seed: Seed of the initial values of the LoRA matrices.

        Raises:
            ValueError: If weights of the model are trained already, if they are quantized, or if
                `peft` is not installed.
        """
        if self.quantization is not None:
            raise ValueError(
                f"expected weights that are not quantized to train them, got {self.quantization}"
            )
        if any(weight.requires_grad for weight in self.model.parameters()):
            raise ValueError(
                f"expected a language model whose weights are all frozen, got {self.name} with "
                "weights that are trained already: load it again"
            )
        if kind == "lora":
            modules = [layer.module for layer in self.layers]
            add_lora(self.model, modules, rank=rank, alpha=alpha, seed=seed)
        else:
            self.model.requires_grad_(True)
        return {name: w for name, w in self.model.named_parameters() if w.requires_grad}

    @cached_property
    def packing(self) -> Packing | None:
        """The arguments for packed texts; None if the model needs padded texts."""
        return find_packing(self.model, self.layers)

    @cached_property
    def blocks(self) -> Blocks | None:
        """The blocks around the attention layers; None if the model has no list of them."""
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
        """Return `[B, T, H]`: the last hidden states of texts that are read with prefixes.

        Padding may be on either side. If the model can read packed texts, padding is dropped before
        the first layer and its states are zero. All other models get padded texts: with rotary
        positions a text reads as it would alone; with learned positions each token of left padding
        takes a position, as it does without rarec.

        Args:
            input_ids: `[B, T]` int64 token numbers, or `[B, T, H]` token embeddings.
            attention_mask: `[B, T]`, 1 for text and 0 for padding.
            shared: `[L, P, H]` prefix of the whole batch. With fewer than L layers it is the prefix
                of the top layers.
            own: `[L, B, K, H]` prefix of each sample, which comes after the shared one.
            before: `[B, S, H]` vectors in front of the text, in place of token embeddings. They
                take the first positions, with or without prefixes.
            prefixes: The prepared prefixes of the batch (see `prepare`), in place of `shared` and
                `own`.
            lower: `[B, T, H]` states of the texts that enter the lowest layer with a prefix, as
                `lower_states` returns them. The layers below are then not run. Its values in the
                padding are not used.

        Raises:
            ValueError: If there are more prefixes than layers, if `shared` and `own` have different
                numbers of layers, or if `lower` is given without a prefix or with `before`.
        """
        if before is not None and before.shape[1]:
            if lower is not None:
                raise ValueError("expected no lower states together with vectors before the text")
            given = {"shared": shared, "own": own, "prefixes": prefixes}
            return self._with_vectors_before(before, input_ids, attention_mask, given)
        counts = {len(part) for part in (shared, own, prefixes) if part is not None}
        if len(counts) > 1 or any(count > self.n_layers for count in counts):
            raise ValueError(
                f"expected prefixes of the same layers, at most {self.n_layers}, "
                f"got {' and '.join(map(str, sorted(counts)))}"
            )
        if lower is not None and not counts:
            raise ValueError("expected prefixes above the lower states, got none")
        layout = Layout.of(attention_mask.bool(), self.packing)
        if prefixes is None:
            if own is not None and layout.order is not None:
                own = own[:, layout.order]
            prefixes = self._layer_prefixes(shared, own)
        elif layout.order is not None:
            prefixes = [prefix.in_order(layout.order) for prefix in prefixes]
        keywords = self._keywords(layout, input_ids, attention_mask, prefixes)
        if lower is None:
            return layout.to_batch(self.model(**keywords).last_hidden_state)
        below = self.n_layers - counts.pop()
        lower = layout.to_model(lower)
        return layout.to_batch(self._blocks(below).last_states(below, lower, keywords))

    def _with_vectors_before(
        self,
        before: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        prefixes: dict[str, Any],
    ) -> Tensor:
        """Return `[B, T, H]`: the last hidden states of texts with vectors in front of them."""
        # move padding behind the text: no padding may be between the vectors and the text
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
        """Return prompts after the norm whose output each layer's attention reads.

        Args:
            prompts: `[L, ..., H]`. With fewer than L layers they belong to the top layers.

        Raises:
            ValueError: If the attention of one of the layers does not read the output of a norm.
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
        """Return the prepared prefixes for many batches, without gradients.

        Args:
            shared: `[L, P, H]` prefix that all samples share. With fewer than L layers it is the
                prefix of the top layers.
            projector: `[L, H, E]` projectors of ID vectors; None if there are no ID vectors.
            projector_bias: `[L, H]` biases of the projectors.
            n_vectors: Number of ID vectors that will be projected.
        """
        layers = self.layers[self.n_layers - len(shared) :]
        shared = shared.to(self.dtype)
        return prepare(layers, shared, projector, projector_bias, n_vectors=n_vectors)

    @torch.no_grad()
    def lower_states(self, input_ids: Tensor, attention_mask: Tensor, *, below: int) -> Tensor:
        """Return `[B, T, H]`: states of the text alone that enter layer `below`.

        The states of padding are zero.

        Args:
            input_ids: `[B, T]` int64 token numbers.
            attention_mask: `[B, T]`, 1 for text and 0 for padding.
            below: Number of the layer, from 0. That layer and those above are not run.

        Raises:
            ValueError: If the model cannot be run from that layer on (see `takes_lower_states`).
        """
        present = attention_mask.bool()
        layout = Layout.of(present, self.packing)
        keywords = self._keywords(layout, input_ids, attention_mask)
        states = layout.to_batch(self._blocks(below).states_entering(below, keywords))
        return states.masked_fill(~present[..., None], 0.0)

    def takes_lower_states(self, below: int) -> bool:
        """Return whether `last_hidden_states` can run from a layer on, given the states below it.

        The model is tried once on two texts, padded and packed. The last states have to be equal
        bit by bit to those of the whole model.

        Args:
            below: Number of the layer, from 0.
        """
        if below not in self._runs_from:
            self._runs_from[below] = 0 < below < self.n_layers and self._same_from(below)
        return self._runs_from[below]

    def _blocks(self, below: int) -> Blocks:
        """Return the blocks, if the model can be run from layer `below` on."""
        blocks = self.blocks
        if blocks is None or not self.takes_lower_states(below):
            name = type(self.model).__name__
            raise ValueError(f"expected a layer that {name} can be run from, got {below}")
        return blocks

    @torch.no_grad()
    def _same_from(self, below: int) -> bool:
        """Return whether running from layer `below` on gives the states of the whole model."""
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
            # a model that needs more from its blocks than states may raise any exception
            except Exception:
                return False
            if not torch.equal(layout.to_batch(states)[mask.bool()], expected[mask.bool()]):
                return False
        return True

    @torch.no_grad()
    def text_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return `[B, L, H]`: pooled states of the text alone that enter each layer.

        These are `g` in the paper.

        Args:
            input_ids: `[B, T]` int64 token numbers.
            attention_mask: `[B, T]`, 1 for text and 0 for padding.
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
        """Return the arguments of the model for texts, and for prefixes of its top layers."""
        keywords: dict[str, Any] = without_cache(self.model)
        keywords |= layout.arguments(input_ids, attention_mask)
        if layout.order is None and any(layer.rotation is not None for layer in self.layers):
            # the prefix is at position 0: counting left padding would move the text away from it
            keywords["position_ids"] = (attention_mask.cumsum(dim=1) - 1).clamp_min(0)
        by_module: dict[int, list[Prefix | None]] = {}
        first = self.n_layers - len(prefixes)
        for number, layer in enumerate(self.layers if prefixes else ()):
            prefix = None if number < first else prefixes[number - first]
            by_module.setdefault(id(layer.module), []).append(prefix)
        keywords["rarec"] = AttentionContext(by_module, layout.packed)
        return keywords

    def _layer_prefixes(self, shared: Tensor | None, own: Tensor | None) -> list[Prefix]:
        """Return the prefixes of the top layers; empty if there are none."""
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
        """Return `[B, H]`: the mean, or the first or last token, of each text without padding.

        Args:
            states: `[B, T, H]` states of the tokens.
            attention_mask: `[B, T]`, 1 for text and 0 for padding, which may be on either side.
        """
        if self.pooling == "mean":
            weight = attention_mask[..., None].to(states.dtype)
            return (states * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)
        if self.pooling == "first":
            token = attention_mask.argmax(dim=1)
        else:
            token = attention_mask.shape[1] - 1 - attention_mask.flip(1).argmax(dim=1)
        return states[torch.arange(len(states), device=states.device), token]
