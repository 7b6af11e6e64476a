"""Two towers over one language model: soft prompts, representations, scores.

Yu et al. 2024 (arXiv:2402.04527), see docs/method.md.

Axes: B batch, C candidate items, H hidden size, E width of the ID vectors, K ID tokens of an
entity, P learnable vectors.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rarec.artifacts import read_whole, write_config, write_folder
from rarec.backbone import Backbone, LanguageModel, PreparedPrefixes
from rarec.ids import IDEmbeddings, load_ids
from rarec.model.entities import EntityBatch
from rarec.model.stored import FORMAT, read_stored_model
from rarec.model.tower import Tower
from rarec.paths import utf8_path
from rarec.settings import ModelSettings, PromptSettings, as_dict

ADAPTER = "adapter.safetensors"


class RARec(nn.Module):
    """User and item towers over one backbone.

    Args:
        backbone: The language model. It is frozen, and then none of its weights is a parameter of
            this module or in its state. With `settings.tune` it is changed in place, and the
            weights that are trained are in both.
        user_id_dim: Width of the ID vectors of users.
        item_id_dim: Width of the ID vectors of items.
        settings: Which parts are trained.
        prompts: How the texts are made. They are kept with the model.
        seed: Seed of the initial values.

    Raises:
        ValueError: If the weights of the backbone are to be trained and another model already
            trains them, or if prefixes are to pass through norms that it does not have.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        user_id_dim: int,
        item_id_dim: int,
        settings: ModelSettings | None = None,
        prompts: PromptSettings | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        # not `config`: the trainer of transformers writes into the config of a model
        self.settings = settings = settings or ModelSettings()
        self.prompts = prompts or PromptSettings()
        self.seed = seed
        # hidden from torch, so that neither checkpoints nor optimisers see the frozen weights
        object.__setattr__(self, "backbone", backbone)
        generator = torch.Generator().manual_seed(seed)
        sizes = backbone.state_sizes[self.prompted_layers]
        if settings.prefix_norm:
            # a model without norms is refused here
            backbone.normed(torch.ones(len(sizes), backbone.hidden_size, device=backbone.device))
        uses = int(settings.use_ids)
        self.user = Tower(sizes, backbone.hidden_size, uses * user_id_dim, settings, generator)
        self.item = Tower(sizes, backbone.hidden_size, uses * item_id_dim, settings, generator)
        self.log_temperature = nn.Parameter(
            torch.tensor(math.log(settings.temperature)),
            requires_grad=settings.similarity == "cosine" and settings.learn_temperature,
        )
        if settings.id_score == "learned":
            self.log_id_weight = nn.Parameter(torch.tensor(math.log(settings.id_weight)))
        if settings.tune != "none":
            self.llm = self._tuned_weights()
        self.to(backbone.device)

    def _tuned_weights(self) -> nn.ParameterDict:
        """Return the weights of the language model that are trained, by name."""
        settings = self.settings
        weights = self.backbone.train_weights(
            settings.tune, rank=settings.lora_rank, alpha=settings.lora_alpha, seed=self.seed
        )
        # torch takes no name with dots for a parameter
        return nn.ParameterDict(
            {name.replace(".", "/"): weight for name, weight in weights.items()}
        )

    backbone: Backbone

    @property
    def prompted_layers(self) -> slice:
        """The layers whose input a soft prompt stands beside; the first one with `inputs`."""
        if self.settings.placement == "inputs":
            return slice(0, 1)
        most = self.settings.layers
        return slice(0 if most == "all" else max(0, self.backbone.n_layers - most), None)

    @property
    def keeps_lower_states(self) -> bool:
        """Whether the states below the lowest prefix never change, and reading can begin there."""
        settings = self.settings
        frozen = settings.placement == "layers" and settings.tune == "none"
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

        Entities without an ID vector are read with the learnable vectors alone. In training, some
        of the others are too (`settings.id_dropout`).

        Args:
            tower: The tower of the batch.
            batch: B users or items.
            prepared: What `prepare` returned for the tower as it is now. No gradients go there.
        """
        if self.training:
            batch = self._with_id_dropout(tower, batch)
        return self._read(tower, batch, prepared)

    def _with_id_dropout(self, tower: Tower, batch: EntityBatch) -> EntityBatch:
        """Return the batch with ID vectors left out, drawn from the CPU generator of torch."""
        vectors, share = batch.id_vectors, self.settings.id_dropout
        if vectors is None or not tower.id_dim or not share:
            return batch
        kept = (torch.rand(len(batch)) >= share).to(vectors.device)
        return replace(batch, has_id=kept if batch.has_id is None else batch.has_id & kept)

    def _read(self, tower: Tower, batch: EntityBatch, prepared: PreparedPrefixes | None) -> Tensor:
        if tower.id_dim and batch.id_vectors is not None and batch.has_id is not None:
            return self._read_mixed(tower, batch, batch.has_id, prepared)
        vectors = batch.id_vectors if tower.id_dim else None
        given: dict[str, Any]
        if prepared is None:
            given = self._soft_prompts(tower, vectors, len(batch))
        else:
            given = {"prefixes": prepared.of(vectors)}
        states = self.backbone.last_hidden_states(
            batch.input_ids, batch.attention_mask, lower=batch.lower, **given
        )
        pooled = self.backbone.pool(states, batch.attention_mask).float()
        return F.normalize(pooled, dim=-1) if self.settings.similarity == "cosine" else pooled

    def _soft_prompts(
        self, tower: Tower, vectors: Tensor | None, n_texts: int
    ) -> dict[str, Tensor | None]:
        """Return the arguments of the backbone with the soft prompts of a batch."""
        shared = tower.shared_prompts()
        own = None if vectors is None else tower.project(vectors)
        if self.settings.prefix_norm:
            shared = self.backbone.normed(shared)
            own = None if own is None else self.backbone.normed(own)
        if self.settings.placement == "inputs":
            before = shared.expand(n_texts, -1, -1)
            return {"before": before if own is None else torch.cat([before, own[0]], dim=1)}
        return {"shared": shared, "own": own}

    @torch.no_grad()
    def prepare(self, tower: Tower, n_vectors: int) -> PreparedPrefixes | None:
        """Return the prefixes of a tower for `encode` of many batches.

        None if they cannot be prepared, and each batch computes its prefixes.

        Args:
            tower: One of the two towers, with the values that it has now.
            n_vectors: Number of ID vectors in all batches.
        """
        if self.settings.placement == "inputs" or self.settings.prefix_norm:
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
        """Weight of the scores of the ID model in training; 0 if they are left out."""
        if self.settings.id_score == "learned":
            return self.log_id_weight.exp()
        return self.settings.id_weight if self.settings.id_score == "fixed" else 0.0

    def n_trainable(self) -> int:
        """Return the number of trained parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def description(self) -> dict[str, Any]:
        """Return how the model is built, in values that JSON can hold."""
        return {
            "llm": self.backbone.name,
            "llm_revision": self.backbone.revision,
            "llm_sha256": self.backbone.sha256,
            "llm_quantization": self.backbone.quantization,
            "llm_dtype": str(self.backbone.dtype).removeprefix("torch."),
            "pooling": self.backbone.pooling,
            "user_id_dim": self.user.id_dim,
            "item_id_dim": self.item.id_dim,
            "model": as_dict(self.settings),
            "prompts": as_dict(self.prompts),
            "seed": self.seed,
        }

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, ids: IDEmbeddings | str | None = None
    ) -> None:
        """Write what was trained as a folder: config.json, adapter.safetensors.

        The language model is kept by its name, its revision and the hash of its content, so the
        folder holds a few MB.

        Args:
            folder: A new or an empty folder, or a model that is replaced.
            ids: The ID embeddings, which are kept inside as `ids/`; or a path from the folder to
                them.
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
        """Return the language model that a folder needs, with the content that it must have."""
        return read_stored_model(folder).language_model(folder)

    @staticmethod
    def settings_of(folder: str | os.PathLike[str]) -> ModelSettings:
        """Return the settings of the model in a folder."""
        return read_stored_model(folder).settings

    @staticmethod
    def ids_of(folder: str | os.PathLike[str]) -> IDEmbeddings | None:
        """Return the ID embeddings of a model, kept with it or elsewhere; None without any.

        Raises:
            ValueError: If the folder holds no model, or the ID embeddings are not in their place.
        """
        place = read_stored_model(folder).ids
        if place is None:
            return None
        # `..` of the path and not of the folder that a symbolic link in the path leads to
        found = Path(os.path.normpath(Path(folder).absolute() / place))
        return load_ids(found if found.is_dir() else Path(folder) / place)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, backbone: Backbone | None = None
    ) -> RARec:
        """Return the model of a folder.

        Args:
            folder: A folder that `save_pretrained` wrote.
            backbone: The language model. By default it is loaded by its name.

        Raises:
            ValueError: If the folder holds no model, or the backbone does not fit it or has another
                content than the one with which the model was tuned.
        """
        return read_whole(Path(folder), lambda: cls._from_folder(Path(folder), backbone))

    @classmethod
    def _from_folder(cls, folder: Path, backbone: Backbone | None) -> RARec:
        stored = read_stored_model(folder)
        language_model = stored.language_model(folder)
        if backbone is None:
            backbone, _ = language_model.load()
        language_model.require(backbone.sha256, backbone.name)
        if backbone.quantization != stored.llm_quantization:
            raise ValueError(
                f"{folder}: expected a backbone with quantization {stored.llm_quantization}, "
                f"got {backbone.quantization}"
            )
        if backbone.pooling != stored.pooling:
            raise ValueError(
                f"{folder}: expected a backbone with {stored.pooling} pooling, "
                f"got {backbone.pooling}"
            )
        model = cls(
            backbone,
            user_id_dim=stored.user_id_dim,
            item_id_dim=stored.item_id_dim,
            settings=stored.settings,
            prompts=stored.prompt_settings,
            seed=stored.seed,
        )
        file = folder / ADAPTER
        try:
            with utf8_path(file) as path:
                model.load_state_dict(load_file(path))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ValueError(
                f"{file}: expected the adapter of a model over {stored.llm!r} ({error})"
            ) from error
        return model.eval()
