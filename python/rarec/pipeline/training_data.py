"""What the alignment of a language model is trained on: texts, ID vectors, negatives, ID scores.

Axes: S samples, M places of a pool, N items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rarec.data import Dataset, Histories
from rarec.encoding import Entities
from rarec.ids import IDEmbeddings
from rarec.index import ItemIndex
from rarec.members.aligned import AlignedModel
from rarec.members.id_model import with_mean_for_cold
from rarec.model import RARec
from rarec.progress import progress_bar
from rarec.selection import NegativeSampler, Samples
from rarec.settings import AlignSettings
from rarec.training import ExtraNegatives, HardNegatives, IDScores, TrainingData, text_states

# newest events of a history that a sample keeps
_LONGEST_HISTORY = 1000
# samples whose seen items are held at once
_BLOCK = 4096


def training_data(
    aligned: AlignedModel,
    dataset: Dataset,
    samples: Samples,
    ids: IDEmbeddings | None,
    settings: AlignSettings,
    *,
    progress: bool = False,
) -> TrainingData:
    """Return the samples with all that the loss of the settings needs.

    The scales of the ID vectors are set in the model, too.

    Args:
        aligned: The model, not trained yet.
        dataset: The dataset of the items.
        samples: The tuning samples.
        ids: The ID vectors that the model is given; None for text alone.
        settings: Settings of the alignment.
        progress: Whether bars are shown.

    Raises:
        ValueError: If the loss needs ID vectors and there are none.
    """
    loss = settings.loss
    histories = samples.prefixes(_LONGEST_HISTORY)
    users = aligned.user_entities(histories, samples.users)
    items = aligned.item_entities()
    parts: dict[str, Any] = {}
    if loss.alignment:
        title, backbone = "text-only states", aligned.model.backbone
        states = []
        for entities in (users, items):
            with progress_bar(title, len(entities.tokens), shown=progress) as advance:
                states.append(text_states(backbone, entities.tokens, on_rows=advance))
        parts["text"] = tuple(states)
    if loss.extra_negatives:
        sampler = NegativeSampler(
            samples.histories, len(items), alpha=loss.alpha, seed=settings.seed
        )
        parts["extra"] = ExtraNegatives(sampler, loss.extra_negatives)
    learns_beside_ids = settings.model.id_score != "none"
    if loss.hard_negatives or learns_beside_ids:
        if ids is None:
            raise ValueError("expected ID vectors for hard negatives or the ID score, got none")
        scores = sample_scores(ids, samples, histories)
        if learns_beside_ids:
            parts["id_scores"] = scores
        if loss.hard_negatives:
            pools = mine_hard_negatives(scores, samples, dataset, loss.hard_pool)
            parts["hard"] = HardNegatives(
                pools, len(items), loss.hard_negatives, seed=settings.seed
            )
    _set_id_scales(aligned.model, users, items)
    return TrainingData(samples, users, items, **parts)


def sample_scores(ids: IDEmbeddings, samples: Samples, histories: Histories) -> IDScores:
    """Return the scores of the ID model; items without a vector score as the mean item does.

    Args:
        ids: The ID vectors.
        samples: S samples.
        histories: S rows, the events before each target.
    """
    queries, has_query = ids.user_vectors(histories, samples.users)
    # rows without a meaning may hold anything
    queries = np.where(has_query[:, None, None], queries, 0)
    return IDScores(queries.astype(np.float32), with_mean_for_cold(ids), has_query)


def mine_hard_negatives(
    scores: IDScores, samples: Samples, dataset: Dataset, size: int
) -> NDArray[np.int32]:
    """Return `[S, M]` items that the ID model ranks highest; -1 where there are no more.

    All items that the user of a sample has in training are left out, so the target and what came
    after it are, too. A sample without an ID vector has no hard negatives.

    Args:
        scores: Scores of the samples.
        samples: S samples.
        dataset: The dataset of the N items.
        size: M.
    """
    index = ItemIndex(scores.items, dataset.item_ids, dataset.titles)
    pools = np.full((len(samples), size), -1, dtype=np.int32)
    rows = np.flatnonzero(scores.known)
    users = samples.users
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        seen = samples.histories.take(users[block])
        pools[block], _ = index.top_k(scores.queries[block], size, exclude=seen)
    return pools


def _set_id_scales(model: RARec, users: Entities, items: Entities) -> None:
    for tower, entities in ((model.user, users), (model.item, items)):
        if tower.id_dim and entities.id_vectors is not None:
            known = slice(None) if entities.has_id is None else entities.has_id
            vectors = entities.id_vectors[known]
            # a zero vector stands for an item that is not there
            vectors = vectors[vectors.any(axis=-1)]
            if len(vectors):
                tower.set_id_scale(torch.from_numpy(vectors))
