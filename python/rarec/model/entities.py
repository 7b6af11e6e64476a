"""Batches of what the towers read: texts and ID vectors of users or items.

Axes: B batch, T text tokens, K ID tokens of an entity, E width of the ID vectors, H hidden
size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class EntityBatch:
    """Texts and ID vectors of B users or items.

    Attributes:
        input_ids: `[B, T]` int64 token numbers.
        attention_mask: `[B, T]` int64, 1 for text and 0 for padding.
        id_vectors: `[B, K, E]` float32 ID vectors, or None when no entity of the batch has any.
        has_id: `[B]` bool, false where the row of `id_vectors` has no meaning (a cold entity).
            None when all entities have ID vectors.
        lower: `[B, T, H]` states of the texts below the lowest prefix (`Backbone.lower_states`).
            With None the language model computes them.
    """

    input_ids: Tensor
    attention_mask: Tensor
    id_vectors: Tensor | None = None
    has_id: Tensor | None = None
    lower: Tensor | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    def to(self, device: torch.device) -> EntityBatch:
        """Return the batch on `device`."""
        parts = (self.input_ids, self.attention_mask, self.id_vectors, self.has_id, self.lower)
        return EntityBatch(*(None if part is None else part.to(device) for part in parts))  # type: ignore[arg-type]

    def take(self, rows: Tensor) -> EntityBatch:
        """Return the entities in `rows` (numbers or a mask), without columns of padding alone."""
        mask = self.attention_mask[rows]
        used = mask.any(dim=0)
        return EntityBatch(
            self.input_ids[rows][:, used],
            mask[:, used],
            None if self.id_vectors is None else self.id_vectors[rows],
            None if self.has_id is None else self.has_id[rows],
            None if self.lower is None else self.lower[rows][:, used],
        )
