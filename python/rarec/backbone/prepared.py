"""Prefixes of many batches: what all of them share is computed once.

A layer's keys and values of the shared prefix are the same in every batch. Where they are affine in
what the layer's attention reads, the projector of ID vectors goes into them too: keys and values
come of the vectors at once, and the hidden size is passed over. Whether they are is found out by
asking the layer's own module.

Axes: B batch, L layers with a prefix, H hidden size, P shared prefix tokens, K ID vectors of each
sample, E width of the ID vectors, h_kv key heads, D head dimension.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rarec.backbone.attention import Prefix
from rarec.backbone.layers import Layer, keys_values, layer_prefix

#: Vectors that show whether keys and values are affine, and their sizes: some far from usual, where
#: a module that clamps shows itself.
_SIZES = (1.0, 1.0, 1.0, 1.0, 16.0, 16.0)
#: Largest difference in float64, relative to the largest number.
_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Affine:
    """Keys or values of ID vectors.

    Attributes:
        weight: `[h_kv, E, D]`.
        bias: `[h_kv, 1, D]`.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return `[B, h_kv, K, D]` of `[B, K, E]`."""
        return torch.einsum("bke,hed->bhkd", vectors, self.weight) + self.bias


@dataclass(frozen=True, eq=False)
class PreparedLayer:
    """One layer's prefix.

    Attributes:
        layer: The layer.
        shared: Its keys and values of the shared prefix, of no tokens if there is none.
        folded: What gives keys and values of ID vectors; None if their projection does.
    """

    layer: Layer
    shared: Prefix
    folded: tuple[Affine, Affine] | None


@dataclass(frozen=True, eq=False)
class PreparedPrefixes:
    """The prefixes of the top layers for any batch.

    Attributes:
        layers: The layers.
        projector: `[L, H, E]`; None if there are no ID vectors.
        projector_bias: `[L, H]`.
    """

    layers: tuple[PreparedLayer, ...]
    projector: Tensor | None
    projector_bias: Tensor | None

    def of(self, vectors: Tensor | None) -> list[Prefix]:
        """Return the prefix of each layer.

        Args:
            vectors: `[B, K, E]` ID vectors, or None for the shared prefix alone.
        """
        if vectors is None or self.projector is None or self.projector_bias is None:
            return [part.shared for part in self.layers]
        vectors = vectors.to(self.projector.dtype)
        prefixes = []
        for number, part in enumerate(self.layers):
            if part.folded is not None:
                key, value = (affine(vectors) for affine in part.folded)
            else:
                states = vectors @ self.projector[number].T + self.projector_bias[number]
                own = layer_prefix(part.layer, None, states.to(part.shared.key.dtype))
                key, value = own.own_key, own.own_value
            prefixes.append(replace(part.shared, own_key=key, own_value=value))
        return prefixes


@torch.no_grad()
def prepare(
    layers: Sequence[Layer],
    shared: Tensor,
    projector: Tensor | None,
    projector_bias: Tensor | None,
    *,
    n_vectors: int,
) -> PreparedPrefixes:
    """Return the prefixes of layers, the projectors folded into them where that is less work.

    Args:
        layers: L layers.
        shared: `[L, P, H]` shared prefix, in the model's dtype.
        projector: `[L, H, E]`; None without ID vectors.
        projector_bias: `[L, H]`.
        n_vectors: ID vectors that there will be.
    """
    prepared = []
    for number, (layer, prefix) in enumerate(zip(layers, shared, strict=True)):
        # a module is asked for one token at least
        states = prefix if len(prefix) else prefix.new_zeros(1, prefix.shape[1])
        key, value = (part[:, :, : len(prefix)] for part in keys_values(layer, states[None]))
        folded = None
        if projector is not None and projector_bias is not None:
            width = key.shape[1] * (key.shape[3] + value.shape[3])
            if _is_less_work(projector.shape[1:], width, n_vectors):
                folded = _fold(layer, projector[number], projector_bias[number])
        prepared.append(PreparedLayer(layer, Prefix(key, value), folded))
    return PreparedPrefixes(tuple(prepared), projector, projector_bias)


def _is_less_work(projector: Sequence[int], width: int, n_vectors: int) -> bool:
    """Return whether folding spares multiplications, those of the folding itself counted.

    Args:
        projector: H and E.
        width: Numbers of a token's keys and values.
        n_vectors: ID vectors that there will be.
    """
    hidden, vector = projector
    once = (1 + vector + len(_SIZES)) * hidden * width
    return once + n_vectors * vector * width < n_vectors * hidden * (vector + width)


def _fold(layer: Layer, projector: Tensor, bias: Tensor) -> tuple[Affine, Affine] | None:
    """Return what gives a layer's keys and values of ID vectors; None if they are not affine.

    Keys and values come of one call of the module, so one of them alone would spare nothing.
    """
    columns, offset = projector.double(), bias.double()
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor(_SIZES, dtype=torch.float64)[:, None]
    drawn = torch.randn(len(_SIZES), projector.shape[1], generator=generator, dtype=torch.float64)
    vectors = (drawn * sizes).to(columns.device)
    rows = torch.cat([offset[None], offset + columns.T, vectors @ columns.T + offset])
    try:
        # differences of keys with a large bias would lose digits in the model's own dtype
        exact = replace(layer, module=copy.deepcopy(layer.module).double())
        made = keys_values(exact, rows[None])
    except Exception:  # whatever a quantised module, or a device without float64, does
        return None
    folded = []
    for states in made:
        first, rest, expected = states[0].split([1, projector.shape[1], len(_SIZES)], dim=1)
        affine = Affine(rest - first, first)
        difference = (affine(vectors[None])[0] - expected).abs().max()
        # not `>`: a nan is a difference too
        if not bool(difference <= _TOLERANCE * expected.abs().max()):
            return None
        folded.append(Affine(affine.weight.to(projector.dtype), affine.bias.to(projector.dtype)))
    return folded[0], folded[1]
