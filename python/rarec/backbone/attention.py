"""The attention function that transformers calls in the layers of a backbone.

One mechanism serves all models: an attention function and a mask function are registered with
transformers. A forward call of rarec passes the keyword `rarec` to the model, and the model passes
it on to the attention function.

Axes: B batch, T text tokens, h heads, h_kv key heads, D head dimension.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rarec.ops import Packed, prefix_attention

ATTENTION_NAME = "rarec_prefix"


class Captured(Exception):  # noqa: N818 (control flow, not an error)
    """Stops the call of an attention module as soon as its keys and values are known."""


@dataclass(eq=False)
class Capture:
    """Records the calls of the attention function.

    Attributes:
        stop: Whether to stop each call with `Captured` after it is recorded.
        calls: The module, key, value and window of each call.
    """

    stop: bool
    calls: list[tuple[nn.Module, Tensor, Tensor, int | None]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Prefix:
    """Prefix keys and values of one layer.

    Attributes:
        key: `[1, h_kv, P, D]` keys of the part that the batch shares.
        value: `[1, h_kv, P, D]` values of that part.
        own_key: `[B, h_kv, K, D]` keys of the part of each sample; None if there is no such part.
        own_value: `[B, h_kv, K, D]` values of that part.
    """

    key: Tensor
    value: Tensor
    own_key: Tensor | None = None
    own_value: Tensor | None = None

    def in_order(self, order: Tensor) -> Prefix:
        """Return the prefix with its samples in another order.

        Args:
            order: `[B]` numbers of the samples.
        """
        if self.own_key is None or self.own_value is None:
            return self
        return Prefix(self.key, self.value, self.own_key[order], self.own_value[order])


@dataclass(frozen=True, eq=False)
class AttentionContext:
    """What one forward call passes to the attention of its layers.

    Attributes:
        prefixes: For the `id` of each attention module, a list with the prefix of each layer that
            uses the module; None stands for a layer without prefix. Empty if no layer has one.
        packed: Offsets of the texts in their one row; None if the texts are padded.
    """

    prefixes: dict[int, list[Prefix | None]]
    packed: Packed | None = None
    _calls: Counter[int] = field(default_factory=Counter)

    def prefix(self, module: nn.Module) -> Prefix | None:
        """Return the prefix of a module's next call; None if that layer has none.

        Raises:
            RuntimeError: If the module is not in `prefixes`, or if a module that layers share is
                called more often than there are layers, as gradient checkpointing does.
        """
        prefixes = self.prefixes.get(id(module))
        name = type(module).__name__
        if prefixes is None:
            # data parallelism copies the model; without this error its texts would have no prefix
            raise RuntimeError(
                f"expected an attention module of the backbone, got another {name}: is this a copy "
                "of the model?"
            )
        if len(prefixes) == 1:
            return prefixes[0]
        number = self._calls[id(module)]
        self._calls[id(module)] += 1
        if number >= len(prefixes):
            raise RuntimeError(
                f"expected {len(prefixes)} calls of {name}, one for each layer that shares it, "
                "got more: gradient checkpointing does not work with such a model"
            )
        return prefixes[number]


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    rarec: Capture | AttentionContext | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return the attention `[B, T, h, D]` of one layer, as transformers calls it.

    Without `rarec` this is the plain attention of the model.
    """
    if isinstance(rarec, Capture):
        rarec.calls.append((module, key, value, sliding_window))
        if rarec.stop:
            raise Captured
        rarec = None
    prefix = rarec.prefix(module) if rarec is not None and rarec.prefixes else None
    if prefix is None:
        prefix = Prefix(key[:1, :, :0], value[:1, :, :0])
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    packed = None if rarec is None else rarec.packed
    window = None
    if packed is not None:
        # the mask of transformers does not know where packed texts begin and end
        attention_mask, causal, window = None, is_causal, sliding_window
    else:
        # transformers leaves the mask out where the mask would be causality alone
        causal = is_causal and attention_mask is None and query.shape[2] > 1
    output = prefix_attention(
        query,
        key,
        value,
        prefix.key.to(key.dtype),
        prefix.value.to(value.dtype),
        own_key=None if prefix.own_key is None else prefix.own_key.to(key.dtype),
        own_value=None if prefix.own_value is None else prefix.own_value.to(value.dtype),
        mask=attention_mask,
        packed=packed,
        causal=causal,
        window=window,
        bias=position_bias,
        scale=scaling,
        dropout=dropout,
        softcap=softcap,
    )
    return output.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, _attention)
# without a mask function of the same name transformers makes no mask, and does not say so
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, sdpa_mask)
