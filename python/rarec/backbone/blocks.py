"""The blocks of a model, and forward passes that stop before a block or begin with one.

For a frozen model the states of a text that enter a block never change, as long as no block below
has a prefix. So they can be computed once and stored. This module knows no architecture: it finds
the blocks by the attention modules inside them. Whether a model can be run from a block on is found
out by trying, in `Backbone.takes_lower_states`.

Axes: B batch, T text tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rarec.backbone.layers import Layer, without_cache


class Reached(Exception):  # noqa: N818 (control flow, not an error)
    """Stops a forward pass at the block whose input states are wanted."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of a model, from the lowest to the highest, each with one attention layer.

    Attributes:
        model: The model.
        modules: The blocks.
        sizes: For each block, the length of the tuple that it returns; None if it returns only its
            states.
    """

    model: PreTrainedModel
    modules: tuple[nn.Module, ...]
    sizes: tuple[int | None, ...]

    @torch.no_grad()
    def states_entering(self, number: int, keywords: dict[str, Any]) -> Tensor:
        """Return the states that enter block `number`; that block and those above are not run.

        Args:
            number: Number of the block, from 0.
            keywords: Arguments of the model.

        Raises:
            RuntimeError: If the model never calls the block.
        """
        reached: list[Tensor] = []

        def stop(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            reached.append(args[0] if args else named["hidden_states"])
            raise Reached

        hook = self.modules[number].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with suppress(Reached):
                self.model(**keywords)
        finally:
            hook.remove()
        if not reached:
            raise RuntimeError(
                f"expected {type(self.model).__name__} to call its block {number}, got no call"
            )
        return reached[0]

    def last_states(self, number: int, states: Tensor, keywords: dict[str, Any]) -> Tensor:
        """Return the last hidden states of a forward pass that begins with block `number`.

        Args:
            number: Number of the block, from 0.
            states: States that enter it, as `states_entering` returns them.
            keywords: Arguments of the model.
        """
        with self._replaced_below(number, states):
            return self.model(**keywords).last_hidden_state

    @contextmanager
    def _replaced_below(self, number: int, states: Tensor) -> Iterator[None]:
        """Make the blocks below `number` return the given states, in the usual form."""
        below = self.modules[:number]
        # other libraries replace a module's forward too, so what was there is put back afterwards
        before = [vars(module).get("forward") for module in below]
        try:
            for module, size in zip(below, self.sizes, strict=False):
                given = states if size is None else (states, *[None] * (size - 1))
                module.forward = lambda *_, given=given, **__: given
            yield
        finally:
            for module, forward in zip(below, before, strict=True):
                if forward is None:
                    vars(module).pop("forward", None)
                else:
                    module.forward = forward


@torch.no_grad()
def find_blocks(model: PreTrainedModel, layers: list[Layer]) -> Blocks | None:
    """Return the blocks of a model; None if no list of modules has one for each attention layer.

    Args:
        model: The model.
        layers: Its attention layers, in the order of their calls.
    """
    modules = next(filter(None, (_one_each(part, layers) for part in model.modules())), None)
    if modules is None:
        return None
    sizes: dict[int, int | None] = {}

    def remember(module: nn.Module, _: Any, output: Any) -> None:
        sizes[id(module)] = len(output) if isinstance(output, tuple) else None

    hooks = [module.register_forward_hook(remember) for module in modules]
    tokens = torch.zeros(1, 3, dtype=torch.int64, device=model.device)
    try:
        model(input_ids=tokens, attention_mask=torch.ones_like(tokens), **without_cache(model))
    finally:
        for hook in hooks:
            hook.remove()
    return Blocks(model, modules, tuple(sizes.get(id(module)) for module in modules))


def _one_each(part: nn.Module, layers: list[Layer]) -> tuple[nn.Module, ...] | None:
    """Return the modules of a list if each contains exactly one layer, in order; else None."""
    if not isinstance(part, nn.ModuleList) or len(part) != len(layers):
        return None
    for block, layer in zip(part, layers, strict=True):
        inside = {id(module) for module in block.modules()}
        if [other for other in layers if id(other.module) in inside] != [layer]:
            return None
    return tuple(part)
