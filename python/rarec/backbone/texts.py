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
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], device=model.device)
    padding = getattr(model.config, "pad_token_id", None) or 0
    # real tokens that are not the padding token, from whose place RoBERTa and its kin count
    numbers = torch.arange(padding + 1, padding + 11, device=model.device).view(2, 5)
    input_ids = torch.where(
        mask.bool(), numbers % model.config.get_text_config().vocab_size, padding
    )
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


def _says_what_it_hides(model: PreTrainedModel, layers: list[Layer]) -> bool:
    """Return whether masks hold nothing but what the attention is told: causality and windows."""
    config = model.config.get_text_config()
    if getattr(config, "attention_chunk_size", None) is not None:
        return False
    windowed = getattr(config, "sliding_window", None) is not None
    return not windowed or any(layer.window is not None for layer in layers)
