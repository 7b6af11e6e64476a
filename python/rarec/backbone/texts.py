"""How a model is given a batch of texts: padded, or packed where it reads packed texts alike.

A packed batch has no padding: all its tokens stand in one row, and every linear layer, norm and
activation works on them alone. Whether a model's positions and masks allow that is found out once,
by asking it for the same texts both ways.

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

from rarec.backbone.attention import Reading
from rarec.backbone.layers import Layer, without_cache
from rarec.ops import Packed

#: Largest difference between the two ways, relative to the largest number of the states.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}


@dataclass(frozen=True)
class Packing:
    """How a model's packed texts are numbered.

    Attributes:
        first_position: Of the first token of a text.
        token_types: Whether the model is told that all tokens are of type 0.
    """

    first_position: int
    token_types: bool

    def arguments(self, input_ids: Tensor, packed: Packed) -> dict[str, Any]:
        """Return the model's arguments for the tokens `[N]`, or embeddings `[N, H]`, of texts."""
        position_ids = packed.positions[None] + self.first_position
        arguments: dict[str, Any] = {
            **text_argument(input_ids[None]),
            "position_ids": position_ids,
            # taken for a mask that is ready made, and never read
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device),
        }
        if self.token_types:
            arguments["token_type_ids"] = torch.zeros_like(position_ids)
        return arguments


def text_argument(tokens: Tensor) -> dict[str, Tensor]:
    """Return a model's argument for token numbers `[B, T]` or embeddings `[B, T, H]`."""
    return {"inputs_embeds" if tokens.is_floating_point() else "input_ids": tokens}


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the tokens of a batch stand as the model is given them.

    Attributes:
        present: `[B, T]` bool, true for text.
        packing: How packed texts are numbered; None if they are padded, as what follows.
        order: `[B]` in which packed texts stand.
        places: `[N]` in `[B * T]`, of packed tokens.
        packed: Where each text stands.
    """

    present: Tensor
    packing: Packing | None = None
    order: Tensor | None = None
    places: Tensor | None = None
    packed: Packed | None = None

    @classmethod
    def of(cls, present: Tensor, packing: Packing | None) -> Layout:
        """Return how texts are laid out: packed if there is padding that the model can do without.

        Args:
            present: `[B, T]` bool, true for text.
            packing: Of the model.
        """
        if packing is None or bool(present.all()):
            return cls(present)
        # short texts first: neighbours are padded together where the attention has to
        order = present.sum(dim=1).argsort(stable=True)
        places = torch.arange(present.numel(), device=present.device).view_as(present)
        places = places[order][present[order]]
        return cls(present, packing, order, places, Packed.of(present[order]))

    def arguments(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        """Return the model's arguments for the texts.

        Args:
            input_ids: `[B, T]` int64, or `[B, T, H]` token embeddings.
            attention_mask: `[B, T]` 1 for text, 0 for padding.
        """
        if self.packing is None or self.places is None or self.packed is None:
            return {**text_argument(input_ids), "attention_mask": attention_mask}
        return self.packing.arguments(input_ids.flatten(0, 1)[self.places], self.packed)

    def to_model(self, states: Tensor) -> Tensor:
        """Return states `[B, T, H]` as the model has them: `[1, N, H]` if texts are packed."""
        return states if self.places is None else states.flatten(0, 1)[self.places][None]

    def to_batch(self, states: Tensor) -> Tensor:
        """Return the model's states as `[B, T, H]`; where padding was dropped they are zero."""
        if self.places is None:
            return states
        # no gradient is added to another
        table = states.new_zeros(self.present.numel(), states.shape[2])
        return table.index_copy(0, self.places, states[0]).unflatten(0, self.present.shape)


@torch.no_grad()
def find_packing(model: PreTrainedModel, layers: list[Layer]) -> Packing | None:
    """Return how the model reads packed texts as it reads padded ones; None if it does not.

    Args:
        model: The model.
        layers: Its attention layers.
    """
    accepted = inspect.signature(model.forward).parameters
    if "position_ids" not in accepted or not _says_what_it_hides(model, layers):
        return None
    input_ids, mask = short_texts(model)
    padding = _padding(model)
    packed = Packed.of(mask)
    keywords: dict[str, Any] = without_cache(model)
    expected = model(
        input_ids=input_ids, attention_mask=mask, rarec=Reading({}), **keywords
    ).last_hidden_state[mask.bool()]
    tolerance = _TOLERANCE.get(expected.dtype, 0.05) * expected.abs().max()
    token_types = (True, False) if "token_type_ids" in accepted else (False,)
    for packing in starmap(Packing, product((0, padding + 1), token_types)):
        arguments = packing.arguments(input_ids[mask.bool()], packed)
        try:
            states = model(**arguments, rarec=Reading({}, packed), **keywords).last_hidden_state
        except Exception:  # whatever a model does with a row it was not made for
            continue
        difference = (states[0] - expected).abs().max()
        # not `>`: a nan is a difference too
        if states.shape[1:] == expected.shape and bool(difference <= tolerance):
            return packing
    return None


def short_texts(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Return token numbers and mask of two texts, padded on the right, to ask a model for."""
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], device=model.device)
    padding = _padding(model)
    # real tokens that are not the padding token, from whose place RoBERTa and its kin count
    numbers = torch.arange(padding + 1, padding + 11, device=model.device).view(2, 5)
    real = numbers % model.config.get_text_config().vocab_size
    return torch.where(mask.bool(), real, padding), mask


def _padding(model: PreTrainedModel) -> int:
    return getattr(model.config, "pad_token_id", None) or 0


def _says_what_it_hides(model: PreTrainedModel, layers: list[Layer]) -> bool:
    """Return whether masks hold nothing but what the attention is told: causality and windows."""
    config = model.config.get_text_config()
    if getattr(config, "attention_chunk_size", None) is not None:
        return False
    windowed = getattr(config, "sliding_window", None) is not None
    return not windowed or any(layer.window is not None for layer in layers)
