"""GRU4Rec: a recurrent network over the history (Hidasi et al. 2016, arXiv:1511.06939)."""

from __future__ import annotations

from torch import Tensor, nn

from rarec.ids.encoder import HistoryEncoder


class GRU4Rec(HistoryEncoder):
    """One vector per user: the projected state of a GRU after the last item."""

    def __init__(
        self,
        n_items: int,
        *,
        dim: int = 64,
        max_history: int = 50,
        dropout: float = 0.3,
        hidden_dim: int = 128,
    ) -> None:
        super().__init__(n_items, dim=dim, max_history=max_history)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(dim, hidden_dim, batch_first=True)
        self.output = nn.Linear(hidden_dim, dim)

    def forward(self, history: Tensor) -> Tensor:
        """Return `[B, T, 1, E]`; see `HistoryEncoder.forward`."""
        states, _ = self.gru(self.dropout(self.item_embedding(history)))
        return self.output(self.dropout(states))[:, :, None]
