"""The ID models of a recommender, and the text vectors that some of them read.

Axes: N items, F width of the text vectors.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rarec.backbone import LanguageModel
from rarec.encoding import encode_texts
from rarec.ids import IDConfig, IDReport, TrainedIDs, standardised, train_encoder
from rarec.progress import progress_bar
from rarec.prompts import Prompts

if TYPE_CHECKING:
    from rarec.recommender.recommender import Recommender


def fit_id_model(
    recommender: Recommender,
    config: IDConfig,
    name: str,
    held_out: NDArray[np.bool_] | None,
    text_vectors: NDArray[np.float32] | None,
) -> tuple[TrainedIDs, IDReport]:
    """Return an ID model trained on the training part, and how; facts go to the recommender.

    Args:
        recommender: Data, split and folder; a training that was stopped goes on from there.
        config: The ID model.
        name: What it is called in tables.
        held_out: See `train_encoder`.
        text_vectors: The same.
    """
    train = recommender.split.train
    n_items = recommender.dataset.n_items
    folder = recommender.folder
    checkpoint = folder / "checkpoints" / f"{name}.safetensors" if folder else None
    started = time.perf_counter()
    with progress_bar(f"fit {name}", config.max_epochs, shown=recommender.progress) as advance:

        def on_epoch(epoch: int, loss: float, ndcg: float) -> None:
            del epoch
            advance(note=f"loss {loss:.3f}  validation NDCG@10 {ndcg:.4f}")

        encoder, report = train_encoder(
            train,
            recommender.split.validation,
            n_items,
            config,
            held_out=held_out,
            text_vectors=text_vectors,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
        )
    if checkpoint is not None:
        checkpoint.unlink()
    recommender.facts[name] = {
        "samples": report.samples,
        "steps": report.epochs,
        "trainable_parameters": sum(p.numel() for p in encoder.parameters()),
        "seconds": time.perf_counter() - started,
    }
    known = train.counts(n_items) > 0
    if text_vectors is not None:
        known |= text_vectors.any(axis=1)
    return TrainedIDs(encoder, config, known), report


def title_vectors(recommender: Recommender, llm: str) -> NDArray[np.float32]:
    """Return `[N, F]` float32: what a language model makes of the titles; zero without a title.

    Pooled, of length one, then standardised over the catalogue.

    Args:
        recommender: Its dataset has the titles.
        llm: Name of the language model.

    Raises:
        ValueError: If no item has a title.
    """
    dataset = recommender.dataset
    dataset.require_titles()
    backbone, tokenizer = recommender.language_model(LanguageModel(llm))
    titled = np.array([bool(title) for title in dataset.titles])
    numbers = np.flatnonzero(titled)
    tokens = Prompts(tokenizer, dataset.titles).items(numbers)
    with progress_bar("read titles", len(numbers), shown=recommender.progress) as advance:
        vectors = encode_texts(backbone, tokens, on_rows=advance)
    table = np.zeros((dataset.n_items, vectors.shape[1]), dtype=np.float32)
    table[numbers] = vectors
    return standardised(table, titled)
