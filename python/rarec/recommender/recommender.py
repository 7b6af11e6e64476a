"""The whole path on one dataset: fit IDs, align the language model, evaluate, recommend, keep.

Axes: C cases, N items, H hidden size.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rarec.backbone import Backbone, LanguageModel
from rarec.data import Dataset, Histories, Split
from rarec.ids import IDConfig, IDEmbeddings, IDReport, TrainedIDs
from rarec.index import ItemIndex, Recommendation
from rarec.recommender import storage
from rarec.recommender.aligned import AlignedModel
from rarec.recommender.alignment import align
from rarec.recommender.comparison import evaluate
from rarec.recommender.configs import AlignConfig, SplitConfig
from rarec.recommender.fusion import late_fusion
from rarec.recommender.id_models import fit_id_model, title_vectors
from rarec.recommender.recipes import id_recipe
from rarec.recommender.shelf import Shelf
from rarec.selection import Samples, SelectionConfig, SelectionReport, held_out_mask, select
from rarec.training import TrainingReport

_log = logging.getLogger(__name__)


class Recommender:
    """One dataset, one split, and what has been fitted on it.

    With a folder each step is written there as soon as it is done, so that a later process goes
    on from it: `dataset/ samples/ ids/ baseline/ models/NAME/ results.json`.

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
        self.models: Shelf[AlignedModel] = Shelf(lambda name: storage.read_model(self, name))
        self.indexes: Shelf[ItemIndex] = Shelf(lambda name: storage.read_index(self, name))
        self.facts: dict[str, dict[str, Any]] = {}
        self.seeds: dict[str, int] = {}
        self.recipes: dict[str, dict[str, Any]] = {}
        self.weights: dict[str, float] = {}
        self._language_models: dict[LanguageModel, tuple[Backbone, PreTrainedTokenizerBase]] = {}
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
            self._forget("ids")
        self.samples, self.selection = samples, (config, report)
        self.seeds["selection"] = config.seed
        self._write("samples")
        return report

    def fit_ids(
        self,
        config: IDConfig | None = None,
        *,
        hold_out: bool = True,
        baseline: bool | IDEmbeddings = True,
    ) -> IDReport:
        """Return how the ID model was trained; it is kept in `ids`.

        Models aligned with other ID embeddings are removed.

        Args:
            config: The ID model; by default one that reads the titles too (`id_recipe`).
            hold_out: Leave the targets of the tuning samples out of its loss (DESIGN.md section
                1.9); chooses the samples if that has not been done.
            baseline: With `hold_out`, train a second one on all targets, so that tables compare
                with the strongest ID model; or one that was trained so before.

        Raises:
            ValueError: If the model reads titles (`IDConfig.text`) and there are none.
        """
        config = config or id_recipe()
        text_vectors = title_vectors(self, config.text) if config.text else None
        held_out = held_out_mask(self._chosen_samples()) if hold_out else None
        self.seeds["ids"] = config.seed
        name = "id_held_out" if hold_out else "id"
        ids, report = fit_id_model(self, config, name, held_out, text_vectors)
        self._replace_ids(ids)
        if hold_out and baseline:
            if baseline is True:
                self.baseline, _ = fit_id_model(self, config, "id", None, text_vectors)
            else:
                self.baseline = baseline
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
        backbone, tokenizer = self.language_model(
            config.language_model,
            # both change it for good
            of_its_own=config.model.tune != "none" or config.checkpoint_layers,
        )
        name = config.name
        aligned, report = align(
            self.dataset,
            samples,
            self.ids,
            backbone,
            tokenizer,
            config,
            checkpoints=self.folder / "checkpoints" / name if self.folder else None,
            progress=self.progress,
        )
        self.models[name] = aligned
        self.seeds[name] = config.seed
        self.recipes[name] = config.as_dict()
        self.facts[name] = {
            "samples": report.samples,
            "steps": report.steps,
            "trainable_parameters": report.trainable_parameters,
            "seconds": report.seconds,
            "samples_per_second": report.samples_per_second,
            "peak_rss_mb": report.peak_rss_mb,
        }
        if self.folder is not None:
            storage.write_model(self, name)
        self.weights.pop(name, None)
        self._put_index(name, aligned.item_vectors())
        self.fusion_weight(name)
        return report

    def evaluate(
        self, part: str = "test", *, n_bootstrap: int = 1000, models: Iterable[str] | None = None
    ) -> dict[str, Any]:
        """Return and, with a folder, write the results of everything fitted so far.

        Args:
            part: `test` or `validation`.
            n_bootstrap: Resamples of the confidence intervals.
            models: Names of aligned models; by default all.

        Returns:
            `{"protocol", "rows", "paired"}` as in DESIGN.md section 6.
        """
        return evaluate(self, part, n_bootstrap=n_bootstrap, models=models)

    def recommend(
        self,
        user: str | None = None,
        *,
        items: Sequence[str] = (),
        titles: Sequence[str] = (),
        k: int = 10,
        exclude_seen: bool = True,
        model: str | None = None,
        fused: bool = True,
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
            model: Name of the model that is asked; by default `rarec`, or the only one.
            fused: Add the score of the ID model, with the weight chosen on validation cases (the
                rows `+id` of the results); else the model answers alone.

        Raises:
            ValueError: If more than one of the three is given, an id is unknown, or no model (of
                this name) has been aligned.
        """
        if sum([user is not None, bool(items), bool(titles)]) > 1:
            raise ValueError("expected one of user, items and titles, got more")
        name = self._asked(model)
        aligned = self.models[name]
        users = tokens = None
        if user is not None:
            number = self.dataset.user_number(user)
            users = np.array([number], dtype=np.int32)
            history = self.dataset.histories.take([number])
        elif titles:
            history = self._titled(titles)
            tokens = aligned.prompts.user_titles([titles])
        else:
            history = Histories.from_lists([[self.dataset.item_number(item) for item in items]])
        vectors = aligned.queries(aligned.user_entities(history, users, tokens=tokens))
        weight = self.fusion_weight(name) if fused else 0.0
        query = late_fusion(self).queries(vectors, history, users, weight)
        exclude = history if exclude_seen else None
        return self._index(name).search(query, k, exclude=exclude)[0]

    def add_items(self, titles: Mapping[str, str], *, model: str | None = None) -> None:
        """Put new items into the index of a model: no ID vector, read by their text.

        Args:
            titles: Title of each new item id.
            model: Name of the model; by default `rarec`, or the only one.

        Raises:
            ValueError: If an id is in the index already, or no model (of this name) has been
                aligned.
        """
        name = self._asked(model)
        self._put_index(name, self.models[name].new_item_vectors(list(titles.values())), titles)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write everything into a run folder, and keep it up to date from now on.

        Raises:
            ValueError: If the folder is a run on other data or another split.
        """
        self.folder = Path(folder)
        storage.claim(self)
        for part in storage.PARTS:
            self._write(part)
        for name in self.models:
            storage.write_model(self, name)
            storage.write_index(self, name)

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
        """Return `[N, H]` float32 vectors of the catalogue, as an aligned model encoded them."""
        ids = self.baseline or self.ids
        assert ids is not None
        # the index has the ID model's part behind: no language model is read for this
        vectors = self._index(name).vectors[: self.dataset.n_items, : -ids.item_vectors.shape[1]]
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def fusion_weight(self, name: str) -> float:
        """Return the weight of the ID model beside an aligned one; chosen now if not before."""
        if name not in self.weights:
            model, vectors = self.models[name], self.item_vectors(name)
            self.weights[name] = late_fusion(self).weight(lambda some: model.scores(some, vectors))
            if self.folder is not None:
                storage.write_state(self)
        return self.weights[name]

    def configs(self) -> dict[str, Any]:
        """Return the settings of what has been fitted, as JSON can hold them."""
        found: dict[str, Any] = {}
        if self.selection is not None:
            found["selection"] = asdict(self.selection[0])
        if isinstance(self.ids, TrainedIDs):
            found["ids"] = asdict(self.ids.config)
        return found | self.recipes

    def language_model(
        self, which: LanguageModel, *, of_its_own: bool = False
    ) -> tuple[Backbone, PreTrainedTokenizerBase]:
        """Return a language model and its tokenizer, loaded once.

        Args:
            which: The model.
            of_its_own: Load it for this call alone, as one that is changed must be.
        """
        if of_its_own:
            return which.load()
        if which not in self._language_models:
            self._language_models[which] = which.load()
        return self._language_models[which]

    def _chosen_samples(self) -> Samples:
        if self.samples is None:
            self.select()
        assert self.samples is not None
        return self.samples

    def _replace_ids(self, ids: IDEmbeddings) -> None:
        self._forget("baseline")
        self.ids = ids
        self._write("ids")

    def _forget(self, *parts: str) -> None:
        """Remove all models and these parts, made with something being replaced, and say so."""
        gone = [part for part in parts if storage.has_part(self, part)]
        for part in gone:
            storage.remove_part(self, part)
        gone += storage.remove_models(self)
        if gone:
            _log.warning("removed, being out of date: %s", ", ".join(gone))

    def _asked(self, name: str | None) -> str:
        """Return the name of the aligned model that a question is for."""
        known = list(self.models)
        if not known:
            raise ValueError("expected an aligned model first: call align")
        if name is None:
            if "rarec" not in known and len(known) > 1:
                raise ValueError(f"expected model to be one of {known}, got none")
            return "rarec" if "rarec" in known else known[0]
        if name not in known:
            raise ValueError(f"expected model to be one of {known}, got {name!r}")
        return name

    def _index(self, name: str) -> ItemIndex:
        """Return the index of an aligned model, made now if that was stopped before."""
        if name not in self.indexes:
            self._put_index(name, self.models[name].item_vectors())
        return self.indexes[name]

    def _put_index(
        self, name: str, vectors: NDArray[np.float32], new: Mapping[str, str] | None = None
    ) -> None:
        """Make the index of a model of the catalogue, or with `new` items on top, and write it."""
        item_ids, titles = self.dataset.item_ids, self.dataset.titles
        if new is not None:
            old = self._index(name)
            before = old.vectors[:, : vectors.shape[1]].astype(np.float32)
            vectors = np.concatenate([before, vectors])
            item_ids, titles = [*old.item_ids, *new], [*old.titles, *new.values()]
        # what is asked of it can be the model alone, or fused with the ID model
        vectors = late_fusion(self).item_vectors(vectors)
        self.indexes[name] = ItemIndex(vectors, item_ids, titles)
        if self.folder is not None:
            storage.write_index(self, name)

    def _write(self, part: str) -> None:
        if self.folder is not None:
            storage.write_part(self, part)

    def _titled(self, titles: Sequence[str]) -> Histories:
        """Return one history: the items of the catalogue that have one of the titles."""
        numbers: dict[str, int] = {}
        for number, title in enumerate(self.dataset.titles):
            if title:
                numbers.setdefault(title.casefold(), number)
        known = [numbers[t.casefold()] for t in titles if t.casefold() in numbers]
        return Histories.from_lists([known])
