"""Texts of users and items, and their tokens."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rarec.data import Histories
from rarec.prompts import PromptConfig, Prompts, Tokens

TITLES = ["red wolf", "blue lake", "", "storm", "night river stone"]


@pytest.fixture(scope="module")
def tokenizer(tiny_llm):
    return AutoTokenizer.from_pretrained(tiny_llm)


def text(prompts: Prompts, tokens: Tokens, row: int) -> str:
    ids = tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]]
    return str(prompts.tokenizer.decode(ids.tolist()))


def test_users_show_their_newest_titles_first(tokenizer):
    prompts = Prompts(tokenizer, TITLES, PromptConfig(n_titles=2))
    assert prompts.user_text(["red wolf", "storm"]) == "A user liked: storm; red wolf"
    tokens = prompts.users(Histories.from_lists([[0, 1, 3], [4]]))
    assert text(prompts, tokens, 0) == "[CLS] a user liked [UNK] storm [UNK] blue lake [SEP]"
    assert text(prompts, tokens, 1) == "[CLS] a user liked [UNK] night river stone [SEP]"
    oldest = Prompts(tokenizer, TITLES, PromptConfig(n_titles=2, newest_first=False))
    assert oldest.user_text(["red wolf", "storm"]) == "A user liked: red wolf; storm"


def test_missing_titles_and_missing_histories(tokenizer):
    prompts = Prompts(tokenizer, TITLES)
    assert prompts.item_text(2) == "unknown"
    assert prompts.user_text(["", "storm"]) == "A user liked: storm"
    assert prompts.user_text([""]) == prompts.user_text([]) == "A new user"
    tokens = prompts.users(Histories.from_lists([[], [2], [3]]))
    assert text(prompts, tokens, 0) == text(prompts, tokens, 1) == "[CLS] a [UNK] user [SEP]"
    assert len(prompts.users(Histories.from_lists([]))) == 0


def test_no_titles_at_all_can_be_asked_for(tokenizer):
    prompts = Prompts(tokenizer, TITLES, PromptConfig(n_titles=0))
    tokens = prompts.users(Histories.from_lists([[0, 1]]))
    assert text(prompts, tokens, 0) == "[CLS] a [UNK] user [SEP]"


def test_whole_titles_go_first_the_oldest(tokenizer):
    config = PromptConfig(user="{titles}", separator=" ", max_tokens=8)
    prompts = Prompts(tokenizer, TITLES, config)
    tokens = prompts.users(Histories.from_lists([[0, 1, 3, 4], [4, 4, 4]]))
    # 2 special tokens + 3 + 1 + 2 fit, "red wolf" does not
    assert text(prompts, tokens, 0) == "[CLS] night river stone storm blue lake [SEP]"
    assert text(prompts, tokens, 1) == "[CLS] night river stone night river stone [SEP]"
    assert tokens.n_cut == 2
    assert prompts.users(Histories.from_lists([[0], [4, 4, 4]])).n_cut == 1
    long = Prompts(tokenizer, ["red " * 20], config)
    for cut in (long.users(Histories.from_lists([[0]])), long.items([0])):
        assert cut.lengths.tolist() == [8]
        assert cut.n_cut == 1
        assert text(long, cut, 0).endswith("red [SEP]")


def test_a_text_that_is_cut_keeps_its_closing_token(tiny_llm):
    tokenizer = AutoTokenizer.from_pretrained(
        tiny_llm, cls_token=None, sep_token=None, eos_token="[SEP]"
    )
    prompts = Prompts(tokenizer, ["red " * 20], PromptConfig(max_tokens=8))
    assert prompts.tokenizer.sep_token_id is None
    assert text(prompts, prompts.items([0]), 0) == "[CLS] red red red red red red [SEP]"


def test_a_long_title_is_cut_not_lost_to_an_untitled_one(tokenizer):
    prompts = Prompts(tokenizer, ["red " * 20, ""], PromptConfig(max_tokens=8))
    tokens = prompts.users(Histories.from_lists([[0, 1], [0]]))
    assert text(prompts, tokens, 0) == text(prompts, tokens, 1)
    assert text(prompts, tokens, 0).startswith("[CLS] a user liked")


def test_templates_are_checked():
    settings: list[tuple[dict[str, Any], str]] = [
        ({"user": "hello"}, "titles"),
        ({"item": "hello"}, "title"),
        ({"n_titles": -1}, "n_titles"),
        ({"max_tokens": 2}, "max_tokens"),
    ]
    for changes, message in settings:
        with pytest.raises(ValueError, match=message):
            PromptConfig(**changes)


@given(
    st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=9),
    st.data(),
)
def test_a_batch_equals_a_plain_loop(rows, data):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    tokens = Tokens(offsets, np.concatenate(rows).astype(np.int32), padding_id=0)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=12))
    ids, mask = tokens.batch(chosen)
    longest = max(len(rows[row]) for row in chosen)
    assert ids.tolist() == [rows[row] + [0] * (longest - len(rows[row])) for row in chosen]
    assert mask.tolist() == [
        [1] * len(rows[row]) + [0] * (longest - len(rows[row])) for row in chosen
    ]
