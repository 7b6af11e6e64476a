"""Two towers over one language model."""

from rarec.model.entities import EntityBatch
from rarec.model.model import ADAPTER, RARec
from rarec.model.tower import Tower

__all__ = ["ADAPTER", "EntityBatch", "RARec", "Tower"]
