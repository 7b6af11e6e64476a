"""Fit, evaluate, recommend, save and load: the whole path."""

from rarec.recommender.aligned import AlignedModel
from rarec.recommender.alignment import align
from rarec.recommender.comparison import (
    PAIRED_METRICS,
    PARTS,
    fused_name,
    ranks_without_model,
)
from rarec.recommender.configs import AlignConfig, SplitConfig
from rarec.recommender.fusion import LateFusion
from rarec.recommender.recipes import RECIPES, describe, id_recipe, recipe
from rarec.recommender.recommender import Recommender
from rarec.recommender.settings import flatten, with_settings

__all__ = [
    "PAIRED_METRICS",
    "PARTS",
    "RECIPES",
    "AlignConfig",
    "AlignedModel",
    "LateFusion",
    "Recommender",
    "SplitConfig",
    "align",
    "describe",
    "flatten",
    "fused_name",
    "id_recipe",
    "ranks_without_model",
    "recipe",
    "with_settings",
]
