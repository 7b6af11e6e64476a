"""rarec: collaborative ID embeddings as soft prompts of a frozen language model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rarec.assets import fetch as fetch
    from rarec.data import Dataset as Dataset
    from rarec.data import leave_one_out as leave_one_out
    from rarec.data import read_dataset as read_dataset
    from rarec.data import split_by_time as split_by_time
    from rarec.ids import GivenIDs as GivenIDs
    from rarec.ids import IDConfig as IDConfig
    from rarec.ids import read_vectors as read_vectors
    from rarec.index import ItemIndex as ItemIndex
    from rarec.model import ModelConfig as ModelConfig
    from rarec.model import RARec as RARec
    from rarec.prompts import PromptConfig as PromptConfig
    from rarec.recommender import AlignConfig as AlignConfig
    from rarec.recommender import Recommender as Recommender
    from rarec.recommender import SplitConfig as SplitConfig
    from rarec.recommender import id_recipe as id_recipe
    from rarec.recommender import recipe as recipe
    from rarec.selection import SelectionConfig as SelectionConfig
    from rarec.training import LossConfig as LossConfig

# imported when first asked for: torch and transformers take seconds, `rarec --help` should not
_MODULES = {
    "fetch": "assets",
    "Dataset": "data",
    "leave_one_out": "data",
    "read_dataset": "data",
    "split_by_time": "data",
    "GivenIDs": "ids",
    "IDConfig": "ids",
    "read_vectors": "ids",
    "ItemIndex": "index",
    "ModelConfig": "model",
    "RARec": "model",
    "PromptConfig": "prompts",
    "AlignConfig": "recommender",
    "Recommender": "recommender",
    "SplitConfig": "recommender",
    "id_recipe": "recommender",
    "recipe": "recommender",
    "SelectionConfig": "selection",
    "LossConfig": "training",
}
__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'rarec' has no attribute {name!r}")
    return getattr(import_module(f"rarec.{_MODULES[name]}"), name)
