"""Two towers over one language model."""

from rarec.model.config import ModelConfig
from rarec.model.entities import EntityBatch
from rarec.model.model import ADAPTER, RARec
from rarec.model.ridge import ridge
from rarec.model.tower import Tower

__all__ = ["ADAPTER", "EntityBatch", "ModelConfig", "RARec", "Tower", "ridge"]
