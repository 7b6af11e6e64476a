"""The layout of a batch of texts: packed if the model can read packed texts, otherwise padded.

A packed batch has no padding: all its tokens are in one row, and linear layers, norms and
activations do no work for padding. Whether the positions and masks of a model allow that is found
out once, by running it on the same texts both ways.

Axes: B batch, T text tokens, N tokens of all texts, H hidden size.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from itertools import product, starmap
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rarec.backbone.attention import AttentionContext
from rarec.backbone.layers import Layer, without_cache
from rarec.ops import Packed

#: Largest allowed difference between the two ways, relative to the largest state.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}


@dataclass(frozen=True)
class Packing:
    """The position numbers and token types that a model needs for packed texts.

    Attributes:
        first_position: Position number of the first token of a text.
        token_types: Whether the model gets token types, all of them 0.
    """

    first_position: int
    token_types: bool

    def arguments(self, input_ids: Tensor, packed: Packed) -> dict[str, Any]:
        """Return the model's arguments for packed tokens `[N]` or embeddings `[N, H]`."""
        position_ids = packed.positions[None] + self.first_position
        arguments: dict[str, Any] = {
            **text_argument(input_ids[None]),
            "position_ids": position_ids,
            # four axes: transformers passes such a mask on as it is, and rarec does not read it
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device),
        }
        if self.token_types:
            arguments["token_type_ids"] = torch.zeros_like(position_ids)
        return arguments


def text_argument(tokens: Tensor) -> dict[str, Tensor]:
    """Return the model's argument for token numbers `[B, T]` or embeddings `[B, T, H]`."""
    return {"inputs_embeds" if tokens.is_floating_point() else "input_ids": tokens}


@dataclass(frozen=True, eq=False)
class Layout:
    """The layout in which a model gets a batch of texts.

    Attributes:
        present: `[B, T]` bool, true for text.
        packing: Positions and token types of packed texts. This and the fields below are None if
            the texts are padded.
        order: `[B]` order in which the texts are packed.
        places: `[N]` place of each packed token in the flattened `[B * T]` batch.
        packed: Offsets of the packed texts.
    """

    present: Tensor
    packing: Packing | None = None
    order: Tensor | None = None
    places: Tensor | None = None
    packed: Packed | None = None

    @classmethod
    def of(cls, present: Tensor, packing: Packing | None) -> Layout:
        """Return the layout of a batch: packed if it has padding and the model can read it packed.

        Args:
            present: `[B, T]` bool, true for text.
            packing: Positions and token types of the model's packed texts; None if it has none.
        """
        if packing is None or bool(present.all()):
            return cls(present)
        # sorted by length: an attention that has to pad pads neighbours together
        order = present.sum(dim=1).argsort(stable=True)
        places = torch.arange(present.numel(), device=present.device).view_as(present)
        places = places[order][present[order]]
        return cls(present, packing, order, places, Packed.of(present[order]))

    def arguments(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        """Return the model's arguments for the texts.

        Args:
            input_ids: `[B, T]` int64 token numbers, or `[B, T, H]` token embeddings.
            attention_mask: `[B, T]`, 1 for text and 0 for padding.
        """
        if self.packing is None or self.places is None or self.packed is None:
            return {**text_argument(input_ids), "attention_mask": attention_mask}
        return self.packing.arguments(input_ids.flatten(0, 1)[self.places], self.packed)

    def to_model(self, states: Tensor) -> Tensor:
        """Return states `[B, T, H]` in the layout of the model: `[1, N, H]` if texts are packed."""
        return states if self.places is None else states.flatten(0, 1)[self.places][None]

    def to_batch(self, states: Tensor) -> Tensor:
        """Return the model's states as `[B, T, H]`, with zeros where padding was dropped."""
        if self.places is None:
            return states
        # `index_copy`: the places are all different, so its backward adds nothing
        table = states.new_zeros(self.present.numel(), states.shape[2])
        return table.index_copy(0, self.places, states[0]).unflatten(0, self.present.shape)


@torch.no_grad()
def find_packing(model: PreTrainedModel, layers: list[Layer]) -> Packing | None:
    """Return the packing with which a model reads packed texts like padded ones; None without one.

    Args:
        model: The model.
        layers: Its attention layers.
    """
    accepted = inspect.signature(model.forward).parameters
    if "position_ids" not in accepted or not _masks_are_known(model, layers):
        return None
    input_ids, mask = short_texts(model)
    padding = _padding(model)
    packed = Packed.of(mask)
    keywords: dict[str, Any] = without_cache(model)
    expected = model(
        input_ids=input_ids, attention_mask=mask, rarec=AttentionContext({}), **keywords
    ).last_hidden_state[mask.bool()]
    tolerance = _TOLERANCE.get(expected.dtype, 0.05) * expected.abs().max()
    token_types = (True, False) if "token_type_ids" in accepted else (False,)
    for packing in starmap(Packing, product((0, padding + 1), token_types)):
        arguments = packing.arguments(input_ids[mask.bool()], packed)
        try:
            states = model(
                **arguments, rarec=AttentionContext({}, packed), **keywords
            ).last_hidden_state
        # a model that is not made for packed texts may raise any exception
        except Exception:
            continue
        difference = (states[0] - expected).abs().max()
        # not `>`: nan has to count as a difference
        if states.shape[1:] == expected.shape and bool(difference <= tolerance):
            return packing
    return None


def short_texts(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Return token numbers and mask of two short texts, padded on the right, to try a model on."""
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], device=model.device)
    padding = _padding(model)
    # none of the tokens is the padding token: RoBERTa computes its positions from that token
    numbers = torch.arange(padding + 1, padding + 11, device=model.device).view(2, 5)
    real = numbers % model.config.get_text_config().vocab_size
    return torch.where(mask.bool(), real, padding), mask


def _padding(model: PreTrainedModel) -> int:
    """Return the number of the padding token; 0 if the model has none."""
    return getattr(model.config, "pad_token_id", None) or 0


def _masks_are_known(model: PreTrainedModel, layers: list[Layer]) -> bool:
    """Return whether causality and the windows that the attention gets say all about the masks."""
    config = model.config.get_text_config()
    if getattr(config, "attention_chunk_size", None) is not None:
        return False
    windowed = getattr(config, "sliding_window", None) is not None
    return not windowed or any(layer.window is not None for layer in layers)
