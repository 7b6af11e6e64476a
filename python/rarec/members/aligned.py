"""An aligned language model as a member: the trained model with the titles and ID vectors it reads.

Axes: C cases or users, N items, K vectors per user, n item tokens, E width of ID vectors, H hidden
size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rarec.data import Cases, Histories
from rarec.encoding import Entities, encode
from rarec.ids import IDEmbeddings
from rarec.members.scores import ScoreVectors
from rarec.model import RARec, Tower
from rarec.progress import progress_bar
from rarec.prompts import Prompts, Tokens


class AlignedModel:
    """Turns users and items into vectors whose inner product is the score.

    Args:
        model: The towers.
        tokenizer: Of the language model.
        titles: N titles, "" where an item has none.
        ids: ID embeddings; None for text alone.
        progress: Show bars.
    """

    def __init__(
        self,
        model: RARec,
        tokenizer: PreTrainedTokenizerBase,
        titles: Sequence[str],
        ids: IDEmbeddings | None,
        *,
        progress: bool = False,
    ) -> None:
        if model.settings.use_ids and ids is None:
            raise ValueError("expected ID embeddings for a model that uses them, got none")
        self.model = model
        self.tokenizer = tokenizer
        self.prompts = Prompts(tokenizer, titles, model.prompts)
        self.ids = ids if model.settings.use_ids else None
        self.progress = progress

    def item_entities(self) -> Entities:
        """Return the texts and ID vectors of all N items."""
        tokens = self.prompts.items(np.arange(len(self.prompts.titles)))
        if self.ids is None:
            return self._readable(Entities(tokens))
        vectors = self.ids.item_vectors[:, None]
        return self._readable(Entities(tokens, vectors, self.ids.item_known))

    def user_entities(
        self,
        histories: Histories,
        users: NDArray[np.int32] | None = None,
        *,
        tokens: Tokens | None = None,
    ) -> Entities:
        """Return the texts and ID vectors of users: `[C, K + n, E]`, n being `item_tokens`.

        Args:
            histories: C histories, oldest first; an empty one makes a cold user.
            users: `[C]` numbers of the dataset's users they belong to, or None.
            tokens: C texts, if they are not to be made of the histories.
        """
        tokens = self.prompts.users(histories) if tokens is None else tokens
        if self.ids is None:
            return self._readable(Entities(tokens))
        vectors, known = self.ids.user_vectors(histories, users)
        if n_tokens := self.model.settings.item_tokens:
            newest = _newest_items(self.ids, histories, n_tokens)
            vectors = np.concatenate([vectors, newest], axis=1)
        return self._readable(Entities(tokens, vectors, known))

    def item_vectors(self) -> NDArray[np.float32]:
        """Return `[N, H]` float32 vectors of the catalogue."""
        return self._encode(self.model.item, self.item_entities(), "items")

    def new_item_vectors(self, titles: Sequence[str]) -> NDArray[np.float32]:
        """Return `[len(titles), H]` float32 vectors of items without ID vectors."""
        prompts = Prompts(self.tokenizer, titles, self.model.prompts)
        entities = self._readable(Entities(prompts.items(np.arange(len(titles)))))
        return self._encode(self.model.item, entities, "new items")

    def queries(self, users: Entities) -> NDArray[np.float32]:
        """Return `[C, H]` float32: user vectors over the temperature."""
        vectors = self._encode(self.model.user, users, "users")
        return vectors * np.float32(np.exp(-self.model.log_temperature.item()))

    def scores(self, cases: Cases, item_vectors: NDArray[np.float32]) -> ScoreVectors:
        """Return the scores of cases over the catalogue."""
        users = self.user_entities(cases.histories, cases.users)
        return ScoreVectors(self.queries(users)[:, None], item_vectors)

    def _readable(self, entities: Entities) -> Entities:
        """Return the entities, or refuse texts of more than the model has positions for."""
        backbone = self.model.backbone
        n_positions = getattr(backbone.model.config, "max_position_embeddings", None)
        longest = int(entities.tokens.lengths.max(initial=0))
        config = self.model.settings
        if config.placement == "inputs":
            vectors = entities.id_vectors
            longest += config.prefix_length + (0 if vectors is None else vectors.shape[1])
        if n_positions is not None and longest > n_positions:
            raise ValueError(
                f"expected texts of at most {n_positions} tokens (vectors before them included), "
                f"the positions of {backbone.name!r}, got {longest}: lower max_tokens"
            )
        return entities

    def _encode(self, tower: Tower, entities: Entities, what: str) -> NDArray[np.float32]:
        with progress_bar(f"encode {what}", len(entities), shown=self.progress) as advance:
            return encode(self.model, tower, entities, on_rows=advance)


def _newest_items(ids: IDEmbeddings, histories: Histories, n: int) -> NDArray[np.float32]:
    """Return `[C, n, E]`: vectors of the newest n items, the newest last; zero without one."""
    n_items = len(ids.item_known)
    places = histories.padded(n, n_items)
    vectors = ids.item_vectors[np.minimum(places, n_items - 1)]
    vectors[~np.append(ids.item_known, False)[places]] = 0
    return vectors
