"""The quality of an ID model during its training: NDCG@10 on the validation cases."""

from __future__ import annotations

import numpy as np
import torch

from rarec.data import Cases
from rarec.evaluation import per_user, rank_targets
from rarec.ids.encoder import HistoryEncoder, encode_histories

# cases that are ranked at once, so that memory does not grow with their number
_BLOCK = 4096


@torch.no_grad()
def validation_ndcg(encoder: HistoryEncoder, cases: Cases) -> float:
    """Return the mean NDCG@10 of the targets among all items that are not in the history.

    Args:
        encoder: The model, which is put into evaluation mode.
        cases: Validation cases, at least one.

    Raises:
        ValueError: If a vector is not finite, which means that the training diverged.
    """
    encoder.eval()
    items = encoder.item_vectors.cpu().numpy()
    total = 0.0
    for start in range(0, len(cases), _BLOCK):
        part = cases.take(np.arange(start, min(start + _BLOCK, len(cases))))
        queries = encode_histories(encoder, part.histories)
        if not (np.isfinite(items).all() and np.isfinite(queries).all()):
            raise ValueError(
                "expected finite vectors, got NaN or infinity: "
                "the training diverged, a lower learning_rate helps"
            )
        ranks = rank_targets(queries, items, part.targets, part.histories)
        total += per_user(ranks, cutoffs=(10,))["ndcg@10"].sum()
    return float(total / len(cases))
