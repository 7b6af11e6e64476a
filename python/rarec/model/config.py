"""What of a model is trained, and where it stands in the language model."""

from __future__ import annotations

from dataclasses import dataclass

PLACEMENTS = ("layers", "inputs")
POOLS = ("backbone", "attention")
PROJECTOR_STARTS = ("random", "ridge")
PROJECTORS = ("layers", "shared", "fixed")
SIMILARITIES = ("cosine", "dot")
ID_SCORES = ("none", "fixed", "learned")
TUNED = ("none", "lora", "full")


@dataclass(frozen=True)
class ModelConfig:
    """The parts of the model that are trained.

    Attributes:
        placement: Where the soft prompt stands: `layers`, as a prefix in the attention of each
            layer (RA-Rec); `inputs`, as vectors before the text's token embeddings (the paper's
            rivals RA-Rec Inputs and RA-Rec ProjectInputs).
        layers: So many layers at most, from the top, take a prefix; None for all. Below them
            nothing changes, and no backward goes there. Of no meaning with `inputs`.
        prefix_length: P learnable vectors in each layer (or before the text), shared by the batch.
        prefix_rate: Their learning rate, as a multiple of that of the projectors.
        prompt_size: Root mean square of soft prompts at the start, those of ID vectors included, as
            a multiple of that of the states they stand beside. Training moves them in the same
            proportion.
        prefix_norm: Prefixes pass through the frozen norm whose output their layer's attention
            reads, as the text's states do, so that their direction counts and their size does not
            (DESIGN.md section 1.4). The alignment loss reads them before it.
        use_ids: False leaves the ID vectors out: text and learnable vectors alone.
        projector: `layers` has one of each layer, `shared` one for all (the learnable vectors are
            of each layer in either); `fixed` is a rotation into the model's width that is not
            trained: the ID vectors raw.
        projector_start: `random`; or `ridge`, the ridge regression of the texts' states in each
            layer on the ID vectors, made by `rarec.recommender` before training.
        projector_rank: Each projector is the product of two matrices of this rank; None for one
            matrix of any rank.
        gate: Multiply what each layer has of ID vectors by a learned number, 1 at the start.
        id_dropout: Share of entities that are read as cold ones in training, all their ID vectors
            left out: drawn anew in each batch.
        id_noise: Standard deviation of the Gaussian noise added to ID vectors in training, as a
            multiple of their root mean square. The alignment loss reads them without it.
        pool: How a text's last states become one: as the `backbone` does, or by `attention` of a
            learned query of each side to them, which starts as their mean. The text-only states
            of the alignment loss stay those of the backbone.
        item_tokens: A user's ID tokens are the ID model's vectors of the user and those of so many
            newest items of the history, the newest last. An item without a vector, and a place
            before the start of a history, is a zero vector (which comes out as the projector's
            bias). A user without vectors has no item tokens either.
        normalize_ids: Each ID vector is scaled to length one before it is projected. This one and
            `item_tokens` are done by whoever makes what the towers read (`AlignedModel`).
        id_score: The ID model's score of the samples is added to the model's own in training, so
            that this learns what that one does not know (a product of experts): `none`; `fixed`,
            times `id_weight`; `learned`, times a learned number that starts there.
        id_weight: See `id_score`.
        tune: Weights of the language model that are trained: `none`; `lora`, matrices of low rank
            beside those of its attention (Hu et al. 2021, arXiv:2106.09685; through `peft`);
            `full`, all.
        llm_rate: Their learning rate, as a multiple of that of the projectors.
        lora_rank: Rank of these matrices.
        lora_alpha: Their product counts `lora_alpha / lora_rank` times.
        similarity: `cosine` or `dot` (the paper's), over a temperature.
        temperature: Its value at the start.
        learn_temperature: Whether that of `cosine` is trained too; that of `dot` never is.
        seed: Of the start values.
    """

    placement: str = "layers"
    layers: int | None = None
    prefix_length: int = 8
    prefix_rate: float = 10.0
    prompt_size: float = 0.5
    prefix_norm: bool = False
    use_ids: bool = True
    projector: str = "layers"
    projector_start: str = "random"
    projector_rank: int | None = None
    gate: bool = False
    id_dropout: float = 0.0
    id_noise: float = 0.0
    pool: str = "backbone"
    item_tokens: int = 0
    normalize_ids: bool = False
    id_score: str = "none"
    id_weight: float = 1.0
    tune: str = "none"
    llm_rate: float = 0.1
    lora_rank: int = 8
    lora_alpha: int = 16
    similarity: str = "cosine"
    temperature: float = 0.07
    learn_temperature: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("placement", PLACEMENTS),
            ("projector", PROJECTORS),
            ("projector_start", PROJECTOR_STARTS),
            ("pool", POOLS),
            ("id_score", ID_SCORES),
            ("tune", TUNED),
            ("similarity", SIMILARITIES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"expected {name} to be one of {list(known)}, got {getattr(self, name)!r}"
                )
        for name, least in (
            ("layers", 1),
            ("prefix_length", 0),
            ("item_tokens", 0),
            ("lora_rank", 1),
            ("projector_rank", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"expected {name} >= {least}, got {value}")
        positive = (
            "temperature",
            "prefix_rate",
            "prompt_size",
            "id_weight",
            "llm_rate",
            "lora_alpha",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"expected {name} > 0, got {getattr(self, name)}")
        # not `<`: a nan is refused too
        if not 0 <= self.id_dropout < 1:
            raise ValueError(f"expected 0 <= id_dropout < 1, got {self.id_dropout}")
        if not self.id_noise >= 0:
            raise ValueError(f"expected id_noise >= 0, got {self.id_noise}")
        for name in ("gate", "learn_temperature", "prefix_norm"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(
                    f"expected {name} to be True or False, got {getattr(self, name)!r}"
                )
        self._check_together()

    def _check_together(self) -> None:
        if self.prefix_norm and self.placement != "layers":
            raise ValueError(
                f"expected prefix_norm with prefixes in layers alone, got {self.placement!r}"
            )
        if self.projector_start != "random" and self.projector == "fixed":
            raise ValueError(
                "expected projector_start with a trained projector alone, "
                f"got {self.projector_start!r} with 'fixed'"
            )
        if self.projector_rank is not None and self.projector == "fixed":
            raise ValueError(
                "expected projector_rank with a trained projector alone, "
                f"got {self.projector_rank} with 'fixed'"
            )
        trains_projector = self.use_ids and (self.projector != "fixed" or self.gate)
        trains_another = trains_projector or self.pool == "attention" or self.tune != "none"
        if not self.prefix_length and not trains_another:
            raise ValueError(
                "expected something to train: a prefix, a projector or gate of ID vectors, a pool "
                "by attention, or the language model; got none"
            )
