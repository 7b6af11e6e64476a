"""Fit, evaluate, recommend, save and load: the whole path."""

from rarec.recommender.aligned import AlignedModel
from rarec.recommender.configs import AlignConfig, SplitConfig, recipe
from rarec.recommender.recommender import Recommender

__all__ = ["AlignConfig", "AlignedModel", "Recommender", "SplitConfig", "recipe"]
