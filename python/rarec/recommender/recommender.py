"""The whole path on one dataset: fit IDs, align the language model, evaluate, recommend, keep.

Axes: C cases, N items, H hidden size.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rarec.backbone import Backbone, load_backbone
from rarec.data import Dataset, Histories, Split
from rarec.ids import IDConfig, IDEmbeddings, IDReport, TrainedIDs, train_encoder
from rarec.index import ItemIndex, Recommendation
from rarec.progress import progress_bar
from rarec.recommender import storage
from rarec.recommender.aligned import AlignedModel
from rarec.recommender.alignment import align
from rarec.recommender.comparison import evaluate
from rarec.recommender.configs import AlignConfig, SplitConfig
from rarec.selection import Samples, SelectionConfig, SelectionReport, held_out_mask, select
from rarec.training import TrainingReport

_log = logging.getLogger(__name__)


class Recommender:
    """One dataset, one split, and what has been fitted on it.

    With a folder each step is written there as soon as it is done, so that a later process goes
    on from it: `dataset/ samples/ ids/ baseline/ rarec/ text/ index/ results.json`.

    Args:
        dataset: The data.
        split: How it is cut.
        folder: A run folder, or None to keep all in memory until `save`.
        progress: Show bars.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        split: SplitConfig | None = None,
        folder: str | os.PathLike[str] | None = None,
        progress: bool = False,
    ) -> None:
        self.dataset = dataset
        self.split_config = split or SplitConfig()
        self.split: Split = self.split_config.split(dataset)
        self.progress = progress
        self.samples: Samples | None = None
        self.selection: tuple[SelectionConfig, SelectionReport] | None = None
        self.ids: IDEmbeddings | None = None
        self.baseline: IDEmbeddings | None = None
        self.models: dict[str, AlignedModel] = {}
        self.index: ItemIndex | None = None
        self.facts: dict[str, dict[str, Any]] = {}
        self.seeds: dict[str, int] = {}
        self._item_vectors: dict[str, NDArray[np.float32]] = {}
        self._language_models: dict[Any, tuple[Backbone, PreTrainedTokenizerBase]] = {}
        self.folder: Path | None = None
        if folder is not None:
            self.save(folder)

    def select(self, config: SelectionConfig | None = None) -> SelectionReport:
        """Return how the tuning samples were chosen; they are kept in `samples`.

        If they are others than before, what was fitted with those is removed.
        """
        config = config or SelectionConfig()
        samples, report = select(self.split.train, self.dataset.titles, config)
        before = self.samples
        if before is not None and not np.array_equal(before.positions, samples.positions):
            self._forget("ids", *storage.MODELS, "index")
        self.samples, self.selection = samples, (config, report)
        self.seeds["selection"] = config.seed
        self._write("samples")
        return report

    def fit_ids(
        self, config: IDConfig | None = None, *, hold_out: bool = True, baseline: bool = True
    ) -> IDReport:
        """Return how the ID model was trained; it is kept in `ids`.

        Models aligned with other ID embeddings are removed.

        Args:
            config: The ID model.
            hold_out: Leave the targets of the tuning samples out of its loss (DESIGN.md section
                1.9); chooses the samples if that has not been done.
            baseline: With `hold_out`, train a second one on all targets, so that tables compare
                with the strongest ID model.
        """
        config = config or IDConfig()
        held_out = held_out_mask(self._chosen_samples()) if hold_out else None
        self.seeds["ids"] = config.seed
        ids, report = self._train_ids(config, held_out, "id_held_out" if hold_out else "id")
        self._replace_ids(ids)
        if hold_out and baseline:
            self.baseline, _ = self._train_ids(config, None, "id")
            self._write("baseline")
        return report

    def use_ids(self, ids: IDEmbeddings) -> None:
        """Take ID embeddings that were made elsewhere; models aligned with others are removed."""
        if len(ids.item_vectors) != self.dataset.n_items:
            raise ValueError(
                f"expected vectors of {self.dataset.n_items} items, got {len(ids.item_vectors)}"
            )
        self._replace_ids(ids)

    def align(self, config: AlignConfig | None = None) -> TrainingReport:
        """Return what the tuning of a language model did; the model is kept in `models`.

        Args:
            config: The recipe; `config.without_ids()` tunes on text alone.

        Raises:
            ValueError: If there are no ID embeddings yet, or no titles.
        """
        config = config or AlignConfig()
        if self.ids is None:
            raise ValueError("expected ID embeddings first: call fit_ids or use_ids")
        self.dataset.require_titles()
        samples = self._chosen_samples()
        backbone, tokenizer = self.language_model(config.llm, config.llm_revision, config.pooling)
        checkpoints = self.folder / "checkpoints" / config.name if self.folder else None
        aligned, report = align(
            self.dataset,
            samples,
            self.ids,
            backbone,
            tokenizer,
            config,
            checkpoints=checkpoints,
            progress=self.progress,
        )
        self.models[config.name] = aligned
        self._item_vectors.pop(config.name, None)
        self.seeds[config.name] = config.seed
        self.facts[config.name] = {
            "samples": report.samples,
            "steps": report.steps,
            "trainable_parameters": report.trainable_parameters,
            "seconds": report.seconds,
        }
        self._write(config.name)
        if config.name == "rarec":
            vectors = self.item_vectors(config.name)
            self.index = ItemIndex(vectors, self.dataset.item_ids, self.dataset.titles)
            self._write("index")
        return report

    def evaluate(self, part: str = "test", *, n_bootstrap: int = 1000) -> dict[str, Any]:
        """Return and, with a folder, write the results of everything fitted so far.

        Args:
            part: `test` or `validation`.
            n_bootstrap: Resamples of the confidence intervals.

        Returns:
            `{"protocol", "rows", "paired"}` as in DESIGN.md section 6.
        """
        return evaluate(self, part, n_bootstrap=n_bootstrap)

    def recommend(
        self,
        user: str | None = None,
        *,
        items: Sequence[str] = (),
        titles: Sequence[str] = (),
        k: int = 10,
        exclude_seen: bool = True,
    ) -> list[Recommendation]:
        """Return the best items for one user, best first.

        Args:
            user: Id of a user of the dataset, whose whole history counts.
            items: Instead, a history as item ids, oldest first.
            titles: Instead, a history as titles, oldest first. A title of the catalogue (upper or
                lower case) brings its ID vector along; any other is read as text.
                With neither user, items nor titles the user is new.
            k: Number of items.
            exclude_seen: Leave out the items of the history.

        Raises:
            ValueError: If more than one of the three is given, an id is unknown, or no model has
                been aligned.
        """
        if sum([user is not None, bool(items), bool(titles)]) > 1:
            raise ValueError("expected one of user, items and titles, got more")
        if self.index is None or "rarec" not in self.models:
            raise ValueError("expected an aligned model first: call align")
        model = self.models["rarec"]
        users = tokens = None
        if user is not None:
            number = self.dataset.user_number(user)
            users = np.array([number], dtype=np.int32)
            history = self.dataset.histories.take([number])
        elif titles:
            history = self._titled(titles)
            tokens = model.prompts.user_titles([titles])
        else:
            history = Histories.from_lists([[self.dataset.item_number(item) for item in items]])
        query = model.queries(model.user_entities(history, users, tokens=tokens))
        return self.index.search(query, k, exclude=history if exclude_seen else None)[0]

    def add_items(self, titles: Mapping[str, str]) -> None:
        """Put new items into the index: no ID vector, text and layer prefix alone.

        Args:
            titles: Title of each new item id.

        Raises:
            ValueError: If an id is in the index already, or no model has been aligned.
        """
        if self.index is None:
            raise ValueError("expected an aligned model first: call align")
        vectors = self.models["rarec"].new_item_vectors(list(titles.values()))
        self.index = ItemIndex(
            np.concatenate([self.index.vectors, vectors]),
            [*self.index.item_ids, *titles],
            [*self.index.titles, *titles.values()],
        )
        self._write("index")

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write everything into a run folder, and keep it up to date from now on.

        Raises:
            ValueError: If the folder is a run on other data or another split.
        """
        self.folder = Path(folder)
        storage.claim(self)
        for part in storage.PARTS:
            self._write(part)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, progress: bool = False) -> Recommender:
        """Return the recommender of a run folder, as far as it has come.

        Raises:
            ValueError: If the folder is no run.
        """
        dataset, split = storage.read_start(folder)
        recommender = cls(dataset, split=split, progress=progress)
        recommender.folder = Path(folder)
        storage.read_parts(recommender)
        return recommender

    def item_vectors(self, name: str) -> NDArray[np.float32]:
        """Return `[N, H]` float32 item vectors of a model, encoded once."""
        if name not in self._item_vectors:
            self._item_vectors[name] = self.models[name].item_vectors()
        return self._item_vectors[name]

    def configs(self) -> dict[str, Any]:
        """Return the settings of what has been fitted, as JSON can hold them."""
        found: dict[str, Any] = {}
        if self.selection is not None:
            found["selection"] = asdict(self.selection[0])
        if isinstance(self.ids, TrainedIDs):
            found["ids"] = asdict(self.ids.config)
        for name, model in self.models.items():
            found[name] = model.model.description()
        return found

    def language_model(
        self, name: str, revision: str | None = None, pooling: str | None = None
    ) -> tuple[Backbone, PreTrainedTokenizerBase]:
        """Return a language model and its tokenizer, loaded once."""
        key = (name, revision, pooling)
        if key not in self._language_models:
            self._language_models[key] = load_backbone(name, revision=revision, pooling=pooling)
        return self._language_models[key]

    def _chosen_samples(self) -> Samples:
        if self.samples is None:
            self.select()
        assert self.samples is not None
        return self.samples

    def _replace_ids(self, ids: IDEmbeddings) -> None:
        self._forget("baseline", *storage.MODELS, "index")
        self.ids = ids
        self._write("ids")

    def _forget(self, *parts: str) -> None:
        """Remove parts that were made with something that is being replaced, and say so."""
        gone = [part for part in parts if storage.has_part(self, part)]
        for part in gone:
            storage.remove_part(self, part)
            self._item_vectors.pop(part, None)
        if gone:
            _log.warning("removed, being out of date: %s", ", ".join(gone))

    def _write(self, part: str) -> None:
        if self.folder is not None:
            storage.write_part(self, part)

    def _train_ids(
        self, config: IDConfig, held_out: NDArray[np.bool_] | None, name: str
    ) -> tuple[TrainedIDs, IDReport]:
        train = self.split.train
        checkpoint = self.folder / "checkpoints" / f"{name}.safetensors" if self.folder else None
        started = time.perf_counter()
        with progress_bar(f"fit {name}", config.max_epochs, shown=self.progress) as advance:

            def on_epoch(epoch: int, loss: float, ndcg: float) -> None:
                del epoch
                advance(note=f"loss {loss:.3f}  validation NDCG@10 {ndcg:.4f}")

            encoder, report = train_encoder(
                train,
                self.split.validation,
                self.dataset.n_items,
                config,
                held_out=held_out,
                checkpoint=checkpoint,
                on_epoch=on_epoch,
            )
        if checkpoint is not None:
            checkpoint.unlink()
        known = train.counts(self.dataset.n_items) > 0
        self.facts[name] = {
            "samples": report.samples,
            "steps": report.epochs,
            "trainable_parameters": sum(p.numel() for p in encoder.parameters()),
            "seconds": time.perf_counter() - started,
        }
        return TrainedIDs(encoder, config, known), report

    def _titled(self, titles: Sequence[str]) -> Histories:
        """Return one history: the items of the catalogue that have one of the titles."""
        numbers: dict[str, int] = {}
        for number, title in enumerate(self.dataset.titles):
            if title:
                numbers.setdefault(title.casefold(), number)
        known = [numbers[t.casefold()] for t in titles if t.casefold() in numbers]
        return Histories.from_lists([known])
