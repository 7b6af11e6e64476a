"""Fit, evaluate, recommend, save and load: the whole path."""

from rarec.recommender.aligned import AlignedModel
from rarec.recommender.comparison import PAIRED_METRICS
from rarec.recommender.configs import AlignConfig, SplitConfig
from rarec.recommender.recipes import RECIPES, describe, recipe
from rarec.recommender.recommender import Recommender

__all__ = [
    "PAIRED_METRICS",
    "RECIPES",
    "AlignConfig",
    "AlignedModel",
    "Recommender",
    "SplitConfig",
    "describe",
    "recipe",
]
