"""Prepared prefixes: what many batches have in common is computed once.

The keys and values of the shared prefix are the same in every batch. If the keys and values of a
layer are an affine function of the states that its attention reads, the projector of ID vectors is
folded into that function: then one small product gives keys and values directly from ID vectors.
Whether a layer is affine is found out by calling its attention module.

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

#: Sizes of the random vectors that test whether keys and values are affine. Some are unusually
#: large, to detect a module that clamps its output.
_SIZES = (1.0, 1.0, 1.0, 1.0, 16.0, 16.0)
#: Largest allowed difference in float64, relative to the largest number.
_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Affine:
    """The affine function from ID vectors to keys, or to values.

    Attributes:
        weight: `[h_kv, E, D]` matrix of each key head.
        bias: `[h_kv, 1, D]` bias of each key head.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return keys or values `[B, h_kv, K, D]` of ID vectors `[B, K, E]`."""
        return torch.einsum("bke,hed->bhkd", vectors, self.weight) + self.bias


@dataclass(frozen=True, eq=False)
class PreparedLayer:
    """The prepared prefix of one layer.

    Attributes:
        layer: The layer.
        shared: Keys and values of the shared prefix, which may have no tokens.
        folded: The functions from ID vectors to keys and to values; None if ID vectors are
            projected and passed through the layer's module.
    """

    layer: Layer
    shared: Prefix
    folded: tuple[Affine, Affine] | None


@dataclass(frozen=True, eq=False)
class PreparedPrefixes:
    """The prepared prefixes of the top layers, for any batch.

    Attributes:
        layers: The prepared prefix of each layer.
        projector: `[L, H, E]` projectors of ID vectors; None if there are no ID vectors.
        projector_bias: `[L, H]` biases of the projectors.
    """

    layers: tuple[PreparedLayer, ...]
    projector: Tensor | None
    projector_bias: Tensor | None

    def of(self, vectors: Tensor | None) -> list[Prefix]:
        """Return the prefix of each layer for a batch.

        Args:
            vectors: `[B, K, E]` ID vectors of the batch; None for the shared prefix alone.
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
    """Return the prepared prefixes; projectors are folded into them where that is less work.

    Args:
        layers: The L layers that have a prefix.
        shared: `[L, P, H]` shared prefix, in the dtype of the model.
        projector: `[L, H, E]` projectors of ID vectors; None if there are no ID vectors.
        projector_bias: `[L, H]` biases of the projectors.
        n_vectors: Number of ID vectors that will be projected.
    """
    prepared = []
    for number, (layer, prefix) in enumerate(zip(layers, shared, strict=True)):
        # a module is called with at least one token
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
    """Return whether folding saves multiplications, including those of the folding itself.

    Args:
        projector: H and E.
        width: Number of elements of the keys and values of one token.
        n_vectors: Number of ID vectors that will be projected.
    """
    hidden, vector = projector
    once = (1 + vector + len(_SIZES)) * hidden * width
    return once + n_vectors * vector * width < n_vectors * hidden * (vector + width)


def _fold(layer: Layer, projector: Tensor, bias: Tensor) -> tuple[Affine, Affine] | None:
    """Return the functions from ID vectors to keys and to values; None if one is not affine.

    Keys and values come from one call of the module, so folding only one of them saves nothing.
    """
    columns, offset = projector.double(), bias.double()
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor(_SIZES, dtype=torch.float64)[:, None]
    drawn = torch.randn(len(_SIZES), projector.shape[1], generator=generator, dtype=torch.float64)
    vectors = (drawn * sizes).to(columns.device)
    rows = torch.cat([offset[None], offset + columns.T, vectors @ columns.T + offset])
    try:
        # float64: in the dtype of the model, differences of keys with a large bias lose digits
        exact = replace(layer, module=copy.deepcopy(layer.module).double())
        made = keys_values(exact, rows[None])
    # a quantized module, or a device without float64, may raise any exception
    except Exception:
        return None
    folded = []
    for states in made:
        first, rest, expected = states[0].split([1, projector.shape[1], len(_SIZES)], dim=1)
        affine = Affine(rest - first, first)
        difference = (affine(vectors[None])[0] - expected).abs().max()
        # not `>`: nan has to count as a difference
        if not bool(difference <= _TOLERANCE * expected.abs().max()):
            return None
        folded.append(Affine(affine.weight.to(projector.dtype), affine.bias.to(projector.dtype)))
    return folded[0], folded[1]
