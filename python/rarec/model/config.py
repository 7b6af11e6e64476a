"""What of a model is trained, and where it stands in the language model."""

from __future__ import annotations

from dataclasses import dataclass

PLACEMENTS = ("layers", "inputs")
PROJECTORS = ("layers", "shared", "fixed")
SIMILARITIES = ("cosine", "dot")
TUNED = ("none", "lora", "full")


@dataclass(frozen=True)
class ModelConfig:
    """The parts of the model that are trained.

    Attributes:
        placement: Where the soft prompt stands: `layers`, as a prefix in the attention of each
            layer (RA-Rec); `inputs`, as vectors before the text's token embeddings (the paper's
            rivals RA-Rec Inputs and RA-Rec ProjectInputs).
        layers: So many layers, from the top, take a prefix; None for all. Below them nothing
            changes, and no backward goes there.
        prefix_length: P learnable vectors in each layer (or before the text), shared by the batch.
        prefix_rate: Their learning rate, as a multiple of that of the projectors.
        use_ids: False leaves the ID vectors out: text and learnable vectors alone.
        projector: `layers` has one of each layer, `shared` one for all (the learnable vectors are
            of each layer in either); `fixed` is a rotation into the model's width that is not
            trained: the ID vectors raw.
        item_tokens: A user's ID tokens are the ID model's vectors of the user and those of so many
            newest items of the history, the newest last. An item without a vector, and a place
            before the start of a history, is a zero vector (which comes out as the projector's
            bias). A user without vectors has no item tokens either.
        normalize_ids: Each ID vector is scaled to length one before it is projected. This one and
            `item_tokens` are done by whoever makes what the towers read (`AlignedModel`).
        tune: Weights of the language model that are trained: `none`; `lora`, matrices of low rank
            beside those of its attention (Hu et al. 2021, arXiv:2106.09685; through `peft`);
            `full`, all.
        llm_rate: Their learning rate, as a multiple of that of the projectors.
        lora_rank: Rank of these matrices.
        lora_alpha: Their product counts `lora_alpha / lora_rank` times.
        similarity: `cosine` over a learned temperature, or `dot` (the paper's).
        temperature: Its start value; scores of `dot` are divided by it too, unlearned.
        seed: Of the start values.
    """

    placement: str = "layers"
    layers: int | None = None
    prefix_length: int = 8
    prefix_rate: float = 10.0
    use_ids: bool = True
    projector: str = "layers"
    item_tokens: int = 0
    normalize_ids: bool = False
    tune: str = "none"
    llm_rate: float = 0.1
    lora_rank: int = 8
    lora_alpha: int = 16
    similarity: str = "cosine"
    temperature: float = 0.07
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("placement", PLACEMENTS),
            ("projector", PROJECTORS),
            ("tune", TUNED),
            ("similarity", SIMILARITIES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"expected {name} to be one of {list(known)}, got {getattr(self, name)!r}"
                )
        at_least = {"layers": 1, "prefix_length": 0, "item_tokens": 0, "lora_rank": 1}
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"expected {name} >= {least}, got {value}")
        for name in ("temperature", "prefix_rate", "llm_rate", "lora_alpha"):
            if not getattr(self, name) > 0:
                raise ValueError(f"expected {name} > 0, got {getattr(self, name)}")
        if self.placement == "inputs" and self.layers is not None:
            raise ValueError(
                f"expected layers with placement 'layers' alone, got {self.layers} with 'inputs'"
            )
        trains_projector = self.use_ids and self.projector != "fixed"
        if self.tune == "none" and not self.prefix_length and not trains_projector:
            raise ValueError(
                "expected something to train: a prefix, a projector of ID vectors, or the "
                "language model; got none"
            )
