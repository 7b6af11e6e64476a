"""The blocks of a model, and forwards that end below one of them or begin there.

What enters a block of a frozen model never changes for a text as long as no prefix stands below, so
it can be kept. No architecture is known here: blocks are found by the attention modules in them,
and whether a model can be begun amid its blocks is for its caller to find out, by trying.

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
    """Ends a forward at the block whose states were asked for."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of a model from the lowest to the highest, each with one attention layer.

    Attributes:
        model: The model.
        modules: Its blocks.
        sizes: Length of the tuple that each returns; None for states alone.
    """

    model: PreTrainedModel
    modules: tuple[nn.Module, ...]
    sizes: tuple[int | None, ...]

    @torch.no_grad()
    def states_entering(self, number: int, keywords: dict[str, Any]) -> Tensor:
        """Return the states entering block `number`; nothing above is computed.

        Args:
            number: Of the block, from 0.
            keywords: Of the model's forward.

        Raises:
            RuntimeError: If the model does not call the block with states.
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
            raise RuntimeError(f"{type(self.model).__name__} never calls its block {number}")
        return reached[0]

    def last_states(self, number: int, states: Tensor, keywords: dict[str, Any]) -> Tensor:
        """Return the last hidden states of a forward in which block `number` is the first to run.

        Args:
            number: Of the block, from 0.
            states: Entering it, as `states_entering` gave them.
            keywords: Of the model's forward.
        """
        with self._replaced_below(number, states):
            return self.model(**keywords).last_hidden_state

    @contextmanager
    def _replaced_below(self, number: int, states: Tensor) -> Iterator[None]:
        """Let the blocks below `number` give the states for a while, in the form of their own."""
        below = self.modules[:number]
        # what stands in the instance is not lost: others replace a module's forward too
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
    """Return the blocks of a model; None without a list that has one for each attention layer.

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
    """Return the modules of a list if each has one of the layers inside, in order."""
    if not isinstance(part, nn.ModuleList) or len(part) != len(layers):
        return None
    for block, layer in zip(part, layers, strict=True):
        inside = {id(module) for module in block.modules()}
        if [other for other in layers if id(other.module) in inside] != [layer]:
            return None
    return tuple(part)
