"""Hard prompts: texts of users and items as token batches (DESIGN.md section 1.1).

Axes: R rows (texts), B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rarec.data import Histories


@dataclass(frozen=True)
class PromptConfig:
    """How texts are made.

    Attributes:
        user: Text of a user; `{titles}` becomes the newest titles.
        new_user: Text of a user without a titled history.
        item: Text of an item; `{title}` becomes its title.
        untitled: Stands for a missing title.
        separator: Between titles.
        n_titles: Newest titles shown.
        newest_first: Order of the titles.
        max_tokens: Longest text; whole titles are left out, oldest first, until it fits.
    """

    user: str = "A user liked: {titles}"
    new_user: str = "A new user"
    item: str = "{title}"
    untitled: str = "unknown"
    separator: str = "; "
    n_titles: int = 5
    newest_first: bool = True
    max_tokens: int = 128

    def __post_init__(self) -> None:
        if "{titles}" not in self.user:
            raise ValueError(f"expected '{{titles}}' in the user template, got {self.user!r}")
        if "{title}" not in self.item:
            raise ValueError(f"expected '{{title}}' in the item template, got {self.item!r}")
        if self.n_titles < 0 or self.max_tokens < 8:
            raise ValueError(
                f"expected n_titles >= 0 and max_tokens >= 8, "
                f"got {self.n_titles} and {self.max_tokens}"
            )


@dataclass(frozen=True, eq=False)
class Tokens:
    """R tokenised texts, ragged.

    Attributes:
        offsets: `[R + 1]` int64.
        ids: `[offsets[-1]]` int32 token numbers, special tokens included.
        padding_id: Fills short rows of a batch.
        n_cut: Texts that lost titles or tokens to the limit.
    """

    offsets: NDArray[np.int64]
    ids: NDArray[np.int32]
    padding_id: int
    n_cut: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`[R]` tokens of each text."""
        return np.diff(self.offsets)

    def batch(self, rows: ArrayLike) -> tuple[Tensor, Tensor]:
        """Return `input_ids` and `attention_mask`, both `[B, T]` int64, padded on the right."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows]
        mask = np.arange(lengths.max(initial=1)) < lengths[:, None]
        table = np.full(mask.shape, self.padding_id, dtype=np.int64)
        starts = np.repeat(self.offsets[rows] - np.cumsum(lengths) + lengths, lengths)
        table[mask] = self.ids[np.arange(lengths.sum()) + starts]
        return torch.from_numpy(table), torch.from_numpy(mask.astype(np.int64))


class Prompts:
    """Makes the texts of users and items, and their tokens.

    Args:
        tokenizer: Of the language model.
        titles: Title of each item, "" where it has none.
        config: Templates and limits.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        titles: Sequence[str],
        config: PromptConfig | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.titles = list(titles)
        self.config = config or PromptConfig()

    def item_text(self, item: int) -> str:
        """Return the text of an item number."""
        return self.config.item.replace("{title}", self.titles[item] or self.config.untitled)

    def user_text(self, titles: Sequence[str]) -> str:
        """Return the text of a user who has the given titles in the history, oldest first."""
        titles = [title for title in titles if title]
        if not titles:
            return self.config.new_user
        shown = titles[::-1] if self.config.newest_first else titles
        return self.config.user.replace("{titles}", self.config.separator.join(shown))

    def items(self, numbers: Sequence[int] | NDArray[np.integer]) -> Tokens:
        """Return the tokens of the items in `numbers`, a text longer than the limit cut."""
        return self._tokens([self.item_text(int(number)) for number in numbers])

    def users(self, histories: Histories) -> Tokens:
        """Return the tokens of one text per row of `histories`."""
        return self.user_titles(
            [self.titles[item] for item in row] for row in histories.last(self.config.n_titles)
        )

    def user_titles(self, histories: Iterable[Sequence[str]]) -> Tokens:
        """Return the tokens of users whose histories are given as titles, oldest first."""
        n_titles = self.config.n_titles
        newest = (row[-n_titles:] if n_titles else () for row in histories)
        # without the empty ones, or the last title left below could be none
        shown = [[title for title in row if title] for row in newest]
        texts = [self.user_text(titles) for titles in shown]
        tokens = self._encode(texts)
        n_cut = self._n_too_long(tokens)
        for row, ids in enumerate(tokens):
            # whole titles go, oldest first; the last one left is cut by the tokenizer
            while len(ids) > self.config.max_tokens and len(shown[row]) > 1:
                shown[row] = shown[row][1:]
                ids = self._encode([self.user_text(shown[row])])[0]
            tokens[row] = ids
        return self._ragged(tokens, n_cut)

    def _tokens(self, texts: list[str]) -> Tokens:
        rows = self._encode(texts)
        return self._ragged(rows, self._n_too_long(rows))

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded: Any = self.tokenizer(texts, add_special_tokens=True, verbose=False)
        return encoded["input_ids"]

    def _n_too_long(self, rows: list[list[int]]) -> int:
        return sum(len(row) > self.config.max_tokens for row in rows)

    def _ragged(self, rows: list[list[int]], n_cut: int) -> Tokens:
        rows = [self._cut(row) for row in rows]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        ids = np.fromiter((token for row in rows for token in row), np.int32, offsets[-1])
        padding: Any = self.tokenizer.pad_token_id
        return Tokens(offsets, ids, padding or 0, n_cut)

    def _cut(self, row: list[int]) -> list[int]:
        limit = self.config.max_tokens
        if len(row) <= limit:
            return row
        # a closing token ([SEP], </s>) stays: a model that pools the last token reads it
        if row[-1] in self.tokenizer.all_special_ids:
            return [*row[: limit - 1], row[-1]]
        return row[:limit]
