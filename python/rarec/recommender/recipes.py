"""The named recipes: ours, the paper's, and the rivals, all from the same parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rarec.ids import IDConfig
from rarec.model import ModelConfig
from rarec.recommender.configs import AlignConfig
from rarec.training import LossConfig


@dataclass(frozen=True)
class Recipe:
    """A named setting.

    Attributes:
        what: In a few words, for tables.
        config: The setting.
    """

    what: str
    config: AlignConfig


def _recipes() -> dict[str, Recipe]:
    default = AlignConfig()

    def variant(**changes: Any) -> AlignConfig:
        return replace(default, model=replace(default.model, **changes))

    paper = replace(
        default,
        model=ModelConfig(similarity="dot", temperature=1.0),
        loss=LossConfig(prediction="bpr", alignment=0.1),
    )
    return {
        "default": Recipe("ID vectors and a prefix in the top three layers", default),
        "text": Recipe("a prefix in these layers, no ID vectors", default.without_ids()),
        "paper": Recipe("in each layer; dot product, BPR, alignment loss", paper),
        "all-layers": Recipe("in each layer", variant(layers=None)),
        "one-projector": Recipe("one projector for all layers", variant(projector="shared")),
        "no-prefix": Recipe("ID vectors alone, no shared prefix", variant(prefix_length=0)),
        "inputs": Recipe(
            "raw ID vectors as input tokens", variant(placement="inputs", projector="fixed")
        ),
        "project-inputs": Recipe(
            "projected ID vectors as input tokens", variant(placement="inputs")
        ),
        # the rates of these two: docs/decisions.md
        "lora": Recipe(
            "LoRA, projected ID vectors as input tokens",
            variant(placement="inputs", tune="lora", llm_rate=1.0),
        ),
        "full": Recipe(
            "all weights, projected ID vectors as input tokens",
            variant(placement="inputs", tune="full", llm_rate=0.03),
        ),
    }


RECIPES = {
    name: replace(
        recipe, config=replace(recipe.config, label="" if name in ("default", "text") else name)
    )
    for name, recipe in _recipes().items()
}


def recipe(preset: str = "default", **changes: Any) -> AlignConfig:
    """Return a named recipe, with changes.

    `default`: prefixes in the top three layers, cosine over a learned temperature, softmax in the
    batch with log-Q correction.
    `paper`: prefixes in all layers, dot product, BPR with in-batch negatives, alignment loss
    (arXiv:2402.04527).
    The rivals: `text` (prefix tuning); `all-layers`, `one-projector`, `no-prefix` (placements);
    `inputs` and `project-inputs` (the paper's RA-Rec Inputs and ProjectInputs); `lora` and `full`
    (language model tuned too).

    Args:
        preset: One of these names.
        **changes: Fields of `AlignConfig`.

    Raises:
        ValueError: If the preset is unknown.
    """
    if preset not in RECIPES:
        raise ValueError(f"expected preset to be one of {list(RECIPES)}, got {preset!r}")
    return replace(RECIPES[preset].config, **changes)


def id_recipe(**changes: Any) -> IDConfig:
    """Return the ID model of the default recipe, with changes.

    Items' vectors are made of their titles too, which the language model of the default recipe has
    read: so items without events have vectors, and on Beauty and MovieLens-100K it ranks better
    than one of IDs alone (on MovieTweetings about as well; docs/recipe.md).

    Args:
        **changes: Fields of `IDConfig`; `text=""` for IDs alone.
    """
    return replace(IDConfig(text=AlignConfig().llm), **changes)


def describe(name: str) -> str:
    """Return what a row of results is, in a few words; "" for a model of one's own."""
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
    return RECIPES[name].what if name in RECIPES else ""
