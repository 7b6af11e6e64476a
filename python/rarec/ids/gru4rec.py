"""GRU4Rec: a recurrent network over the history (Hidasi et al. 2016, arXiv:1511.06939)."""

from __future__ import annotations

from torch import Tensor, nn

from rarec.ids.encoder import HistoryEncoder
from rarec.ids.items import ItemVectors


class GRU4Rec(HistoryEncoder):
    """One vector per user: the projected state of a GRU after the last item.

    Args:
        items: The item vectors, of any kind.
        max_history: Number of newest items of a history that are read.
        dropout: Share of the inputs that are set to zero in training.
        hidden_dim: Width of the state of the GRU.
    """

    def __init__(
        self,
        items: ItemVectors,
        *,
        max_history: int,
        dropout: float,
        hidden_dim: int = 128,
    ) -> None:
        super().__init__(items, max_history=max_history)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(self.dim, hidden_dim, batch_first=True)
        self.output = nn.Linear(hidden_dim, self.dim)

    def forward(self, history: Tensor) -> Tensor:
        """Return `[B, T, 1, E]`; see `HistoryEncoder.forward`."""
        states, _ = self.gru(self.dropout(self.items(history)))
        return self.output(self.dropout(states))[:, :, None]
