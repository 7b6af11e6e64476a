"""The whole path on one dataset, as an object: fit, align, evaluate, recommend, keep."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rarec.data import Dataset, Split
from rarec.ids import IDEmbeddings
from rarec.index import ItemIndex, Recommendation
from rarec.members.aligned import AlignedModel
from rarec.pipeline import index as index_step
from rarec.pipeline.align import align
from rarec.pipeline.evaluate import evaluate
from rarec.pipeline.fit_ids import fit_ids, import_ids
from rarec.pipeline.members import RunMembers
from rarec.pipeline.recommend import recommend
from rarec.pipeline.samples import select_samples, selection_of
from rarec.pipeline.session import Session
from rarec.pipeline.weigh import weigh
from rarec.run import RunFolder
from rarec.selection import SelectionReport
from rarec.settings import (
    AlignSettings,
    FitSettings,
    IDSettings,
    SelectionSettings,
    SplitSettings,
)
from rarec.training import TrainingReport


class Recommender:
    """One run: a dataset, its split, and what has been fitted on it.

    Each step is written into the run folder as soon as it is done. Opening a folder again goes on
    from there, by the constructor, by `open`, or by the command line.

    Args:
        dataset: The data.
        split: How the data is split; by default leave-one-out.
        folder: A new folder, or a run of the same data and split, which goes on. By default a
            temporary folder that is removed with the object; `save` keeps it.
        progress: Whether bars are shown.
        say: Function that is given each message about what is done; by default none is shown.
        wait: Wait for another process that makes the same artifact; by default that is an error.

    Raises:
        ValueError: If the folder is a run of other data or of another split, or has other content.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        split: SplitSettings | None = None,
        folder: str | os.PathLike[str] | None = None,
        progress: bool = False,
        say: Callable[[str], None] | None = None,
        wait: bool = False,
    ) -> None:
        self._remove_temporary: Callable[[], Any] | None = None
        if folder is None:
            folder = tempfile.mkdtemp(prefix="rarec-")
            self._remove_temporary = weakref.finalize(self, shutil.rmtree, folder, True)
        run = RunFolder.create(folder, dataset, split, wait=wait)
        self._use(run, Session(progress=progress, say=say, wait=wait))

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        progress: bool = False,
        say: Callable[[str], None] | None = None,
        wait: bool = False,
    ) -> Recommender:
        """Return the recommender of a run folder, as far as it has come.

        Args:
            folder: A run folder.
            progress: Whether bars are shown.
            say: Function that is given each message about what is done.
            wait: Wait for another process that makes the same artifact.

        Raises:
            ValueError: If the folder is no run.
        """
        recommender = cls.__new__(cls)
        recommender._remove_temporary = None
        session = Session(progress=progress, say=say, wait=wait)
        recommender._use(RunFolder(folder), session)
        return recommender

    def _use(self, run: RunFolder, session: Session) -> None:
        self.run = run
        self.session = session
        self.members = RunMembers(run, session)

    @property
    def dataset(self) -> Dataset:
        """The data."""
        return self.run.dataset

    @property
    def split(self) -> Split:
        """The data in three parts."""
        return self.run.split

    @property
    def models(self) -> list[str]:
        """Names of the aligned models that are fresh."""
        return self.members.names()

    def model(self, name: str | None = None) -> AlignedModel:
        """Return an aligned model.

        Args:
            name: Name of the model; by default `rarec`, or the only one.

        Raises:
            ValueError: If there is no fresh model of this name.
        """
        return self.members.aligned(self.members.chosen(name))

    def index(self, name: str | None = None) -> ItemIndex:
        """Return the index of an aligned model.

        Args:
            name: Name of the model; by default `rarec`, or the only one.

        Raises:
            ValueError: If there is no fresh model of this name.
        """
        return index_step.index_of(self.members, self.members.chosen(name))

    def item_vectors(self, name: str | None = None) -> NDArray[np.float32]:
        """Return `[N, H]` float32 vectors of the catalogue, as an aligned model encoded them.

        Args:
            name: Name of the model; by default `rarec`, or the only one.
        """
        return index_step.item_vectors(self.members, self.members.chosen(name))

    def weights(self, name: str | None = None) -> dict[str, float]:
        """Return the weight of each member of the fused answer, chosen on validation cases.

        Args:
            name: Name of the aligned model; by default `rarec`, or the only one.
        """
        return weigh(self.members, self.members.chosen(name))

    def select(self, settings: SelectionSettings | None = None) -> SelectionReport:
        """Return how the tuning samples were chosen.

        If they are other samples than before, what was made from those is out of date.

        Args:
            settings: How to choose.
        """
        return select_samples(self.run, settings, self.session)

    def fit_ids(
        self,
        settings: IDSettings | None = None,
        *,
        hold_out: bool = True,
        all_samples: bool = True,
        restart: bool = False,
    ) -> dict[str, dict[str, Any]]:
        """Return what was measured while each part of the ID model was trained.

        The samples are chosen now if that has not been done.

        Args:
            settings: The ID model; by default GRU4Rec that reads the titles, too.
            hold_out: Train the ID model that the language model is given without the targets of
                the tuning samples (docs/method.md, Held-out samples).
            all_samples: Train one on all samples, too: the baseline, and what is added to the score
                of the language model.
            restart: Train again, if there is an ID model already.

        Raises:
            ValueError: If the ID model reads titles and there are none, or there is one with other
                settings and no restart.
        """
        both = FitSettings(
            selection=selection_of(self.run) or SelectionSettings(),
            ids=settings or IDSettings(),
            hold_out=hold_out,
            all_samples=all_samples,
        )
        return fit_ids(self.run, both, self.session, restart=restart)

    def use_ids(
        self,
        ids: IDEmbeddings,
        *,
        selection: SelectionSettings | None = None,
        restart: bool = False,
    ) -> None:
        """Take ID vectors that were made elsewhere.

        Args:
            ids: The vectors, one row for each item of the dataset.
            selection: How the tuning samples are chosen, too; by default they stay as they are.
            restart: Take them in place of an ID model that is there.

        Raises:
            ValueError: If the number of items differs, or other ID vectors are there and no
                restart.
        """
        import_ids(self.run, ids, self.session, selection=selection, restart=restart)

    def align(
        self, settings: AlignSettings | None = None, *, restart: bool = False
    ) -> TrainingReport:
        """Return what the tuning of a language model did.

        Its index is made, and the weight of the ID model beside it is chosen on validation cases.

        Args:
            settings: Settings of the alignment; `variant("paper")` and others give named ones, and
                `settings.without_ids()` tunes on text alone.
            restart: Align again, if there is a model of this name already.

        Raises:
            ValueError: If there are no ID vectors or no titles, or there is a model of this name
                with other settings and no restart.
        """
        settings = settings or AlignSettings()
        report = align(self.run, settings, self.session, restart=restart)
        index_step.index_of(self.members, settings.member)
        weigh(self.members, settings.member)
        return report

    def evaluate(
        self,
        part: str = "test",
        *,
        n_bootstrap: int = 1000,
        models: Iterable[str] | None = None,
        restart: bool = False,
    ) -> dict[str, Any]:
        """Return the results of everything that is fresh, and write them into the run.

        Args:
            part: `test` or `validation`.
            n_bootstrap: Number of resamples of the confidence intervals.
            models: Names of aligned models; by default all.
            restart: Rank again, whatever results are there.

        Returns:
            `{"protocol", "rows", "paired"}` (docs/method.md, Results).
        """
        return evaluate(self.members, part, n_bootstrap=n_bootstrap, models=models, restart=restart)

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
            user: Id of a user of the dataset, whose whole history is read.
            items: Instead, a history as item ids, oldest first.
            titles: Instead, a history as titles, oldest first. A title of the catalogue (in upper
                or lower case) brings its ID vector along; any other is read as text.
                With neither user, items nor titles the user is new.
            k: Number of items.
            exclude_seen: Leave out the items of the history.
            model: Name of the model that answers; by default `rarec`, or the only one.
            fused: Add the score of the ID model, with the weight chosen on validation cases (the
                rows `+id` of the results). Otherwise the model answers alone.

        Raises:
            ValueError: If more than one of the three is given, an id is unknown, or there is no
                fresh model of this name.
        """
        name = self.members.chosen(model)
        return recommend(
            self.members,
            name,
            index_step.index_of(self.members, name),
            user=user,
            items=items,
            titles=titles,
            k=k,
            exclude_seen=exclude_seen,
            fused=fused,
        )

    def add_items(self, titles: Mapping[str, str], *, model: str | None = None) -> None:
        """Put new items into the index of a model. They have no ID vector and are read by text.

        Args:
            titles: Title of each new item by its id.
            model: Name of the model; by default `rarec`, or the only one.

        Raises:
            ValueError: If an id is in the index already, or there is no fresh model of this name.
        """
        index_step.add_items(self.members, self.members.chosen(model), titles)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Copy the run into a folder, and go on there.

        Args:
            folder: A new or empty folder.

        Raises:
            ValueError: If the folder has content.
        """
        target = Path(folder)
        if target.absolute() == self.run.path.absolute():
            return
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise ValueError(f"{target}: expected a new or empty folder to save the run in")
        # the run file last: a folder with it is whole
        saved = RunFolder.create(target, self.dataset, self.run.split_settings)
        for entry in sorted(self.run.path.iterdir()):
            if entry.is_dir() and entry.name != "dataset":
                shutil.copytree(entry, target / entry.name, dirs_exist_ok=True)
        self._use(saved, self.session)
        if self._remove_temporary is not None:
            self._remove_temporary()
            self._remove_temporary = None
