"""A frozen language model with a prefix in the attention of every layer."""

from rarec.backbone.backbone import POOLINGS, Backbone
from rarec.backbone.loading import load_backbone

__all__ = ["POOLINGS", "Backbone", "load_backbone"]
