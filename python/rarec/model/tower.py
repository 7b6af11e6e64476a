"""The trained part of one tower: what turns ID vectors into soft prompts.

Axes: B batch, L layers that take a prefix (1 where it stands before the text), M projectors (L, or
1 for all layers), H hidden size, E width of the ID vectors, K ID tokens of an entity, P learnable
vectors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rarec.settings import ModelSettings

# Trained values have this root mean square at first, so that one learning rate suits all of them.
_INITIAL_SIZE = 0.25
# Root mean square of soft prompts at first, as a multiple of that of the states beside them.
_PROMPT_SIZE = 0.5


class Tower(nn.Module):
    """Soft prompts of users or items: `d[l] = concat(c[l], W[l] e + b[l])` (docs/method.md).

    Args:
        state_sizes: `[L]` root mean square of the states at each place of a soft prompt. The
            prompts of all layers have the same size relative to them, and learn alike.
        hidden_size: Hidden size H of the language model.
        id_dim: Width E of the ID vectors. With 0 there are no projectors.
        settings: Kind of the projectors, and the number P of learnable vectors.
        generator: Generator of the initial values.
    """

    id_scale: Tensor
    scale: Tensor

    def __init__(
        self,
        state_sizes: Tensor,
        hidden_size: int,
        id_dim: int,
        settings: ModelSettings,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        n_layers = len(state_sizes)
        self.id_dim = id_dim
        self.n_layers = n_layers
        self.register_buffer("scale", state_sizes.float() * (_PROMPT_SIZE / _INITIAL_SIZE))
        shape = (n_layers, settings.prefix_length, hidden_size)
        self.prefix = _normal(shape, _INITIAL_SIZE, generator)
        if not id_dim:
            return
        self.register_buffer("id_scale", torch.ones(()))
        if settings.projector == "fixed":
            rotation = torch.empty(hidden_size, id_dim)
            nn.init.orthogonal_(rotation, generator=generator)
            # a vector of size 1 comes out at the initial size of trained projectors
            rotation *= _INITIAL_SIZE * max(1.0, math.sqrt(hidden_size / id_dim))
            self.register_buffer("projector", rotation[None])
            self.register_buffer("projector_bias", torch.zeros(1, hidden_size))
            return
        n_projectors = 1 if settings.projector == "shared" else n_layers
        shape = (n_projectors, hidden_size, id_dim)
        self.projector = _normal(shape, _INITIAL_SIZE / math.sqrt(id_dim), generator)
        self.projector_bias = nn.Parameter(torch.zeros(n_projectors, hidden_size))

    @torch.no_grad()
    def set_id_scale(self, id_vectors: Tensor) -> None:
        """Divide ID vectors by the root mean square of these from now on.

        Args:
            id_vectors: ID vectors of any shape.
        """
        self.id_scale.fill_(float(id_vectors.float().square().mean().sqrt().clamp_min(1e-12)))

    def shared_prompts(self) -> Tensor:
        """Return `[L, P, H]`: the learnable vectors `c[l]`, shared by the batch."""
        return self.prefix * self.scale[:, None, None]

    def project(self, id_vectors: Tensor) -> Tensor:
        """Return `[L, B, K, H]`: the projections `p[l] = W[l] e + b[l]`.

        Args:
            id_vectors: `[B, K, E]` ID vectors.
        """
        scaled = id_vectors.to(self.projector.dtype) / self.id_scale
        projected = torch.einsum("bke,lhe->lbkh", scaled, self.projector)
        projected = projected + self.projector_bias[:, None, None]
        return projected.expand(self.n_layers, -1, -1, -1) * self.scale[:, None, None, None]

    def projections(self) -> tuple[Tensor, Tensor] | None:
        """Return `[L, H, E]` and `[L, H]`: what `project` multiplies and adds; None without IDs."""
        if not self.id_dim:
            return None
        scale = self.scale[:, None]
        return self.projector / self.id_scale * scale[..., None], self.projector_bias * scale

    def soft_prompts(self, id_vectors: Tensor) -> Tensor:
        """Return `[B, L, H]`: the mean over the tokens of `d[l]`, for the alignment loss.

        Args:
            id_vectors: `[B, K, E]` ID vectors.
        """
        own = self.project(id_vectors)  # [L, B, K, H]
        n_tokens = self.prefix.shape[1] + own.shape[2]
        total = self.shared_prompts().sum(dim=1)[:, None] + own.sum(dim=2)
        return (total / n_tokens).transpose(0, 1)


def _normal(shape: tuple[int, ...], std: float, generator: torch.Generator) -> nn.Parameter:
    """Return normally distributed initial values."""
    return nn.Parameter(torch.randn(*shape, generator=generator) * std)
