"""One training of a language model's towers, from chosen samples to a trained model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, set_seed

from rarec.artifacts import write_text
from rarec.backbone import Backbone
from rarec.data import Dataset
from rarec.encoding import Entities
from rarec.ids import IDEmbeddings
from rarec.model import RARec
from rarec.recommender.aligned import AlignedModel
from rarec.recommender.configs import AlignConfig
from rarec.recommender.start import start_projectors
from rarec.recommender.teaching import hard_pools, sample_scores
from rarec.selection import NegativeSampler, Samples
from rarec.training import (
    HardNegatives,
    KeptLowerStates,
    LowerStateCache,
    RichProgress,
    TrainingData,
    TrainingReport,
    train,
    training_arguments,
)

_LONGEST_HISTORY = 1000


def align(
    dataset: Dataset,
    samples: Samples,
    ids: IDEmbeddings,
    backbone: Backbone,
    tokenizer: PreTrainedTokenizerBase,
    config: AlignConfig,
    *,
    checkpoints: str | os.PathLike[str] | None = None,
    progress: bool = False,
    lower_states: LowerStateCache | None = None,
) -> tuple[AlignedModel, TrainingReport]:
    """Return a trained model and what its training did.

    Args:
        dataset: Titles of the items.
        samples: The chosen training samples.
        ids: ID embeddings.
        backbone: The frozen language model.
        tokenizer: Of the language model.
        config: The recipe.
        checkpoints: A folder; a training that was stopped goes on from it. Emptied at the end.
        progress: Show bars.
        lower_states: Where lower states are shared with other trainings, if they are.

    Raises:
        ValueError: If no item has a title, the folder has checkpoints of another training, or
            projectors are to start from a regression and no user or no item has an ID vector.
    """
    dataset.require_titles()
    set_seed(config.seed)
    if config.checkpoint_layers:
        backbone.checkpoint_layers()
    model = RARec(
        backbone,
        user_id_dim=ids.item_vectors.shape[1],
        item_id_dim=ids.item_vectors.shape[1],
        config=config.model,
        prompts=config.prompts,
    )
    aligned = AlignedModel(
        model, tokenizer, dataset.titles, ids, progress=progress, lower_states=lower_states
    )
    data = _training_data(aligned, dataset, samples, ids, config)
    _set_id_scales(model, data.users, data.items)
    if model.user.id_dim and config.model.projector_start == "ridge":
        start_projectors(aligned, data, seed=config.seed)
    with ExitStack() as stack:
        if checkpoints is None:
            checkpoints = stack.enter_context(tempfile.TemporaryDirectory())
        folder = Path(checkpoints)
        _claim(folder, _identity(dataset, samples, ids, config))
        args = training_arguments(folder, **{"seed": config.seed, **config.training})
        callbacks = [RichProgress(f"align {config.name}")] if progress else []
        report = train(
            model,
            data,
            args,
            config.loss,
            callbacks=callbacks,
            resume=True,
            average_decay=config.average_decay,
            lower=_shared_states(aligned, data),
        )
        shutil.rmtree(folder)
        folder.mkdir()
    model.eval()
    return aligned, report


def _shared_states(aligned: AlignedModel, data: TrainingData) -> KeptLowerStates | None:
    """Return the lower states of a training that are kept outside it, if they are."""
    users = aligned.lower_of(data.users.tokens)
    items = aligned.lower_of(data.items.tokens)
    if users is None or items is None:
        return None
    return KeptLowerStates(users, items, shared=True)


def _training_data(
    aligned: AlignedModel,
    dataset: Dataset,
    samples: Samples,
    ids: IDEmbeddings,
    config: AlignConfig,
) -> TrainingData:
    loss = config.loss
    prefixes = samples.prefixes(_LONGEST_HISTORY)
    users = aligned.user_entities(prefixes, samples.users)
    items = aligned.item_entities()
    parts: dict[str, Any] = {}
    if loss.alignment:
        for name, entities in (("user_text", users), ("item_text", items)):
            parts[name] = aligned.text_states(entities.tokens)
    if loss.extra_negatives:
        parts["sampler"] = NegativeSampler(
            samples.histories, len(items), alpha=loss.alpha, seed=config.seed
        )
    by_id = loss.distillation or config.model.id_score != "none"
    if loss.hard_negatives or by_id:
        scores = sample_scores(ids, samples, prefixes)
        if by_id:
            parts["id_scores"] = scores
        if loss.hard_negatives:
            pools = hard_pools(scores, samples, dataset, loss.hard_pool)
            parts["hard"] = HardNegatives(pools, len(items), loss.hard_negatives, seed=config.seed)
    return TrainingData(samples, users, items, n_extra=loss.extra_negatives, **parts)


def _set_id_scales(model: RARec, users: Entities, items: Entities) -> None:
    for tower, entities in ((model.user, users), (model.item, items)):
        if tower.id_dim and entities.id_vectors is not None:
            known = slice(None) if entities.has_id is None else entities.has_id
            vectors = entities.id_vectors[known]
            # a zero vector stands for an item that is not there
            vectors = vectors[vectors.any(axis=-1)]
            if len(vectors):
                tower.set_id_scale(torch.from_numpy(vectors))


def _identity(
    dataset: Dataset, samples: Samples, ids: IDEmbeddings, config: AlignConfig
) -> dict[str, object]:
    vectors = hashlib.sha256(np.ascontiguousarray(ids.item_vectors).tobytes()).hexdigest()
    positions = hashlib.sha256(samples.positions.tobytes()).hexdigest()
    return {
        "data": dataset.content_hash,
        "samples": positions,
        "ids": vectors,
        "config": config.as_dict(),
    }


def _claim(folder: Path, identity: dict[str, object]) -> None:
    """Note whose checkpoints a folder holds, and refuse those of another training."""
    file = folder / "identity.json"
    if file.exists():
        stored = json.loads(file.read_text(encoding="utf-8"))
        different = sorted(name for name in identity if stored.get(name) != identity[name])
        if different:
            raise ValueError(
                f"{folder}: checkpoints of a training with other {', '.join(different)}; "
                "remove the folder to start anew"
            )
    else:
        write_text(file, json.dumps(identity, indent=2) + "\n")
