"""The attention that transformers calls in a backbone's layers.

One mechanism for all models: an attention function and a mask function registered with
transformers. What a forward call of rarec wants of its layers reaches the function as the keyword
`rarec` of that call.

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
    """Ends a call of an attention module once its keys and values are known."""


@dataclass(eq=False)
class Capture:
    """Receives what attention modules are called with, and keeps or ends their calls.

    Attributes:
        stop: End each call by `Captured`.
        calls: Module, key, value and window of each call.
    """

    stop: bool
    calls: list[tuple[nn.Module, Tensor, Tensor, int | None]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Prefix:
    """Prefix keys and values of one layer.

    Attributes:
        key: `[1, h_kv, P, D]`, shared by the batch.
        value: As `key`.
        own_key: `[B, h_kv, K, D]`, of each text, or None.
        own_value: As `own_key`.
    """

    key: Tensor
    value: Tensor
    own_key: Tensor | None = None
    own_value: Tensor | None = None

    def in_order(self, order: Tensor) -> Prefix:
        """Return the prefix of the samples in another order."""
        if self.own_key is None or self.own_value is None:
            return self
        return Prefix(self.key, self.value, self.own_key[order], self.own_value[order])


@dataclass(frozen=True, eq=False)
class Reading:
    """How one forward call reads its texts.

    Attributes:
        prefixes: Of each attention module, by its `id`; one for each call of a module that several
            layers share; None for a layer without. Empty for none at all.
        packed: The texts stand one after the other in one row; None if they are padded.
    """

    prefixes: dict[int, list[Prefix | None]]
    packed: Packed | None = None
    _calls: Counter[int] = field(default_factory=Counter)

    def prefix(self, module: nn.Module) -> Prefix | None:
        """Return the prefix of a module's next call.

        Raises:
            RuntimeError: If the module is none of the layers, or is called more often than there
                are layers, as gradient checkpointing does.
        """
        prefixes = self.prefixes.get(id(module))
        name = type(module).__name__
        if prefixes is None:
            # a copy of the model, as data parallelism makes them: text alone would look right
            raise RuntimeError(f"{name} is none of the layers that take a prefix")
        if len(prefixes) == 1:
            return prefixes[0]
        number = self._calls[id(module)]
        self._calls[id(module)] += 1
        if number >= len(prefixes):
            raise RuntimeError(
                f"{name} is shared by layers and called again: no gradient checkpointing with it"
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
    rarec: Capture | Reading | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return `[B, T, h, D]`: what transformers asks of an attention function.

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
        # no mask of transformers knows the texts of a row: all that it would say is said here
        attention_mask, causal, window = None, is_causal, sliding_window
    else:
        # transformers leaves the mask out where causality alone says it all
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
# without a mask function of the same name transformers would silently make no mask at all
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, sdpa_mask)
