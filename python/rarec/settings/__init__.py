"""Every setting of rarec: each stated once, with its range, its default and what it means.

Nothing here imports torch, so the command line shows its help at once.
"""

from rarec.settings.align import RESERVED_NAMES, AlignSettings
from rarec.settings.data import ColumnSettings, PrepareSettings, ReadSettings, SplitSettings
from rarec.settings.declaration import CountOrZero, Seed, fields_of, typed
from rarec.settings.ids import ID_MODEL_OPTIONS, FitSettings, IDSettings
from rarec.settings.language_model import DEFAULT_LLM
from rarec.settings.loss import LossSettings
from rarec.settings.model import ModelSettings
from rarec.settings.prompts import PromptSettings
from rarec.settings.selection import SelectionSettings
from rarec.settings.training import TrainingSettings
from rarec.settings.values import (
    as_dict,
    differences,
    flatten,
    from_dict,
    parse_assignments,
    read_values,
    to_toml,
    with_values,
)
from rarec.settings.variants import VARIANTS, Variant, describe, variant

__all__ = [
    "DEFAULT_LLM",
    "ID_MODEL_OPTIONS",
    "RESERVED_NAMES",
    "VARIANTS",
    "AlignSettings",
    "ColumnSettings",
    "CountOrZero",
    "FitSettings",
    "IDSettings",
    "LossSettings",
    "ModelSettings",
    "PrepareSettings",
    "PromptSettings",
    "ReadSettings",
    "Seed",
    "SelectionSettings",
    "SplitSettings",
    "TrainingSettings",
    "Variant",
    "as_dict",
    "describe",
    "differences",
    "fields_of",
    "flatten",
    "from_dict",
    "parse_assignments",
    "read_values",
    "to_toml",
    "typed",
    "variant",
    "with_values",
]
