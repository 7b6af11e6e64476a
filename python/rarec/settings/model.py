"""Settings of the trained parts of the model."""

from __future__ import annotations

from typing import Literal

from rarec.settings.declaration import Count, CountOrZero, Positive, Share, typed


@typed
class ModelSettings:
    """Which parts of the model are trained, and where they stand in the language model."""

    placement: Literal["layers", "inputs"] = "layers"
    """Place of the soft prompt: a prefix in the attention of each layer (RA-Rec), or vectors before
    the token embeddings of the text (RA-Rec Inputs and ProjectInputs in the paper)."""
    layers: Count | Literal["all"] = 3
    """Number of layers from the top that take a prefix, or "all". The layers below do not change,
    and no gradient goes there. It has no effect with placement "inputs"."""
    prefix_length: CountOrZero = 8
    """Number P of learnable vectors in each layer (or before the text). All samples share them."""
    prefix_rate: Positive = 10.0
    """Learning rate of the learnable vectors, as a multiple of the one of the projectors."""
    prefix_norm: bool = False
    """Pass the prefix through the frozen norm before the attention of its layer, as the states of
    the text are. Then the direction of the prefix counts and its size does not."""
    use_ids: bool = True
    """Read ID vectors. Without them text and learnable vectors are left (prefix tuning)."""
    projector: Literal["layers", "shared", "fixed"] = "layers"
    """Projectors of the ID vectors: one for each layer, one for all layers, or a fixed rotation
    that is not trained (raw ID vectors)."""
    id_dropout: Share = 0.0
    """Share of the users and items whose ID vectors are left out in a training step, so that they
    are read as cold ones."""
    item_tokens: CountOrZero = 0
    """Number of newest items of the history whose ID vectors follow those of the user."""
    id_score: Literal["none", "fixed", "learned"] = "none"
    """Whether the score of the ID model is added to the score in training (a product of experts):
    not, with the weight `id_weight`, or with a learned weight that is `id_weight` at first."""
    id_weight: Positive = 1.0
    """Weight of the score of the ID model in training."""
    tune: Literal["none", "lora", "full"] = "none"
    """Weights of the language model that are trained: none, LoRA matrices in its attention (Hu et
    al. 2021, arXiv:2106.09685), or all."""
    llm_rate: Positive = 0.1
    """Learning rate of these weights, as a multiple of the one of the projectors."""
    lora_rank: Count = 8
    """Rank of the LoRA matrices."""
    lora_alpha: Count = 16
    """The product of the LoRA matrices is multiplied by `lora_alpha / lora_rank`."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """Score of a user and an item: the cosine, or the dot product (the paper's)."""
    temperature: Positive = 0.07
    """The score is divided by the temperature. With the cosine it is the initial value."""
    learn_temperature: bool = True
    """Whether the temperature of the cosine is trained."""

    def __post_init__(self) -> None:
        if self.prefix_norm and self.placement != "layers":
            raise ValueError(
                f"expected prefix_norm with placement 'layers' alone, got {self.placement!r}"
            )
        trains_projector = self.use_ids and self.projector != "fixed"
        if not self.prefix_length and not trains_projector and self.tune == "none":
            raise ValueError(
                "expected something to train: a prefix, a projector of ID vectors, or the "
                "language model; got none"
            )
