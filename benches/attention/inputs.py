"""The inputs of prefix attention, and the plain implementation that all others are compared with.

Axes: B batch, H query heads, G key heads, T text tokens, S shared and K own prefix tokens,
P = S + K, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from benches.attention.shapes import Case


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs that every provider gets.

    Attributes:
        query: `[B, H, T, D]` queries of the text.
        key: `[B, G, T, D]` keys of the text.
        value: `[B, G, T, D]` values of the text.
        prefix_key: `[1, G, S, D]` keys of the prefix that all texts share.
        prefix_value: `[1, G, S, D]` values of that prefix.
        own_key: `[B, G, K, D]` keys of the prefix of each text; None if K = 0.
        own_value: `[B, G, K, D]` values of that prefix; None if K = 0.
        padding: First token and length of each text, `[B]` int32 each; None if no text is padded.
        causal: Let a query see only the text up to itself.
        window: Let a query see only text tokens that are fewer than this many positions away.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    prefix_key: Tensor
    prefix_value: Tensor
    own_key: Tensor | None = None
    own_value: Tensor | None = None
    padding: tuple[Tensor, Tensor] | None = None
    causal: bool = False
    window: int | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that have a gradient, by name."""
        names = ("query", "key", "value", "prefix_key", "prefix_value", "own_key", "own_value")
        named = ((name, getattr(self, name)) for name in names)
        return {name: tensor for name, tensor in named if tensor is not None}

    @property
    def prefixes(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the whole prefix, `[B, G, P, D]` each, shared part first."""
        keys, values = (
            x.expand(len(self.key), -1, -1, -1) for x in (self.prefix_key, self.prefix_value)
        )
        if self.own_key is None or self.own_value is None:
            return keys, values
        return torch.cat([keys, self.own_key], dim=2), torch.cat([values, self.own_value], dim=2)

    @property
    def present(self) -> Tensor | None:
        """`[B, T]` bool: true for text, false for padding; None if there is no padding."""
        if self.padding is None:
            return None
        start, length = (part.long()[:, None] for part in self.padding)
        position = torch.arange(self.key.shape[2], device=self.key.device)
        return (position >= start) & (position < start + length)

    def visible(self) -> Tensor | None:
        """Return the text that a query sees, `[B or 1, 1, T or 1, T]` bool; None if it sees all."""
        position = torch.arange(self.key.shape[2], device=self.key.device)
        distance = position[:, None] - position
        visible = None if self.present is None else self.present[:, None, None, :]
        if self.causal:
            near = distance >= 0
            visible = near if visible is None else visible & near
        if self.window is not None:
            near = distance.abs() < self.window
            visible = near if visible is None else visible & near
        return visible if visible is None or visible.ndim == 4 else visible[None, None]

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """Return the inputs with `function` applied to every tensor that has a gradient."""
        return replace(self, **{name: function(tensor) for name, tensor in self.tensors.items()})

    def rows(self, part: slice) -> Inputs:
        """Return the inputs of some texts of the batch; tensors that all texts share stay whole."""
        inputs = self.map(lambda tensor: tensor if len(tensor) == 1 else tensor[part])
        if self.padding is None:
            return inputs
        return replace(inputs, padding=(self.padding[0][part], self.padding[1][part]))


def make_inputs(case: Case, device: str, *, seed: int = 0) -> Inputs:
    """Return inputs of a case, drawn from a normal distribution, with text padded on the right.

    They require gradients. In memory the heads of a token are side by side, as projections leave
    them.
    """
    generator = torch.Generator(device).manual_seed(seed)
    shape, dtype = case.shape, case.torch_dtype

    def draw(n_rows: int, n_tokens: int, n_heads: int) -> Tensor:
        size = (n_rows, n_tokens, n_heads, shape.dim)
        values = torch.randn(size, generator=generator, device=device, dtype=torch.float32)
        return values.to(dtype).transpose(1, 2).requires_grad_()

    n_batch, n_heads, n_key_heads = case.n_batch, shape.n_heads, shape.n_key_heads
    own = [draw(n_batch, case.n_own, n_key_heads) if case.n_own else None for _ in range(2)]
    padding = None
    if case.padded:
        lengths = torch.tensor(case.lengths, dtype=torch.int32, device=device)
        padding = (torch.zeros_like(lengths), lengths)
    return Inputs(
        query=draw(n_batch, case.n_text, n_heads),
        key=draw(n_batch, case.n_text, n_key_heads),
        value=draw(n_batch, case.n_text, n_key_heads),
        prefix_key=draw(1, case.n_shared, n_key_heads),
        prefix_value=draw(1, case.n_shared, n_key_heads),
        own_key=own[0],
        own_value=own[1],
        padding=padding,
        causal=shape.causal,
    )


def eager(inputs: Inputs) -> Tensor:
    """Return attention `[B, H, T, D]` over concatenated keys, with the softmax written out."""
    prefix_key, prefix_value = inputs.prefixes
    key = torch.cat([prefix_key, inputs.key], dim=2)
    value = torch.cat([prefix_value, inputs.value], dim=2)
    group = inputs.query.shape[1] // key.shape[1]
    if group > 1:
        key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    logits = inputs.query * inputs.query.shape[3] ** -0.5 @ key.mT
    visible = inputs.visible()
    if visible is not None:
        visible = F.pad(visible, (prefix_key.shape[2], 0), value=True)
        logits = logits.masked_fill(~visible, float("-inf"))
    return without_padding(inputs, logits.softmax(dim=-1) @ value)


def without_padding(inputs: Inputs, result: Tensor) -> Tensor:
    """Return the result with zeros for the tokens of padding."""
    present = inputs.present
    return result if present is None else result.masked_fill(~present[:, None, :, None], 0.0)
