"""The named variants of the method: ours, the paper's, and the baselines made of the same parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rarec.settings.align import AlignSettings
from rarec.settings.loss import LossSettings
from rarec.settings.model import ModelSettings
from rarec.settings.values import with_values


@dataclass(frozen=True)
class Variant:
    """Settings with a name.

    Attributes:
        what: Description in a few words, for tables.
        settings: The settings.
    """

    what: str
    settings: AlignSettings


def _variants() -> dict[str, Variant]:
    default = AlignSettings()

    def model(**changes: Any) -> AlignSettings:
        return dataclasses.replace(default, model=dataclasses.replace(default.model, **changes))

    paper = dataclasses.replace(
        default,
        model=ModelSettings(layers="all", similarity="dot", temperature=1.0),
        loss=LossSettings(prediction="bpr", alignment=0.1),
    )
    return {
        "default": Variant("ID vectors and a prefix in the top three layers", default),
        "text": Variant("a prefix in these layers, no ID vectors", default.without_ids()),
        "paper": Variant("in each layer; dot product, BPR, alignment loss", paper),
        "all-layers": Variant("in each layer", model(layers="all")),
        "one-projector": Variant("one projector for all layers", model(projector="shared")),
        "no-prefix": Variant("ID vectors alone, no learnable vectors", model(prefix_length=0)),
        "inputs": Variant(
            "raw ID vectors as input tokens", model(placement="inputs", projector="fixed")
        ),
        "project-inputs": Variant(
            "projected ID vectors as input tokens", model(placement="inputs")
        ),
        # the learning rates of these two: docs/decisions.md
        "lora": Variant(
            "LoRA, projected ID vectors as input tokens",
            model(placement="inputs", tune="lora", llm_rate=1.0),
        ),
        "full": Variant(
            "all weights, projected ID vectors as input tokens",
            model(placement="inputs", tune="full", llm_rate=0.03),
        ),
    }


def _named(name: str, variant: Variant) -> Variant:
    # `default` and `text` are called `rarec` and `text` by themselves
    if name in ("default", "text"):
        return variant
    return Variant(variant.what, dataclasses.replace(variant.settings, name=name))


VARIANTS: Mapping[str, Variant] = {name: _named(name, one) for name, one in _variants().items()}


def variant(
    name: str = "default", values: Mapping[str, Any] | None = None, /, **changes: Any
) -> AlignSettings:
    """Return the settings of a named variant, with changes.

    `default`: prefixes in the top three layers, cosine over a learned temperature, softmax in the
    batch with log-Q correction.
    `paper`: prefixes in all layers, dot product, BPR with in-batch negatives, alignment loss
    (Yu et al. 2024, arXiv:2402.04527).
    Baselines: `text` (prefix tuning); `all-layers`, `one-projector`, `no-prefix` (other
    placements); `inputs` and `project-inputs` (RA-Rec Inputs and ProjectInputs in the paper);
    `lora` and `full` (the language model is tuned, too).

    Args:
        name: Name of the variant.
        values: Changes by dotted name, such as `{"model.layers": 2}`.
        **changes: Changes of fields of `AlignSettings`.

    Raises:
        ValueError: If the name is unknown, or a change is refused.

    Example:
        >>> variant("paper", seed=7).loss.prediction
        'bpr'
    """
    if name not in VARIANTS:
        raise ValueError(f"expected a variant of {list(VARIANTS)}, got {name!r}")
    return with_values(dataclasses.replace(VARIANTS[name].settings, **changes), values or {})


def describe(name: str) -> str:
    """Return in a few words what a row of results is; empty for a model that has no variant."""
    others = {
        "popularity": "most seen first",
        "id": "ID model, all samples",
        "id_held_out": "ID model without the tuning samples",
        "late_fusion": "text + w x id, w from validation",
    }
    if name in others:
        return others[name]
    if name.endswith("+id"):
        return f"{name.removesuffix('+id')} + w x id, w from validation"
    name = "default" if name == "rarec" else name
    return VARIANTS[name].what if name in VARIANTS else ""
