"""Hard prompts: texts of users and items as token batches (DESIGN.md section 1.1).

Axes: R rows (texts), B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rarec.data import Histories
from rarec.settings import PromptSettings

# what a tokenizer returns beside the numbers is many times larger than they are
_TEXTS_AT_ONCE = 1024
# stands for the content where a template is looked at
_CONTENT = "rarec content"
# a template that writes the date of the day (that of Llama 3.2) gets the one Meta fell back to:
# a text that changes overnight is not the one that was trained on
_ONE_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"


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

    def take(self, rows: ArrayLike) -> Tokens:
        """Return the texts in `rows`; `n_cut` is not known of a part, and 0."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows]
        ends = np.cumsum(lengths)
        starts = np.repeat(self.offsets[rows] - ends + lengths, lengths)
        ids = self.ids[np.arange(lengths.sum()) + starts]
        return Tokens(np.concatenate([[0], ends]).astype(np.int64), ids, self.padding_id)

    def batch(self, rows: ArrayLike) -> tuple[Tensor, Tensor]:
        """Return `input_ids` and `attention_mask`, both `[B, T]` int64, padded on the right."""
        texts = self.take(rows)
        mask = np.arange(texts.lengths.max(initial=1)) < texts.lengths[:, None]
        table = np.full(mask.shape, self.padding_id, dtype=np.int64)
        table[mask] = texts.ids
        return torch.from_numpy(table), torch.from_numpy(mask.astype(np.int64))


class Prompts:
    """Makes the texts of users and items, and their tokens.

    Args:
        tokenizer: Of the language model.
        titles: Title of each item, "" where it has none.
        config: Templates and limits.

    Raises:
        ValueError: If the tokenizer has no chat template where one is asked for, or one that
            takes no system message; or if the templates alone fill `max_tokens`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        titles: Sequence[str],
        config: PromptSettings | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.titles = list(titles)
        self.config = config or PromptSettings()
        self._chat_template: str | None = None
        if self.config.chat:
            self._chat_template = _chat_template(tokenizer)
            self._check_chat()
        self._check_room()
        self._user_closing = self._closing(self.config.user.replace("{titles}", _CONTENT))
        self._item_closing = self._closing(self.config.item.replace("{title}", _CONTENT))

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
        """Return the tokens of the items in `numbers`, a title too long for the limit cut."""
        rows = self._encode([self.item_text(int(number)) for number in numbers])
        return self._ragged(rows, self._n_too_long(rows), self._item_closing)

    def users(self, histories: Histories) -> Tokens:
        """Return the tokens of one text per row of `histories`."""
        return self.user_titles(
            [self.titles[item] for item in row] for row in histories.last(self.config.n_titles)
        )

    def user_titles(self, histories: Iterable[Sequence[str]]) -> Tokens:
        """Return the tokens of users whose histories are given as titles, oldest first.

        A text has as many of the newest titles as fit into the limit, and at least one, cut if need
        be. (Dropping a title is taken to shorten a text by no more than twice what the title and
        the separator count alone, whatever the tokenizer merges.)
        """
        n_titles = self.config.n_titles
        newest = (row[-n_titles:] if n_titles else () for row in histories)
        # without the empty ones, or the last title left below could be none
        shown = [[title for title in row if title] for row in newest]
        rows = self._encode([self.user_text(titles) for titles in shown])
        n_cut = self._n_too_long(rows)
        self._drop_oldest(shown, rows)
        return self._ragged(rows, n_cut, self._user_closing)

    def _drop_oldest(self, shown: list[list[str]], rows: list[NDArray[np.int32]]) -> None:
        """Leave out the oldest titles of texts that are too long, until they fit or have one."""
        limit = self.config.max_tokens
        long = [row for row, ids in enumerate(rows) if len(ids) > limit and len(shown[row]) > 1]
        titles = sorted({title for row in long for title in shown[row]})
        between, *alone = map(len, self._ids([self.config.separator, *titles], special=False))
        sizes = dict(zip(titles, alone, strict=True))
        copies = self.config.user.count("{titles}")
        while long:
            for row in long:
                # never one more than is needed: sizes count twice, and the text is encoded again
                excess, n_dropped = len(rows[row]) - limit, 0
                while excess > 0 and n_dropped < len(shown[row]) - 1:
                    excess -= 2 * copies * (sizes[shown[row][n_dropped]] + between)
                    n_dropped += 1
                shown[row] = shown[row][n_dropped:]
            shorter = self._encode([self.user_text(shown[row]) for row in long])
            for row, ids in zip(long, shorter, strict=True):
                rows[row] = ids
            long = [row for row in long if len(rows[row]) > limit and len(shown[row]) > 1]

    def _encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the tokens of texts as the model reads them, however many."""
        # a chat template writes the special tokens itself
        special = self._chat_template is None
        return self._ids(texts if special else self._rendered(texts), special=special)

    def _ids(self, texts: Sequence[str], *, special: bool) -> list[NDArray[np.int32]]:
        rows: list[NDArray[np.int32]] = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            encoded: Any = self.tokenizer(
                list(texts[start : start + _TEXTS_AT_ONCE]),
                add_special_tokens=special,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            rows += [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]
        return rows

    def _rendered(self, texts: Sequence[str]) -> list[str]:
        """Return each text as the user message of a chat."""
        system = self.config.system
        before = [{"role": "system", "content": system}] if system else []
        rendered: Any = self.tokenizer.apply_chat_template(
            [[*before, {"role": "user", "content": text}] for text in texts],
            chat_template=self._chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )
        return rendered

    def _check_chat(self) -> None:
        name = self.tokenizer.name_or_path
        try:
            (shown,) = self._rendered([_CONTENT])
        except TemplateError as error:
            raise ValueError(
                f"expected messages that the chat template of {name!r} takes, got: {error}"
            ) from error
        for message in (_CONTENT, self.config.system.strip()):
            if message not in shown:
                raise ValueError(
                    f"expected a chat template that shows each message, got that of {name!r}, "
                    f"which leaves out {message!r}"
                )

    def _check_room(self) -> None:
        texts = {
            "user": self.config.user.replace("{titles}", ""),
            "new_user": self.config.new_user,
            "item": self.config.item.replace("{title}", ""),
        }
        for name, ids in zip(texts, self._encode(list(texts.values())), strict=True):
            if len(ids) >= self.config.max_tokens:
                raise ValueError(
                    f"expected max_tokens > {len(ids)}, the tokens of the {name} text without "
                    f"titles, got {self.config.max_tokens}"
                )

    def _closing(self, text: str) -> list[int]:
        """Return the tokens that come after the content of a template."""
        plain = self._chat_template is None
        rendered = text if plain else self._rendered([text])[0]
        before, _, after = rendered.rpartition(_CONTENT)
        texts = (rendered, before + _CONTENT, after)
        whole, opening, closing = self._ids(texts, special=False)
        if np.array_equal(whole[: len(opening)], opening):
            # a text that stands alone may begin with a space of the tokenizer's
            closing = whole[len(opening) :]
        return [*closing.tolist(), *(self._ending() if plain else ())]

    def _ending(self) -> list[int]:
        """Return the special tokens that the tokenizer puts after a text."""
        (alone,), (whole,) = (self._ids(["a"], special=special) for special in (False, True))
        starts = range(len(whole) - len(alone) + 1)
        first = next(at for at in starts if np.array_equal(whole[at : at + len(alone)], alone))
        return whole[first + len(alone) :].tolist()

    def _n_too_long(self, rows: list[NDArray[np.int32]]) -> int:
        return sum(len(row) > self.config.max_tokens for row in rows)

    def _ragged(self, rows: list[NDArray[np.int32]], n_cut: int, closing: list[int]) -> Tokens:
        rows = [self._cut(row, closing) for row in rows]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        ids = np.concatenate([np.empty(0, dtype=np.int32), *rows])
        padding: Any = self.tokenizer.pad_token_id
        return Tokens(offsets, ids, padding or 0, n_cut)

    def _cut(self, row: NDArray[np.int32], closing: list[int]) -> NDArray[np.int32]:
        """Return a text of 1 to `max_tokens` tokens, cut at a character before what closes it."""
        if len(row) == 0:
            return np.array([self._blank()], dtype=np.int32)
        limit = self.config.max_tokens
        if len(row) <= limit:
            return row
        # what closes a text stays: a model that pools the last token reads it
        n_same = 0
        for own, expected in zip(row[::-1], closing[::-1], strict=False):
            if own != expected:
                break
            n_same += 1
        # the first token may be merged with the content
        n_kept = min(n_same + 1, len(closing))
        end = self._whole_characters(row, limit - n_kept)
        return np.concatenate([row[:end], row[len(row) - n_kept :]])

    def _whole_characters(self, row: NDArray[np.int32], end: int) -> int:
        """Return where to cut so that no bytes of half a character are left before `end`."""
        # a character has at most four bytes, so three tokens may begin one
        for shorter in range(4):
            before = row[max(0, end - shorter - 8) : end - shorter].tolist()
            if not str(self.tokenizer.decode(before)).endswith("\N{REPLACEMENT CHARACTER}"):
                return end - shorter
        return end

    def _blank(self) -> int:
        """Return the token of an empty text where the tokenizer adds none: there has to be one."""
        tokenizer: Any = self.tokenizer
        own = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        return next((number for number in own if number is not None), 0)


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the chat template of a tokenizer, the same on all days."""
    if not tokenizer.chat_template:
        raise ValueError(
            f"expected a tokenizer with a chat template, got {tokenizer.name_or_path!r}, "
            "which has none: use plain texts"
        )
    template = tokenizer.get_chat_template()
    return _ONE_DATE + template if "strftime_now" in template else template
