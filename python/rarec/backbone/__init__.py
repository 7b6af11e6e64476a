"""A frozen language model with a prefix in the attention of every layer."""

from rarec.backbone.backbone import POOLINGS, Backbone
from rarec.backbone.loading import load_backbone
from rarec.backbone.prepared import PreparedPrefixes
from rarec.backbone.quantization import QUANTIZATIONS

__all__ = ["POOLINGS", "QUANTIZATIONS", "Backbone", "PreparedPrefixes", "load_backbone"]
