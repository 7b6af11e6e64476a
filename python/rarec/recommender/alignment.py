"""One training of a language model's towers, from chosen samples to a trained model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, set_seed

from rarec.artifacts import write_text
from rarec.assets import cache_folder
from rarec.backbone import Backbone
from rarec.data import Dataset
from rarec.encoding import Entities
from rarec.ids import IDEmbeddings
from rarec.model import RARec
from rarec.progress import progress_bar
from rarec.recommender.aligned import AlignedModel
from rarec.recommender.configs import AlignConfig
from rarec.selection import NegativeSampler, Samples
from rarec.training import (
    RichProgress,
    TextStates,
    TrainingData,
    TrainingReport,
    text_states,
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

    Raises:
        ValueError: If no item has a title, or the folder has checkpoints of another training.
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
    aligned = AlignedModel(model, tokenizer, dataset.titles, ids, progress=progress)
    data = _training_data(aligned, samples, config)
    _set_id_scales(model, data.users, data.items)
    with ExitStack() as stack:
        if checkpoints is None:
            checkpoints = stack.enter_context(tempfile.TemporaryDirectory())
        folder = Path(checkpoints)
        _claim(folder, _identity(dataset, samples, ids, config))
        args = training_arguments(folder, **{"seed": config.seed, **config.training})
        callbacks = [RichProgress(f"align {config.name}")] if progress else []
        report = train(model, data, args, config.loss, callbacks=callbacks, resume=True)
        shutil.rmtree(folder)
        folder.mkdir()
    model.eval()
    return aligned, report


def _training_data(aligned: AlignedModel, samples: Samples, config: AlignConfig) -> TrainingData:
    prefixes = samples.prefixes(_LONGEST_HISTORY)
    users = aligned.user_entities(prefixes, samples.users)
    items = aligned.item_entities()
    states: dict[str, TextStates] = {}
    if config.loss.alignment:
        for name, entities in (("user_text", users), ("item_text", items)):
            states[name] = _states(aligned, entities)
    sampler = None
    if config.loss.extra_negatives:
        sampler = NegativeSampler(
            samples.histories, len(items), alpha=config.loss.alpha, seed=config.seed
        )
    return TrainingData(
        samples, users, items, sampler=sampler, n_extra=config.loss.extra_negatives, **states
    )


def _states(aligned: AlignedModel, entities: Entities) -> TextStates:
    with progress_bar("text-only states", len(entities), shown=aligned.progress) as advance:
        return text_states(
            aligned.model.backbone,
            entities.tokens,
            cache_folder() / "text-states",
            on_rows=advance,
        )


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
