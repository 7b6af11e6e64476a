"""Two towers over one language model: soft prompts, representations, scores.

Yu et al. 2024 (arXiv:2402.04527), as written in DESIGN.md section 1.

Axes: B batch, C candidate items, H hidden size, E width of the ID vectors, K ID tokens of an
entity, P learnable vectors.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rarec.artifacts import read_config, write_config, write_folder
from rarec.backbone import Backbone, LanguageModel, PreparedPrefixes
from rarec.ids import IDEmbeddings, load_ids
from rarec.model.config import ModelConfig
from rarec.model.entities import EntityBatch
from rarec.model.tower import Tower
from rarec.prompts import PromptConfig

FORMAT = "rarec.model/2"
ADAPTER = "adapter.safetensors"


class RARec(nn.Module):
    """User and item towers over one backbone.

    Args:
        backbone: Frozen, and then no parameter of this module and not in its state; or, with
            `config.tune`, changed in place: the weights that are trained are in both.
        user_id_dim: Width of the users' ID vectors.
        item_id_dim: Width of the items' ID vectors.
        config: What is trained.
        prompts: How the texts are made that it is trained on; kept with the model.

    Raises:
        ValueError: If the backbone's weights are to be trained and already are, by another model;
            if prefixes are to pass through norms that it does not have.
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
        self.model_config = config = config or ModelConfig()
        self.prompts = prompts or PromptConfig()
        # hidden from torch, so that neither checkpoints nor optimisers see the frozen weights
        object.__setattr__(self, "backbone", backbone)
        generator = torch.Generator().manual_seed(config.seed)
        sizes = backbone.state_sizes[self.prompted_layers]
        if config.prefix_norm:
            # a model without norms is refused here
            backbone.normed(torch.ones(len(sizes), backbone.hidden_size, device=backbone.device))
        uses = int(config.use_ids)
        self.user = Tower(sizes, backbone.hidden_size, uses * user_id_dim, config, generator)
        self.item = Tower(sizes, backbone.hidden_size, uses * item_id_dim, config, generator)
        self.log_temperature = nn.Parameter(
            torch.tensor(math.log(config.temperature)),
            requires_grad=config.similarity == "cosine" and config.learn_temperature,
        )
        if config.id_score == "learned":
            self.log_id_weight = nn.Parameter(torch.tensor(math.log(config.id_weight)))
        if config.tune != "none":
            weights = backbone.train_weights(
                config.tune, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed
            )
            # torch takes no name with dots for one
            self.llm = nn.ParameterDict(
                {name.replace(".", "/"): weight for name, weight in weights.items()}
            )
        self.to(backbone.device)

    backbone: Backbone

    @property
    def prompted_layers(self) -> slice:
        """The layers whose input a soft prompt is put beside: the first, if before the text."""
        if self.model_config.placement == "inputs":
            return slice(0, 1)
        most = self.model_config.layers
        return slice(0 if most is None else max(0, self.backbone.n_layers - most), None)

    @property
    def keeps_lower_states(self) -> bool:
        """Whether the states below the lowest prefix never change, and reading can begin there."""
        config = self.model_config
        frozen = config.placement == "layers" and config.tune == "none"
        return frozen and self.backbone.takes_lower_states(self.prompted_layers.start)

    def forward(self, users: EntityBatch, items: EntityBatch) -> tuple[Tensor, Tensor]:
        """Return representations `[B, H]` of users and `[C, H]` of items."""
        device = self.backbone.device
        return (
            self.encode(self.user, users.to(device)),
            self.encode(self.item, items.to(device)),
        )

    def encode(
        self, tower: Tower, batch: EntityBatch, prepared: PreparedPrefixes | None = None
    ) -> Tensor:
        """Return `[B, H]` float32: representations of users or items; unit length if cosine.

        Entities without an ID vector are read with the learnable vectors alone. In training some
        of the others are too (`config.id_dropout`), and vectors have noise (`config.id_noise`).

        Args:
            tower: Of the batch.
            batch: B users or items.
            prepared: What `prepare` gave for the tower as it is now; no gradients go there.
        """
        if self.training:
            batch = self._disturbed(tower, batch)
        return self._read(tower, batch, prepared)

    def _disturbed(self, tower: Tower, batch: EntityBatch) -> EntityBatch:
        """Return the batch as training reads it, drawn from the generator of torch for the CPU."""
        config, vectors = self.model_config, batch.id_vectors
        if vectors is None or not tower.id_dim:
            return batch
        has_id = batch.has_id
        if config.id_dropout:
            kept = (torch.rand(len(batch)) >= config.id_dropout).to(vectors.device)
            has_id = kept if has_id is None else has_id & kept
        if config.id_noise:
            noise = torch.randn(vectors.shape).to(vectors)
            vectors = vectors + config.id_noise * tower.id_scale * noise
        return replace(batch, id_vectors=vectors, has_id=has_id)

    def _read(self, tower: Tower, batch: EntityBatch, prepared: PreparedPrefixes | None) -> Tensor:
        if tower.id_dim and batch.id_vectors is not None and batch.has_id is not None:
            return self._read_mixed(tower, batch, batch.has_id, prepared)
        vectors = batch.id_vectors if tower.id_dim else None
        given: dict[str, Any] = {"lower": batch.lower}
        if prepared is not None:
            given["prefixes"] = prepared.of(vectors)
        else:
            shared, own = tower.shared_prompts(), None
            if vectors is not None:
                own = tower.project(vectors)
            if self.model_config.prefix_norm:
                shared = self.backbone.normed(shared)
                own = None if own is None else self.backbone.normed(own)
            if self.model_config.placement == "inputs":
                before = shared.expand(len(batch), -1, -1)
                given["before"] = before if own is None else torch.cat([before, own[0]], dim=1)
            else:
                given |= {"shared": shared, "own": own}
        states = self.backbone.last_hidden_states(batch.input_ids, batch.attention_mask, **given)
        pool = tower.pool if self.model_config.pool == "attention" else self.backbone.pool
        pooled = pool(states, batch.attention_mask).float()
        return F.normalize(pooled, dim=-1) if self.model_config.similarity == "cosine" else pooled

    @torch.no_grad()
    def prepare(self, tower: Tower, n_vectors: int) -> PreparedPrefixes | None:
        """Return the prefixes of a tower for `encode` of many batches; None if each makes its own.

        Args:
            tower: One of the two; what is prepared is of its present values.
            n_vectors: ID vectors that there will be.
        """
        if self.model_config.placement == "inputs" or self.model_config.prefix_norm:
            return None
        projector, bias = tower.projections() or (None, None)
        return self.backbone.prepare(tower.shared_prompts(), projector, bias, n_vectors=n_vectors)

    def _read_mixed(
        self,
        tower: Tower,
        batch: EntityBatch,
        has_id: Tensor,
        prepared: PreparedPrefixes | None,
    ) -> Tensor:
        warm = replace(batch, has_id=None)
        if bool(has_id.all()):
            return self._read(tower, warm, prepared)
        cold = replace(warm, id_vectors=None)
        if not bool(has_id.any()):
            return self._read(tower, cold, prepared)
        parts = torch.cat(
            [
                self._read(tower, warm.take(has_id), prepared),
                self._read(tower, cold.take(~has_id), prepared),
            ]
        )
        order = torch.cat([has_id.nonzero()[:, 0], (~has_id).nonzero()[:, 0]])
        return parts[order.argsort()]

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Return `[B, N]`: inner products of representations over the temperature."""
        return users @ items.T * torch.exp(-self.log_temperature)

    @property
    def id_weight(self) -> Tensor | float:
        """What the ID model's scores are multiplied by in training; 0 if they are left out."""
        if self.model_config.id_score == "learned":
            return self.log_id_weight.exp()
        return self.model_config.id_weight if self.model_config.id_score == "fixed" else 0.0

    def n_trainable(self) -> int:
        """Return the number of trained parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def description(self) -> dict[str, Any]:
        """Return how the model is built, as JSON can hold it."""
        return {
            "llm": self.backbone.name,
            "llm_revision": self.backbone.revision,
            "llm_quantization": self.backbone.quantization,
            "llm_dtype": str(self.backbone.dtype).removeprefix("torch."),
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
            save_file(tensors, temporary / ADAPTER)
            place = ids
            if ids is not None and not isinstance(ids, str):
                place = "ids"
                ids.save(temporary / place)
            write_config(temporary, FORMAT, {**self.description(), "ids": place})

    @staticmethod
    def language_model_of(folder: str | os.PathLike[str]) -> LanguageModel:
        """Return the language model that a folder needs."""
        stored = read_config(folder, FORMAT)
        return LanguageModel(
            name=stored["llm"],
            revision=stored["llm_revision"],
            pooling=stored["pooling"],
            quantization=stored["llm_quantization"],
            dtype=stored["llm_dtype"],
        )

    @staticmethod
    def config_of(folder: str | os.PathLike[str]) -> ModelConfig:
        """Return what of the model in a folder was trained."""
        return ModelConfig(**read_config(folder, FORMAT)["model"])

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
            backbone, _ = cls.language_model_of(folder).load()
        if backbone.quantization != stored["llm_quantization"]:
            raise ValueError(
                f"{folder}: expected a backbone with quantization {stored['llm_quantization']}, "
                f"got {backbone.quantization}"
            )
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
        file = Path(folder) / ADAPTER
        try:
            model.load_state_dict(load_file(file))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ValueError(
                f"{file}: expected the adapter of a model over {stored['llm']!r} ({error})"
            ) from error
        return model.eval()
