"""SASRec: causal self-attention over the history (Kang and McAuley 2018, arXiv:1808.09781)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rarec.ids.encoder import HistoryEncoder
from rarec.ids.items import ItemVectors


class SASRec(HistoryEncoder):
    """One vector per user: the last state of a causal transformer.

    Args:
        items: The item vectors, of any kind.
        max_history: Number of newest items of a history that are read.
        dropout: Share of the inputs that are set to zero in training.
        n_layers: Number of transformer blocks.
        n_heads: Number of attention heads, of which E is a multiple.

    Raises:
        ValueError: If E is not a multiple of the number of heads.
    """

    def __init__(
        self,
        items: ItemVectors,
        *,
        max_history: int,
        dropout: float,
        n_layers: int = 2,
        n_heads: int = 2,
    ) -> None:
        super().__init__(items, max_history=max_history)
        dim = items.dim
        if dim % n_heads:
            raise ValueError(f"expected dim to be a multiple of n_heads {n_heads}, got {dim}")
        self.position_embedding = nn.Embedding(max_history + 1, dim, padding_idx=0)
        nn.init.normal_(self.position_embedding.weight, std=dim**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(dim, n_heads, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, history: Tensor) -> Tensor:
        """Return `[B, T, 1, E]`; see `HistoryEncoder.forward`. Zero at padded places."""
        length = history.shape[1]
        # most histories are short: only the M of B x T places that are not padding are computed
        shown = history != self.n_items
        places = self.places(history)
        # as in the paper: otherwise the positions would outweigh the items
        states = self.items(history[shown]) * self.dim**0.5
        states = self.dropout(states + self.position_embedding(places[shown]))  # [M, E]
        causal = torch.ones(length, length, dtype=torch.bool, device=history.device).tril()
        # a padded place attends to itself, so that no row of the softmax is empty
        itself = torch.eye(length, dtype=torch.bool, device=history.device)
        mask = (causal & shown[:, None, :]) | itself
        for block in self.blocks:
            states = block(states, shown, mask[:, None])
        return _padded(self.norm(states), shown)[:, :, None]


class _Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.attention_output = nn.Linear(dim, dim)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.feedforward = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, shown: Tensor, mask: Tensor) -> Tensor:
        """Return `[M, E]`.

        Args:
            states: `[M, E]` states of the places that are not padding, row by row.
            shown: `[B, T]` bool, true for these places.
            mask: `[B, 1, T, T]` bool, true for the places that each place attends to.
        """
        heads = _padded(self.query_key_value(self.attention_norm(states)), shown)
        batch, length = shown.shape
        query, key, value = heads.view(batch, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed = mixed.transpose(1, 2).flatten(2)[shown]
        states = states + self.dropout(self.attention_output(mixed))
        return states + self.dropout(self.feedforward(self.feedforward_norm(states)))


def _padded(states: Tensor, shown: Tensor) -> Tensor:
    """Return `[B, T, F]`: the `[M, F]` states at their places, zero at padded places."""
    padded = states.new_zeros(*shown.shape, states.shape[-1])
    padded[shown] = states
    return padded
