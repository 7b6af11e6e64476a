"""Two towers over one frozen language model: layer projectors, layer prefixes, scores.

Yu et al. 2024 (arXiv:2402.04527), as written in DESIGN.md section 1.

Axes: B batch, T text tokens, L layers, H hidden size, E width of the ID vectors,
K ID tokens of an entity, P length of the layer prefix.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rarec.artifacts import read_config, write_config, write_folder
from rarec.backbone import Backbone, load_backbone
from rarec.ids import IDEmbeddings, load_ids
from rarec.prompts import PromptConfig

FORMAT = "rarec.model/1"
SIMILARITIES = ("cosine", "dot")
PROJECTORS = ("layers", "shared")


@dataclass(frozen=True)
class ModelConfig:
    """The parts of the model that are trained.

    Attributes:
        prefix_length: P learnable vectors in each layer, shared by the batch.
        prefix_rate: Their learning rate, as a multiple of that of the projectors.
        use_ids: False leaves the ID vectors out: text and layer prefix alone.
        layers: So many layers, from the top, take a prefix; None for all. Below them nothing
            changes, and no backward goes there.
        projector: `layers` has one of each layer, `shared` one for all (the layer prefix is of
            each layer in either).
        similarity: `cosine` over a learned temperature, or `dot` (the paper's).
        temperature: Its start value; scores of `dot` are divided by it too, unlearned.
        seed: Of the start values.
    """

    prefix_length: int = 8
    prefix_rate: float = 10.0
    use_ids: bool = True
    layers: int | None = None
    projector: str = "layers"
    similarity: str = "cosine"
    temperature: float = 0.07
    seed: int = 0

    def __post_init__(self) -> None:
        if self.similarity not in SIMILARITIES:
            raise ValueError(
                f"expected similarity to be one of {list(SIMILARITIES)}, got {self.similarity!r}"
            )
        if self.projector not in PROJECTORS:
            raise ValueError(
                f"expected projector to be one of {list(PROJECTORS)}, got {self.projector!r}"
            )
        if self.layers is not None and self.layers < 1:
            raise ValueError(f"expected layers >= 1, got {self.layers}")
        if self.prefix_length < 0:
            raise ValueError(f"expected prefix_length >= 0, got {self.prefix_length}")
        for name in ("temperature", "prefix_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"expected {name} > 0, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class EntityBatch:
    """Texts and ID vectors of B users or items.

    Attributes:
        input_ids: `[B, T]` int64.
        attention_mask: `[B, T]` int64.
        id_vectors: `[B, K, E]` float32, or None when no entity of the batch has any.
        has_id: `[B]` bool, false where the row of `id_vectors` means nothing (a cold entity).
            None when all have them.
    """

    input_ids: Tensor
    attention_mask: Tensor
    id_vectors: Tensor | None = None
    has_id: Tensor | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    def to(self, device: torch.device) -> EntityBatch:
        """Return the batch on `device`."""
        parts = (self.input_ids, self.attention_mask, self.id_vectors, self.has_id)
        return EntityBatch(*(None if part is None else part.to(device) for part in parts))  # type: ignore[arg-type]

    def take(self, rows: Tensor) -> EntityBatch:
        """Return the entities in `rows` (numbers or a mask), without columns that only pad."""
        mask = self.attention_mask[rows]
        used = mask.any(dim=0)
        return EntityBatch(
            self.input_ids[rows][:, used],
            mask[:, used],
            None if self.id_vectors is None else self.id_vectors[rows],
            None if self.has_id is None else self.has_id[rows],
        )


class Tower(nn.Module):
    """The trained part of one side: what turns ID vectors into a prefix of each layer.

    Args:
        n_layers: L.
        hidden_size: H.
        id_dim: E; 0 builds no projectors.
        prefix_length: P.
        generator: Of the start values.
        one_projector: All layers have the same.
    """

    id_scale: Tensor

    def __init__(
        self,
        n_layers: int,
        hidden_size: int,
        id_dim: int,
        prefix_length: int,
        generator: torch.Generator,
        *,
        one_projector: bool = False,
    ) -> None:
        super().__init__()

        def normal(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) * std)

        self.id_dim = id_dim
        self.n_layers = n_layers
        self.prefix = normal(n_layers, prefix_length, hidden_size, std=0.25)
        if id_dim:
            n_projectors = 1 if one_projector else n_layers
            std = 0.25 / math.sqrt(id_dim)
            self.projector = normal(n_projectors, hidden_size, id_dim, std=std)
            self.projector_bias = nn.Parameter(torch.zeros(n_projectors, hidden_size))
            self.register_buffer("id_scale", torch.ones(()))

    @torch.no_grad()
    def set_id_scale(self, id_vectors: Tensor) -> None:
        """Divide ID vectors by their root mean square from now on, whatever their source."""
        self.id_scale.fill_(float(id_vectors.float().square().mean().sqrt().clamp_min(1e-12)))

    def project(self, id_vectors: Tensor) -> Tensor:
        """Return `[L, B, K, H]`: `p[l] = W[l] e + b[l]` (DESIGN.md section 1.2).

        Args:
            id_vectors: `[B, K, E]`.
        """
        scaled = id_vectors.to(self.projector.dtype) / self.id_scale
        projected = torch.einsum("bke,lhe->lbkh", scaled, self.projector)
        projected = projected + self.projector_bias[:, None, None]
        return projected.expand(self.n_layers, -1, -1, -1)

    def soft_prompts(self, id_vectors: Tensor) -> Tensor:
        """Return `[B, L, H]`: the mean of `d[l] = concat(c[l], p[l])`, for the alignment loss."""
        own = self.project(id_vectors)  # [L, B, K, H]
        n_tokens = self.prefix.shape[1] + own.shape[2]
        total = self.prefix.sum(dim=1)[:, None] + own.sum(dim=2)
        return (total / n_tokens).transpose(0, 1)


class RARec(nn.Module):
    """User and item towers over one frozen backbone.

    Args:
        backbone: Frozen; not a parameter of this module and not in its state.
        user_id_dim: Width of the users' ID vectors.
        item_id_dim: Width of the items' ID vectors.
        config: What is trained.
        prompts: How the texts are made that it is trained on; kept with the model.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        user_id_dim: int,
        item_id_dim: int,
        config: ModelConfig | None = None,
        prompts: PromptConfig | None = None,
    ) -> None:
        super().__init__()
        # not `config`: the trainer of transformers writes into a model's config
        self.model_config = config or ModelConfig()
        self.prompts = prompts or PromptConfig()
        # hidden from torch, so that neither checkpoints nor optimisers see the frozen weights
        object.__setattr__(self, "backbone", backbone)
        generator = torch.Generator().manual_seed(self.model_config.seed)
        layers = self.model_config.layers
        n_layers = backbone.n_layers if layers is None else layers
        if n_layers > backbone.n_layers:
            raise ValueError(f"expected at most {backbone.n_layers} layers, got {n_layers}")
        shape = (n_layers, backbone.hidden_size)
        uses = int(self.model_config.use_ids)
        length = self.model_config.prefix_length
        one = self.model_config.projector == "shared"
        self.user = Tower(*shape, uses * user_id_dim, length, generator, one_projector=one)
        self.item = Tower(*shape, uses * item_id_dim, length, generator, one_projector=one)
        temperature = torch.tensor(math.log(self.model_config.temperature))
        self.log_temperature = nn.Parameter(
            temperature, requires_grad=self.model_config.similarity == "cosine"
        )
        self.to(backbone.device)

    backbone: Backbone

    def forward(self, users: EntityBatch, items: EntityBatch) -> tuple[Tensor, Tensor]:
        """Return representations `[B, H]` of users and `[C, H]` of items."""
        device = self.backbone.device
        return (
            self.encode(self.user, users.to(device)),
            self.encode(self.item, items.to(device)),
        )

    def encode(self, tower: Tower, batch: EntityBatch) -> Tensor:
        """Return `[B, H]` float32: representations of users or items; unit length if cosine.

        Entities without an ID vector are read with the layer prefix alone.
        """
        if tower.id_dim and batch.id_vectors is not None and batch.has_id is not None:
            return self._encode_mixed(tower, batch, batch.has_id)
        own = None
        if tower.id_dim and batch.id_vectors is not None:
            own = tower.project(batch.id_vectors)
        states = self.backbone.last_hidden_states(
            batch.input_ids, batch.attention_mask, shared=tower.prefix, own=own
        )
        pooled = self.backbone.pool(states, batch.attention_mask).float()
        return F.normalize(pooled, dim=-1) if self.model_config.similarity == "cosine" else pooled

    def _encode_mixed(self, tower: Tower, batch: EntityBatch, has_id: Tensor) -> Tensor:
        warm = EntityBatch(batch.input_ids, batch.attention_mask, batch.id_vectors)
        if bool(has_id.all()):
            return self.encode(tower, warm)
        cold = EntityBatch(batch.input_ids, batch.attention_mask)
        if not bool(has_id.any()):
            return self.encode(tower, cold)
        parts = torch.cat(
            [self.encode(tower, warm.take(has_id)), self.encode(tower, cold.take(~has_id))]
        )
        order = torch.cat([has_id.nonzero()[:, 0], (~has_id).nonzero()[:, 0]])
        return parts[order.argsort()]

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Return `[B, N]`: inner products of representations over the temperature."""
        return users @ items.T * torch.exp(-self.log_temperature)

    def n_trainable(self) -> int:
        """Return the number of trained parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def description(self) -> dict[str, Any]:
        """Return how the model is built, as JSON can hold it."""
        return {
            "llm": self.backbone.name,
            "llm_revision": self.backbone.revision,
            "pooling": self.backbone.pooling,
            "user_id_dim": self.user.id_dim,
            "item_id_dim": self.item.id_dim,
            "model": asdict(self.model_config),
            "prompts": asdict(self.prompts),
        }

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, ids: IDEmbeddings | str | None = None
    ) -> None:
        """Write what was trained as a folder: config.json, adapter.safetensors.

        The language model is kept by name (and revision), so the folder holds a few MB.

        Args:
            folder: New, empty, or a model that is replaced.
            ids: The ID embeddings, to be kept inside as `ids/`; or where they are, a path from
                the folder.
        """
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        with write_folder(folder) as temporary:
            save_file(tensors, temporary / "adapter.safetensors")
            place = ids
            if ids is not None and not isinstance(ids, str):
                place = "ids"
                ids.save(temporary / place)
            write_config(temporary, FORMAT, {**self.description(), "ids": place})

    @staticmethod
    def language_model_of(folder: str | os.PathLike[str]) -> tuple[str, str | None, str]:
        """Return name, revision and pooling of the language model that a folder needs."""
        stored = read_config(folder, FORMAT)
        return stored["llm"], stored["llm_revision"], stored["pooling"]

    @staticmethod
    def ids_of(folder: str | os.PathLike[str]) -> IDEmbeddings | None:
        """Return the ID embeddings kept with a model or referred to by it; None without any.

        Raises:
            ValueError: If the folder holds no model, or they are not where it says.
        """
        place = read_config(folder, FORMAT)["ids"]
        return None if place is None else load_ids(Path(folder) / place)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, backbone: Backbone | None = None
    ) -> RARec:
        """Return the model of a folder.

        Args:
            folder: What `save_pretrained` wrote.
            backbone: The language model, if it is already there; else it is loaded by its name.

        Raises:
            ValueError: If the folder holds no model, or one that the backbone does not fit.
        """
        stored = read_config(folder, FORMAT)
        if backbone is None:
            name, revision, pooling = cls.language_model_of(folder)
            backbone, _ = load_backbone(name, revision=revision, pooling=pooling)
        if backbone.pooling != stored["pooling"]:
            raise ValueError(
                f"{folder}: expected a backbone with {stored['pooling']} pooling, "
                f"got {backbone.pooling}"
            )
        model = cls(
            backbone,
            user_id_dim=stored["user_id_dim"],
            item_id_dim=stored["item_id_dim"],
            config=ModelConfig(**stored["model"]),
            prompts=PromptConfig(**stored["prompts"]),
        )
        file = Path(folder) / "adapter.safetensors"
        try:
            model.load_state_dict(load_file(file))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ValueError(
                f"{file}: expected the adapter of a model over {stored['llm']!r} ({error})"
            ) from error
        return model.eval()
