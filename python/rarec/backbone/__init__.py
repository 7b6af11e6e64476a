"""A frozen language model with a prefix in the attention of every layer."""

from rarec.backbone.backbone import POOLINGS, Backbone
from rarec.backbone.loading import load_backbone
from rarec.backbone.prepared import PreparedPrefixes

__all__ = ["POOLINGS", "Backbone", "PreparedPrefixes", "load_backbone"]
