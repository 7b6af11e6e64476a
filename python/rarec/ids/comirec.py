"""ComiRec-SA: several interests per user by self-attention (Cen et al. 2020, arXiv:2005.09347)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rarec.ids.encoder import HistoryEncoder
from rarec.ids.items import ItemVectors


class ComiRec(HistoryEncoder):
    """K vectors per user, each a weighted mean of the history (equations 6 and 7 of the paper).

    The weights `softmax(W2 tanh(W1 h))` run over the items up to a place, so one pass gives the
    interests after every place: numerator and denominator are running sums.

    Args:
        items: The item vectors, of any kind.
        max_history: Number of newest items of a history that are read.
        dropout: Share of the inputs that are set to zero in training.
        n_interests: Number of vectors per user K.
        hidden_dim: Width of the hidden layer of the attention.
    """

    def __init__(
        self,
        items: ItemVectors,
        *,
        max_history: int,
        dropout: float,
        n_interests: int = 4,
        hidden_dim: int = 256,
    ) -> None:
        super().__init__(items, max_history=max_history, n_vectors=n_interests)
        dim = items.dim
        self.position_embedding = nn.Embedding(max_history + 1, dim, padding_idx=0)
        nn.init.normal_(self.position_embedding.weight, std=dim**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.attention = nn.Sequential(
            nn.Linear(dim, hidden_dim), nn.Tanh(), nn.Linear(hidden_dim, n_interests)
        )
        self.output = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, history: Tensor) -> Tensor:
        """Return `[B, T, K, E]`; see `HistoryEncoder.forward`."""
        shown = (history != self.n_items)[:, :, None]
        vectors = self.dropout(self.items(history))
        logits = self.attention(vectors + self.position_embedding(self.places(history)))
        logits = logits - logits.amax(dim=1, keepdim=True).detach()
        weights = torch.where(shown, logits.exp(), 0.0)  # [B, T, K]
        total = weights.cumsum(dim=1).clamp_min(torch.finfo(weights.dtype).tiny)
        summed = (weights[..., None] * vectors[:, :, None]).cumsum(dim=1)
        interests = summed / total[..., None]
        return interests + self.output(self.dropout(interests))
