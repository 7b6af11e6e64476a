"""The trained part of one side: what turns ID vectors into soft prompts.

Axes: B batch, T text tokens, L layers that take a prefix (1 where it stands before the text), M
projectors (L, or 1 for all layers), H hidden size, E width of the ID vectors, R rank of the
projectors, K ID tokens of an entity, P learnable vectors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rarec.model.config import ModelConfig

# trained values start at this size, so that the same learning rate suits all
_START = 0.25


class Tower(nn.Module):
    """Soft prompts of users or items: `d[l] = concat(c[l], W[l] e + b[l])` (DESIGN.md section 1).

    With a gate the second part is multiplied by a learned number of the layer.

    Args:
        state_sizes: `[L]` root mean square of the states at each place a soft prompt stands:
            prompts of all layers start alike beside them, and learn alike.
        hidden_size: H.
        id_dim: E; 0 builds no projectors.
        config: Which projectors, and P.
        generator: Of the start values.

    Raises:
        ValueError: If projectors are to have a higher rank than their sides allow.
    """

    id_scale: Tensor
    scale: Tensor

    def __init__(
        self,
        state_sizes: Tensor,
        hidden_size: int,
        id_dim: int,
        config: ModelConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()

        def normal(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) * std)

        n_layers = len(state_sizes)
        self.id_dim = id_dim
        self.n_layers = n_layers
        self.register_buffer("scale", state_sizes.float() * (config.prompt_size / _START))
        self.prefix = normal(n_layers, config.prefix_length, hidden_size, std=_START)
        if config.pool == "attention":
            self.query = nn.Parameter(torch.zeros(hidden_size))
        if not id_dim:
            return
        self.register_buffer("id_scale", torch.ones(()))
        if config.gate:
            self.gate = nn.Parameter(torch.ones(n_layers))
        if config.projector == "fixed":
            rotation = torch.empty(hidden_size, id_dim)
            nn.init.orthogonal_(rotation, generator=generator)
            # a vector of size 1 comes out at the size that trained projectors start at
            rotation *= _START * max(1.0, math.sqrt(hidden_size / id_dim))
            self.register_buffer("projector", rotation[None])
            self.register_buffer("projector_bias", torch.zeros(1, hidden_size))
            return
        n_projectors = 1 if config.projector == "shared" else n_layers
        rank = config.projector_rank
        if rank is None:
            std = _START / math.sqrt(id_dim)
            self.projector = normal(n_projectors, hidden_size, id_dim, std=std)
        else:
            if rank > min(hidden_size, id_dim):
                raise ValueError(
                    f"expected projector_rank <= {min(hidden_size, id_dim)} for projectors from "
                    f"{id_dim} to {hidden_size}, got {rank}"
                )
            # their product has the size that one matrix starts at
            self.projector_out = normal(
                n_projectors, hidden_size, rank, std=_START / math.sqrt(rank)
            )
            self.projector_in = normal(n_projectors, rank, id_dim, std=1 / math.sqrt(id_dim))
        self.projector_bias = nn.Parameter(torch.zeros(n_projectors, hidden_size))

    @torch.no_grad()
    def set_id_scale(self, id_vectors: Tensor) -> None:
        """Divide ID vectors by their root mean square from now on, whatever their source."""
        self.id_scale.fill_(float(id_vectors.float().square().mean().sqrt().clamp_min(1e-12)))

    def pool(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Return `[B, H]` float32: the mean of each text's tokens, weighted by attention to them.

        Args:
            states: `[B, T, H]`.
            attention_mask: `[B, T]` 1 for text, 0 for padding (on either side).
        """
        states = states.float()
        logits = states @ self.query / math.sqrt(len(self.query))
        # not -inf: a text without tokens would have nan
        logits = logits.masked_fill(attention_mask == 0, torch.finfo(logits.dtype).min)
        return torch.einsum("bt,bth->bh", logits.softmax(dim=1), states)

    def shared_prompts(self) -> Tensor:
        """Return `[L, P, H]`: the learnable vectors `c[l]`, shared by the batch."""
        return self.prefix * self.scale[:, None, None]

    def project(self, id_vectors: Tensor) -> Tensor:
        """Return `[L, B, K, H]`: `p[l] = W[l] e + b[l]` (DESIGN.md section 1.2).

        Args:
            id_vectors: `[B, K, E]`.
        """
        matrices = self._matrices()
        scaled = id_vectors.to(matrices.dtype) / self.id_scale
        projected = torch.einsum("bke,lhe->lbkh", scaled, matrices)
        projected = projected + self.projector_bias[:, None, None]
        return projected.expand(self.n_layers, -1, -1, -1) * self._sizes()[:, None, None, None]

    def projections(self) -> tuple[Tensor, Tensor] | None:
        """Return `[L, H, E]` and `[L, H]`: what `project` multiplies and adds; None without IDs."""
        if not self.id_dim:
            return None
        sizes = self._sizes()[:, None]
        return self._matrices() / self.id_scale * sizes[..., None], self.projector_bias * sizes

    @property
    def prompt_sizes(self) -> Tensor:
        """`[L]`: root mean square of the soft prompts that training starts with, about."""
        return _START * self.scale

    @torch.no_grad()
    def set_projections(self, weight: Tensor, bias: Tensor) -> None:
        """Let `project` multiply by a weight and add a bias from now on.

        One projector for all layers takes the mean over them, each in the size of its states. Of
        the weight a projector of low rank keeps the part with the largest singular values.

        Args:
            weight: `[L, H, E]`.
            bias: `[L, H]`.

        Raises:
            ValueError: If the tower has no projector that is trained.
        """
        if not isinstance(getattr(self, "projector_bias", None), nn.Parameter):
            raise ValueError("expected a tower with a trained projector, got none")
        sizes = self._sizes()[:, None]
        weight = weight.to(sizes) * self.id_scale / sizes[..., None]
        bias = bias.to(sizes) / sizes
        if len(self.projector_bias) < self.n_layers:
            weight, bias = weight.mean(dim=0, keepdim=True), bias.mean(dim=0, keepdim=True)
        self.projector_bias.copy_(bias)
        if not hasattr(self, "projector_out"):
            self.projector.copy_(weight)
            return
        left, singular, right = torch.linalg.svd(weight, full_matrices=False)
        rank = self.projector_in.shape[1]
        root = singular[:, :rank].sqrt()
        self.projector_out.copy_(left[:, :, :rank] * root[:, None])
        self.projector_in.copy_(root[..., None] * right[:, :rank])

    def _matrices(self) -> Tensor:
        """Return `[M, H, E]`: `W` of each projector."""
        if hasattr(self, "projector_out"):
            return self.projector_out @ self.projector_in
        return self.projector

    def _sizes(self) -> Tensor:
        """Return `[L]`: what each layer's projection is multiplied by."""
        return self.scale * self.gate if hasattr(self, "gate") else self.scale

    def soft_prompts(self, id_vectors: Tensor) -> Tensor:
        """Return `[B, L, H]`: the mean of `d[l]`, for the alignment loss.

        Args:
            id_vectors: `[B, K, E]`.
        """
        own = self.project(id_vectors)  # [L, B, K, H]
        n_tokens = self.prefix.shape[1] + own.shape[2]
        total = self.shared_prompts().sum(dim=1)[:, None] + own.sum(dim=2)
        return (total / n_tokens).transpose(0, 1)
