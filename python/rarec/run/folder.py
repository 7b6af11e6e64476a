"""A run folder: where everything of a run lies. No other file knows its layout.

run.json                 format, hash of the data, split; it never changes
dataset/                 histories, ids and titles
samples/                 the tuning samples
ids/NAME/all/            an ID model of all samples, or imported vectors
ids/NAME/held-out/       the same model without the targets of the tuning samples
models/NAME/             an aligned language model: what was trained of it
indexes/NAME/            vectors of the catalogue, from which it answers
weights/NAME/            the weight of each member of a fused answer
results/PART/            results.json, protocol.json, ranks.safetensors
study/                   what a study has measured in the run
checkpoints/ADDRESS/     trainings that are not finished
locks/ADDRESS.lock       held by the process that makes an artifact
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from rarec.artifacts import (
    is_temporary,
    lock,
    parse,
    read_sealed,
    remove,
    text_hash,
    tidy,
    write_sealed,
)
from rarec.data import Dataset, Split, leave_one_out, split_by_time
from rarec.settings import SplitSettings, from_dict, typed

FORMAT = "rarec.run/5"
RUN_FILE = "run.json"
#: Name of the ID model of a run, and of its rows in results.
ID_MODEL = "id"
PARTS = ("test", "validation")
DATA = "data"
SAMPLES = "samples"
DATASET, _LOCKS = "dataset", "locks"
# what a run may hold beside its file and its locks; `compare` is where `rarec compare` writes
_ENTRIES = (
    *(DATASET, SAMPLES, "ids", "models", "indexes", "weights", "results", "study"),
    *("checkpoints", "compare"),
)
#: Entries of a run that hold no artifacts.
NOT_ARTIFACTS = ("checkpoints", "compare", _LOCKS)
# in the place of the data, while a run is removed
_REMOVED = "removed"


@typed
class _RunFile:
    """What `run.json` says."""

    data: str
    """Hash of the data."""
    split: Mapping[str, Any]
    """How it is split."""


class RunFolder:
    """The folder of a run: its data, its split, and the place of each artifact.

    Args:
        path: A folder that `create` has made.

    Raises:
        ValueError: If the folder is no run.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        file = self.path / RUN_FILE
        if not file.is_file():
            raise ValueError(f"expected a run folder, got {self.path} (no {RUN_FILE})")
        stored = parse(_RunFile, read_sealed(file, FORMAT), file)
        if stored.data == _REMOVED:
            raise ValueError(
                f"{self.path}: expected a run, got one whose removal was stopped; rarec prepare "
                f"--restart goes on"
            )
        try:
            self.content_hash = stored.data
            self.split_settings = from_dict(SplitSettings, stored.split)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        for place in ("", *_ENTRIES, f"ids/{ID_MODEL}", "study/variants"):
            tidy(self.path / place)

    @classmethod
    def exists(cls, path: str | os.PathLike[str]) -> bool:
        """Return whether a folder is a run."""
        return (Path(path) / RUN_FILE).is_file()

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        dataset: Dataset,
        split: SplitSettings | None = None,
        *,
        restart: bool = False,
        wait: bool = False,
    ) -> RunFolder:
        """Return a new run of a dataset, or the run that is already there, which goes on.

        Args:
            path: A new or empty folder, or a run of the same data and split.
            dataset: The data.
            split: How it is split.
            restart: Remove the run that is there, with all that was made in it.
            wait: Wait for a process that makes this run now.

        Raises:
            ValueError: If the folder is a run of other data or of another split and not to be
                removed, or has other content. The run stays as it is.
            LockedError: If another process makes this run, or something in it that
                is to be removed.
        """
        split = split or SplitSettings()
        folder = Path(path)
        # data that cannot be split is refused before anything is written
        _split(dataset, split)
        if cls.exists(folder):
            if not restart:
                run = cls(folder)
                run._require_same(dataset, split)
                if run._has_dataset():
                    return run
        elif folder.is_file() or (folder.is_dir() and any(map(_is_foreign, folder.iterdir()))):
            raise ValueError(f"{folder}: expected a new folder or a run of rarec")
        with _lock(folder, "run", wait=wait):
            if restart and cls.exists(folder):
                _remove_content(folder)
            elif cls.exists(folder):
                # made by the process that was waited for
                cls(folder)._require_same(dataset, split)
            # the run file comes last: a folder with it is whole
            dataset.save(folder / DATASET)
            _write_run_file(folder, dataset.content_hash, split)
        return cls(folder)

    def _require_same(self, dataset: Dataset, split: SplitSettings) -> None:
        different = [
            name
            for name, same in (
                ("data", self.content_hash == dataset.content_hash),
                ("split", self.split_settings == split),
            )
            if not same
        ]
        if different:
            raise ValueError(
                f"{self.path}: expected a run of the same {' and '.join(different)}; choose "
                f"another folder, or begin again with prepare --restart, which removes this run"
            )

    def _has_dataset(self) -> bool:
        """Return whether the dataset is there and undamaged."""
        try:
            return self.dataset.content_hash == self.content_hash
        except ValueError:
            return False

    @contextmanager
    def lock(
        self, address: str, *, wait: bool = False, say: Callable[[str], None] | None = None
    ) -> Iterator[None]:
        """Hold the lock of an artifact while it is being made.

        Args:
            address: The address of the artifact.
            wait: Wait until another process has made it.
            say: Function that is given the message that this process waits.

        Raises:
            LockedError: If another process makes it now. The message says which one.
        """
        with _lock(self.path, address, wait=wait, say=say):
            yield

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset, read when it is first asked for."""
        place = self.path / DATASET
        try:
            dataset = Dataset.load(place)
        except ValueError as error:
            raise ValueError(
                f"{error}. rarec prepare with the same data writes it again"
            ) from error
        if dataset.content_hash != self.content_hash:
            raise ValueError(f"{place}: expected the data of {RUN_FILE}, got other data")
        return dataset

    @cached_property
    def split(self) -> Split:
        """The dataset in three parts."""
        return _split(self.dataset, self.split_settings)

    @property
    def data_hash(self) -> str:
        """Hex sha256 of the data and the split: where the chain of hashes begins."""
        return text_hash({"data": self.content_hash, "split": asdict(self.split_settings)})

    def folder(self, address: str) -> Path:
        """Return the folder of an artifact.

        Args:
            address: Such as `samples` or what the functions below return.
        """
        return self.path / address

    def checkpoints(self, address: str) -> Path:
        """Return the folder for the checkpoints of the training that makes an artifact."""
        return self.path / "checkpoints" / address

    def id_parts(self, name: str = ID_MODEL) -> list[str]:
        """Return the parts of an ID model that lie in the folder: `all`, `held-out`."""
        return _names_in(self.path / "ids" / name)

    def model_names(self) -> list[str]:
        """Return the names of the aligned models that lie in the folder, fresh or not."""
        return _names_in(self.path / "models")

    def size_of_contents(self) -> dict[str, int]:
        """Return the bytes of each entry of the folder by name; a folder's name ends with `/`."""
        found = {}
        for entry in sorted(self.path.iterdir()):
            if entry.name == _LOCKS:
                continue
            files = [entry] if entry.is_file() else [p for p in entry.rglob("*") if p.is_file()]
            if files:
                name = entry.name + ("/" if entry.is_dir() else "")
                found[name] = sum(file.stat().st_size for file in files)
        return found


def _split(dataset: Dataset, settings: SplitSettings) -> Split:
    if settings.kind == "time":
        return split_by_time(
            dataset,
            validation=settings.validation,
            test=settings.test,
            min_history=settings.min_history,
        )
    return leave_one_out(dataset, min_history=settings.min_history)


def ids_address(part: str, name: str = ID_MODEL) -> str:
    """Return the address of a part of an ID model."""
    return f"ids/{name}/{part}"


def model_address(name: str) -> str:
    """Return the address of an aligned model."""
    return f"models/{name}"


def index_address(name: str) -> str:
    """Return the address of the index of an aligned model."""
    return f"indexes/{name}"


def weights_address(fused: str) -> str:
    """Return the address of the weights of a fused answer."""
    return f"weights/{fused}"


def results_address(part: str) -> str:
    """Return the address of the results on a part of the data."""
    return f"results/{part}"


def _names_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_temporary(p))


def _is_foreign(path: Path) -> bool:
    """Return whether a path is nothing that an interrupted `create` may have left."""
    return path.name not in (RUN_FILE, DATASET, _LOCKS) and not is_temporary(path)


def _write_run_file(folder: Path, content_hash: str, split: SplitSettings) -> None:
    write_sealed(folder / RUN_FILE, FORMAT, {"data": content_hash, "split": asdict(split)})


def _remove_content(folder: Path) -> None:
    """Remove all that was made in a run. If it is stopped, the run file says so."""
    for file in sorted((folder / _LOCKS).rglob("*.lock")):
        address = file.relative_to(folder / _LOCKS).as_posix().removesuffix(".lock")
        if address != "run":
            # refused while another process makes something
            with _lock(folder, address):
                pass
    _write_run_file(folder, _REMOVED, SplitSettings())
    for name in _ENTRIES:
        remove(folder / name)


@contextmanager
def _lock(
    folder: Path, address: str, *, wait: bool = False, say: Callable[[str], None] | None = None
) -> Iterator[None]:
    what = f"{folder}: {address}" if address != "run" else f"{folder}: the run"
    with lock(folder / _LOCKS / f"{address}.lock", what, wait=wait, say=say):
        yield
