"""rarec: collaborative ID embeddings as soft prompts of a frozen language model."""

from rarec.assets import fetch
from rarec.data import Dataset, leave_one_out, read_dataset, split_by_time
from rarec.ids import GivenIDs, IDConfig, read_vectors
from rarec.index import ItemIndex
from rarec.model import ModelConfig, RARec
from rarec.prompts import PromptConfig
from rarec.recommender import AlignConfig, Recommender, SplitConfig, recipe
from rarec.selection import SelectionConfig
from rarec.training import LossConfig

__all__ = [
    "AlignConfig",
    "Dataset",
    "GivenIDs",
    "IDConfig",
    "ItemIndex",
    "LossConfig",
    "ModelConfig",
    "PromptConfig",
    "RARec",
    "Recommender",
    "SelectionConfig",
    "SplitConfig",
    "fetch",
    "leave_one_out",
    "read_dataset",
    "read_vectors",
    "recipe",
    "split_by_time",
]
