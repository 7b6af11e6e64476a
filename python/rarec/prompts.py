"""Hard prompts: texts of users and items as batches of tokens (docs/method.md, "Hard prompt").

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

# texts in one call of the tokenizer, whose result takes much more memory than the token numbers
_TEXTS_PER_CALL = 1024
# content that marks its place in a template
_CONTENT = "rarec content"
# some chat templates (Llama 3.2) contain the date of the day, so that the texts of tomorrow would
# differ from those of the training; the fixed date is the one that the Llama template falls back to
_FIXED_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"


@dataclass(frozen=True, eq=False)
class Tokens:
    """R tokenised texts of different lengths.

    Attributes:
        offsets: `[R + 1]` int64 positions in `ids` where the texts start and end.
        ids: `[offsets[-1]]` int32 token numbers, special tokens included.
        padding_id: Token number that fills the short rows of a batch.
        n_cut: Number of texts that were shortened to the limit of tokens.
    """

    offsets: NDArray[np.int64]
    ids: NDArray[np.int32]
    padding_id: int
    n_cut: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`[R]` int64: the number of tokens of each text."""
        return np.diff(self.offsets)

    def take(self, rows: ArrayLike) -> Tokens:
        """Return the texts in `rows`; `n_cut` of the result is 0, because it is not known."""
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
        tokenizer: Tokenizer of the language model.
        titles: Title of each item; a missing title is "".
        config: Templates and limits; None takes the defaults.

    Raises:
        ValueError: If `chat` is set and the tokenizer has no chat template or one that leaves out
            a message, or if the templates without titles have `max_tokens` tokens or more.
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
        self._check_max_tokens()
        self._user_suffix = self._suffix(self.config.user.replace("{titles}", _CONTENT))
        self._item_suffix = self._suffix(self.config.item.replace("{title}", _CONTENT))

    def item_text(self, item: int) -> str:
        """Return the text of the item with the number `item`."""
        return self.config.item.replace("{title}", self.titles[item] or self.config.untitled)

    def user_text(self, titles: Sequence[str]) -> str:
        """Return the text of a user whose history has the given titles, oldest first."""
        titles = [title for title in titles if title]
        if not titles:
            return self.config.new_user
        shown = titles[::-1] if self.config.newest_first else titles
        return self.config.user.replace("{titles}", self.config.separator.join(shown))

    def items(self, numbers: Sequence[int] | NDArray[np.integer]) -> Tokens:
        """Return the tokens of the items in `numbers`; a title that is too long is cut."""
        rows = self._encode([self.item_text(int(number)) for number in numbers])
        return self._tokens(rows, self._n_too_long(rows), self._item_suffix)

    def users(self, histories: Histories) -> Tokens:
        """Return the tokens of one user text per row of `histories`."""
        return self.user_titles(
            [self.titles[item] for item in row] for row in histories.last(self.config.n_titles)
        )

    def user_titles(self, histories: Iterable[Sequence[str]]) -> Tokens:
        """Return the tokens of users whose histories are given as titles, oldest first.

        A text has as many of the newest titles as fit into the limit, but at least one, which is
        cut if it is too long. The search for this number assumes that a text without one of its
        titles is shorter by at most twice the tokens of this title and the separator.
        """
        n_titles = self.config.n_titles
        newest = (row[-n_titles:] if n_titles else () for row in histories)
        # without empty titles, because the last title that is left must not be an empty one
        shown = [[title for title in row if title] for row in newest]
        rows = self._encode([self.user_text(titles) for titles in shown])
        n_cut = self._n_too_long(rows)
        self._drop_oldest(shown, rows)
        return self._tokens(rows, n_cut, self._user_suffix)

    def _drop_oldest(self, shown: list[list[str]], rows: list[NDArray[np.int32]]) -> None:
        """Remove the oldest titles of each long text until it fits or has one title.

        Args:
            shown: Titles of each text; changed in place.
            rows: Tokens of each text; changed in place.
        """
        limit = self.config.max_tokens
        long = [row for row, ids in enumerate(rows) if len(ids) > limit and len(shown[row]) > 1]
        titles = sorted({title for row in long for title in shown[row]})
        n_separator, *n_title = map(len, self._ids([self.config.separator, *titles], special=False))
        sizes = dict(zip(titles, n_title, strict=True))
        copies = self.config.user.count("{titles}")
        while long:
            for row in long:
                # twice the size, so that no title too many is removed: the tokenizer can merge
                # text differently in context, and the next round removes what is still too long
                excess, n_dropped = len(rows[row]) - limit, 0
                while excess > 0 and n_dropped < len(shown[row]) - 1:
                    excess -= 2 * copies * (sizes[shown[row][n_dropped]] + n_separator)
                    n_dropped += 1
                shown[row] = shown[row][n_dropped:]
            shorter = self._encode([self.user_text(shown[row]) for row in long])
            for row, ids in zip(long, shorter, strict=True):
                rows[row] = ids
            long = [row for row in long if len(rows[row]) > limit and len(shown[row]) > 1]

    def _encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the tokens of texts as the model reads them, without a limit of their number."""
        # a chat template contains the special tokens
        special = self._chat_template is None
        return self._ids(texts if special else self._rendered(texts), special=special)

    def _ids(self, texts: Sequence[str], *, special: bool) -> list[NDArray[np.int32]]:
        rows: list[NDArray[np.int32]] = []
        for start in range(0, len(texts), _TEXTS_PER_CALL):
            encoded: Any = self.tokenizer(
                # a tokenizer refuses a text that is no UTF-8
                [
                    text.encode("utf-8", "replace").decode()
                    for text in texts[start : start + _TEXTS_PER_CALL]
                ],
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
                f"expected messages that the chat template of {name!r} accepts, got: {error}"
            ) from error
        for message in (_CONTENT, self.config.system.strip()):
            if message not in shown:
                raise ValueError(
                    f"expected a chat template that contains each message, got that of {name!r}, "
                    f"which leaves out {message!r}"
                )

    def _check_max_tokens(self) -> None:
        texts = {
            "user": self.config.user.replace("{titles}", ""),
            "new_user": self.config.new_user,
            "item": self.config.item.replace("{title}", ""),
        }
        for name, ids in zip(texts, self._encode(list(texts.values())), strict=True):
            if len(ids) >= self.config.max_tokens:
                raise ValueError(
                    f"expected max_tokens > {len(ids)}, the number of tokens of the {name} text "
                    f"without titles, got {self.config.max_tokens}"
                )

    def _suffix(self, text: str) -> list[int]:
        """Return the tokens that follow `_CONTENT` in a filled template."""
        plain = self._chat_template is None
        rendered = text if plain else self._rendered([text])[0]
        before, _, after = rendered.rpartition(_CONTENT)
        texts = (rendered, before + _CONTENT, after)
        whole, prefix, suffix = self._ids(texts, special=False)
        if np.array_equal(whole[: len(prefix)], prefix):
            # from the whole text, because some tokenizers put a space before a separate text
            suffix = whole[len(prefix) :]
        return [*suffix.tolist(), *(self._special_suffix() if plain else ())]

    def _special_suffix(self) -> list[int]:
        """Return the special tokens that the tokenizer puts after a text."""
        (plain,), (whole,) = (self._ids(["a"], special=special) for special in (False, True))
        starts = range(len(whole) - len(plain) + 1)
        first = next(at for at in starts if np.array_equal(whole[at : at + len(plain)], plain))
        return whole[first + len(plain) :].tolist()

    def _n_too_long(self, rows: list[NDArray[np.int32]]) -> int:
        return sum(len(row) > self.config.max_tokens for row in rows)

    def _tokens(self, rows: list[NDArray[np.int32]], n_cut: int, suffix: list[int]) -> Tokens:
        rows = [self._cut(row, suffix) for row in rows]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        ids = np.concatenate([np.empty(0, dtype=np.int32), *rows])
        padding: Any = self.tokenizer.pad_token_id
        return Tokens(offsets, ids, padding or 0, n_cut)

    def _cut(self, row: NDArray[np.int32], suffix: list[int]) -> NDArray[np.int32]:
        """Return a text of 1 to `max_tokens` tokens; a long content is cut between characters."""
        if len(row) == 0:
            return np.array([self._placeholder()], dtype=np.int32)
        limit = self.config.max_tokens
        if len(row) <= limit:
            return row
        # the suffix is kept, because some models pool the last token
        n_same = 0
        for found, expected in zip(row[::-1], suffix[::-1], strict=False):
            if found != expected:
                break
            n_same += 1
        # the first token of the suffix may be merged with the content
        n_kept = min(n_same + 1, len(suffix))
        end = self._whole_characters(row, limit - n_kept)
        return np.concatenate([row[:end], row[len(row) - n_kept :]])

    def _whole_characters(self, row: NDArray[np.int32], end: int) -> int:
        """Return the last position up to `end` that does not split a character into its bytes."""
        # a character has at most four bytes, so an incomplete one has at most three tokens
        for shorter in range(4):
            before = row[max(0, end - shorter - 8) : end - shorter].tolist()
            if not str(self.tokenizer.decode(before)).endswith("\N{REPLACEMENT CHARACTER}"):
                return end - shorter
        return end

    def _placeholder(self) -> int:
        """Return the token of a text that would have none; a model needs at least one token."""
        tokenizer: Any = self.tokenizer
        special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        return next((number for number in special if number is not None), 0)


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the chat template of a tokenizer, with a fixed date instead of the current one."""
    if not tokenizer.chat_template:
        raise ValueError(
            f"expected a tokenizer with a chat template, got {tokenizer.name_or_path!r}, "
            "which has none; set chat=False"
        )
    template = tokenizer.get_chat_template()
    return _FIXED_DATE + template if "strftime_now" in template else template
