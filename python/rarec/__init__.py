"""rarec: collaborative ID embeddings as soft prompts of a frozen language model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rarec.assets import fetch as fetch
    from rarec.data import DataError as DataError
    from rarec.data import Dataset as Dataset
    from rarec.data import Histories as Histories
    from rarec.data import leave_one_out as leave_one_out
    from rarec.data import read_dataset as read_dataset
    from rarec.data import split_by_time as split_by_time
    from rarec.ids import GivenIDs as GivenIDs
    from rarec.ids import TrainedIDs as TrainedIDs
    from rarec.ids import read_vectors as read_vectors
    from rarec.index import ItemIndex as ItemIndex
    from rarec.index import Recommendation as Recommendation
    from rarec.model import RARec as RARec
    from rarec.recommender import Recommender as Recommender
    from rarec.run import RunFolder as RunFolder
    from rarec.settings import AlignSettings as AlignSettings
    from rarec.settings import ColumnSettings as ColumnSettings
    from rarec.settings import FitSettings as FitSettings
    from rarec.settings import IDSettings as IDSettings
    from rarec.settings import LossSettings as LossSettings
    from rarec.settings import ModelSettings as ModelSettings
    from rarec.settings import PromptSettings as PromptSettings
    from rarec.settings import ReadSettings as ReadSettings
    from rarec.settings import SelectionSettings as SelectionSettings
    from rarec.settings import SplitSettings as SplitSettings
    from rarec.settings import TrainingSettings as TrainingSettings
    from rarec.settings import variant as variant
    from rarec.study import read_study as read_study
    from rarec.study import run_study as run_study

    __version__: str

# imported when first asked for: torch and transformers take seconds, `rarec --help` should not
_NAMES = {
    "assets": ("fetch",),
    "data": (
        *("DataError", "Dataset", "Histories"),
        *("leave_one_out", "read_dataset", "split_by_time"),
    ),
    "ids": ("GivenIDs", "TrainedIDs", "read_vectors"),
    "index": ("ItemIndex", "Recommendation"),
    "model": ("RARec",),
    "recommender": ("Recommender",),
    "run": ("RunFolder",),
    "settings": (
        *("AlignSettings", "ColumnSettings", "FitSettings", "IDSettings", "LossSettings"),
        *("ModelSettings", "PromptSettings", "ReadSettings", "SelectionSettings"),
        *("SplitSettings", "TrainingSettings", "variant"),
    ),
    "study": ("read_study", "run_study"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = ["__version__", *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("rarec")
    if name not in _MODULES:
        raise AttributeError(f"module 'rarec' has no attribute {name!r}")
    return getattr(import_module(f"rarec.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
