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
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from rarec.artifacts import is_temporary, read_json, write_json
from rarec.data import Dataset, Split, leave_one_out, split_by_time
from rarec.settings import SplitSettings, from_dict

FORMAT = "rarec.run/4"
RUN_FILE = "run.json"
#: Name of the ID model of a run, and of its rows in results.
ID_MODEL = "id"
PARTS = ("test", "validation")
DATA = "data"
SAMPLES = "samples"


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
        stored = read_json(file)
        if stored.get("format") != FORMAT:
            raise ValueError(f"{file}: expected format {FORMAT!r}, got {stored.get('format')!r}")
        try:
            self.content_hash = str(stored["data"])
            self.split_settings = from_dict(SplitSettings, stored["split"])
        except (AttributeError, KeyError, ValueError) as error:
            raise ValueError(
                f"{file}: expected the data and the split of a run ({error})"
            ) from error

    @classmethod
    def exists(cls, path: str | os.PathLike[str]) -> bool:
        """Return whether a folder is a run."""
        return (Path(path) / RUN_FILE).is_file()

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], dataset: Dataset, split: SplitSettings | None = None
    ) -> RunFolder:
        """Return a new run of a dataset, or the run that is already there, which goes on.

        Args:
            path: A new or empty folder, or a run of the same data and split.
            dataset: The data.
            split: How it is split.

        Raises:
            ValueError: If the folder is a run of other data or of another split, or has other
                content. The run stays as it is.
        """
        split = split or SplitSettings()
        folder = Path(path)
        if cls.exists(folder):
            run = cls(folder)
            run._require_same(dataset, split)
            return run
        if folder.is_file() or (folder.is_dir() and any(map(_is_foreign, folder.iterdir()))):
            raise ValueError(f"{folder}: expected a new folder or a run of rarec")
        # data that cannot be split is refused before anything is written
        _split(dataset, split)
        # the run file comes last: a folder with it is whole
        dataset.save(folder / "dataset")
        values = {"format": FORMAT, "data": dataset.content_hash, "split": asdict(split)}
        write_json(folder / RUN_FILE, values)
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
                f"another folder, or remove this one to begin again"
            )

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset, read when it is first asked for."""
        dataset = Dataset.load(self.path / "dataset")
        if dataset.content_hash != self.content_hash:
            raise ValueError(
                f"{self.path / 'dataset'}: expected the data of {RUN_FILE}, got other data"
            )
        return dataset

    @cached_property
    def split(self) -> Split:
        """The dataset in three parts."""
        return _split(self.dataset, self.split_settings)

    @property
    def data_hash(self) -> str:
        """Hex sha256 of the data and the split: where the chain of hashes begins."""
        values = {"data": self.content_hash, "split": asdict(self.split_settings)}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

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
    return path.name != "dataset" and not is_temporary(path)
