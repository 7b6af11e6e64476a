"""Texts of users and items, and their tokens."""

import copy
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rarec.data import Histories
from rarec.prompts import Prompts, Tokens
from rarec.settings import PromptSettings

TITLES = ["red wolf", "blue lake", "", "storm", "night river stone"]
LANGUAGES = {
    "german": PromptSettings(
        user="Jemand mochte {titles}. Weiter:", separator=" und ", item="Film: {title}"
    ),
    "japanese": PromptSettings(
        user="視聴履歴は{titles}。次は", separator="、", item="『{title}』", new_user="新しい人"
    ),
    "arabic": PromptSettings(
        user="أعجبه {titles} ثم", separator="، ", item="فيلم {title}", new_user="مستخدم جديد"
    ),
    "braces": PromptSettings(user="{{user}: {titles}, {title}}", separator="} {"),
}
CORPUS = [
    "Jemand mochte Das Boot und Metropolis.",
    "羅生門、七人の侍、東京物語",
    "المومياء، باب الحديد",
]
# the template of a chat model, with special tokens around each message and trimmed content
CHAT = (
    "{{ bos_token }}{% for message in messages %}<|start|>{{ message['role'] }}\n"
    "{{ message['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
# the template of an older model, without special tokens beside the content or a system message
BRACKETS = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ bos_token + '[INST] ' + message['content'] + ' [/INST]' }}{% endfor %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_llm):
    return AutoTokenizer.from_pretrained(tiny_llm)


def trained(kind: str) -> PreTrainedTokenizerFast:
    """Return a small tokenizer that is built like those of known models."""
    special = ["<s>", "</s>", "<unk>", "<|start|>", "<|end|>"]
    if kind == "pieces":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>", max_input_chars_per_word=20))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special)
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "prefix space")
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=350,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    if kind != "bytes":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A" if kind == "unigram" else "<s> $A </s>",
            special_tokens=[("<s>", 0), ("</s>", 1)],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        additional_special_tokens=["<|start|>", "<|end|>"],
        chat_template=CHAT,
        name_or_path=kind,
    )


@pytest.fixture(scope="module")
def kinds() -> dict[str, PreTrainedTokenizerFast]:
    """Return tokenizers of four kinds, which differ in leading spaces, special tokens and bytes."""
    return {kind: trained(kind) for kind in ("bytes", "prefix space", "pieces", "unigram")}


def rows(tokens: Tokens) -> list[list[int]]:
    return [part.tolist() for part in np.split(tokens.ids, tokens.offsets[1:-1])]


def encoded(prompts: Prompts, text: str) -> list[int]:
    """Return the tokens of one text as the tokenizer of transformers encodes it."""
    if not prompts.config.chat:
        return prompts.tokenizer(text)["input_ids"]  # type: ignore[return-value]
    messages = [{"role": "user", "content": text}]
    if prompts.config.system:
        messages.insert(0, {"role": "system", "content": prompts.config.system})
    together: Any = prompts.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    return together["input_ids"]


def text(prompts: Prompts, tokens: Tokens, row: int) -> str:
    ids = tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]]
    return str(prompts.tokenizer.decode(ids.tolist()))


def test_users_show_their_newest_titles_first(tokenizer):
    prompts = Prompts(tokenizer, TITLES, PromptSettings(n_titles=2))
    assert prompts.user_text(["red wolf", "storm"]) == "A user liked: storm; red wolf"
    tokens = prompts.users(Histories.from_lists([[0, 1, 3], [4]]))
    assert text(prompts, tokens, 0) == "[CLS] a user liked [UNK] storm [UNK] blue lake [SEP]"
    assert text(prompts, tokens, 1) == "[CLS] a user liked [UNK] night river stone [SEP]"
    oldest = Prompts(tokenizer, TITLES, PromptSettings(n_titles=2, newest_first=False))
    assert oldest.user_text(["red wolf", "storm"]) == "A user liked: red wolf; storm"


def test_missing_titles_and_missing_histories(tokenizer):
    prompts = Prompts(tokenizer, TITLES)
    assert prompts.item_text(2) == "unknown"
    assert prompts.user_text(["", "storm"]) == "A user liked: storm"
    assert prompts.user_text([""]) == prompts.user_text([]) == "A new user"
    tokens = prompts.users(Histories.from_lists([[], [2], [3]]))
    assert text(prompts, tokens, 0) == text(prompts, tokens, 1) == "[CLS] a [UNK] user [SEP]"
    assert len(prompts.users(Histories.from_lists([]))) == 0


def test_user_texts_can_be_without_titles(tokenizer):
    prompts = Prompts(tokenizer, TITLES, PromptSettings(n_titles=0))
    tokens = prompts.users(Histories.from_lists([[0, 1]]))
    assert text(prompts, tokens, 0) == "[CLS] a [UNK] user [SEP]"


def test_whole_titles_are_left_out_the_oldest_first(tokenizer):
    config = PromptSettings(user="{titles}", separator=" ", max_tokens=8)
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
    prompts = Prompts(tokenizer, ["red " * 20], PromptSettings(max_tokens=8))
    assert prompts.tokenizer.sep_token_id is None
    assert text(prompts, prompts.items([0]), 0) == "[CLS] red red red red red red [SEP]"


def test_a_long_title_is_cut_even_after_an_empty_title(tokenizer):
    prompts = Prompts(tokenizer, ["red " * 20, ""], PromptSettings(max_tokens=8))
    tokens = prompts.users(Histories.from_lists([[0, 1], [0]]))
    assert text(prompts, tokens, 0) == text(prompts, tokens, 1)
    assert text(prompts, tokens, 0).startswith("[CLS] a user liked")


def test_templates_are_checked():
    cases: list[tuple[dict[str, Any], str]] = [
        ({"user": "hello"}, "titles"),
        ({"item": "hello"}, "title"),
        ({"n_titles": -1}, "n_titles"),
        ({"max_tokens": 2}, "max_tokens"),
        ({"max_tokens": 32.0}, "max_tokens to be a valid integer, got 32.0"),
        ({"new_user": None}, "new_user to be a valid string, got None"),
        ({"separator": ""}, "separator"),
        ({"untitled": ""}, "untitled"),
        ({"chat": 1}, "chat to be a valid boolean, got 1"),
        ({"system": "be brief"}, "expected chat with a system message"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            PromptSettings(**changes)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("chat", [False, True])
def test_templates_in_any_language(kinds, language, chat):
    config = replace(LANGUAGES[language], chat=chat)
    titles = ["羅生門", "Das Boot {titles}", "باب الحديد", "{title}", ""]
    for tokenizer in kinds.values():
        prompts = Prompts(tokenizer, titles, config)
        shown = config.separator.join(["باب الحديد", "Das Boot {titles}"])
        user = config.user.replace("{titles}", shown)
        tokens = prompts.users(Histories.from_lists([[1, 2, 4], []]))
        assert rows(tokens) == [encoded(prompts, user), encoded(prompts, config.new_user)]
        items = [config.item.replace("{title}", title or "unknown") for title in titles]
        assert rows(prompts.items(range(5))) == [encoded(prompts, item) for item in items]


def test_texts_without_tokens_have_one(kinds):
    config = PromptSettings(new_user="")
    for name, expected in (("bytes", [0]), ("unigram", [0]), ("pieces", [0, 1])):
        tokens = Prompts(kinds[name], [], config).user_titles([[], []])
        assert rows(tokens) == [expected, expected]
        assert tokens.n_cut == 0


def test_many_texts_are_the_same_as_one_by_one(kinds):
    titles = [f"{number} Das Boot" for number in range(2500)]
    for chat in (False, True):
        prompts = Prompts(kinds["bytes"], titles, PromptSettings(chat=chat))
        tokens = rows(prompts.items(range(2500)))
        assert len(tokens) == 2500
        for number in (0, 1023, 1024, 2499):
            assert tokens[number] == encoded(prompts, titles[number])


def test_a_chat_has_its_system_message_and_one_start_token(kinds):
    tokenizer = kinds["prefix space"]
    prompts = Prompts(tokenizer, ["Boot"], PromptSettings(chat=True, system="Ein Katalog"))
    (row,) = rows(prompts.items([0]))
    assert row == encoded(prompts, "Boot")
    shown = prompts.tokenizer.decode(row)
    assert shown.index("Ein Katalog") < shown.index("Boot") < shown.index("assistant")
    # the tokenizer must not add a second start token to that of the chat template
    assert row.count(tokenizer.bos_token_id) == 1
    assert tokenizer("Boot")["input_ids"][0] == tokenizer.bos_token_id


@pytest.mark.parametrize("template", [CHAT, BRACKETS])
def test_a_chat_that_is_cut_keeps_its_closing_tokens(kinds, template):
    for kind, tokenizer in kinds.items():
        config = PromptSettings(user="Gern: {titles}!", max_tokens=48, chat=True)
        changed = copy.deepcopy(tokenizer)
        changed.chat_template = template
        prompts = Prompts(changed, ["Das Boot " * 40, "Metropolis"], config)
        for tokens, end in (
            (prompts.items([0, 1]), ""),
            (prompts.users(Histories.from_lists([[0], [1]])), "!"),
        ):
            assert tokens.n_cut == 1
            cut, whole = rows(tokens)
            assert len(cut) == 48
            closing = "[/INST]" if template is BRACKETS else "<|end|>\n<|start|>assistant\n"
            n_closing = len(changed(end + closing, add_special_tokens=False)["input_ids"])
            # except the first token, which has a space before it or is merged with the content
            assert cut[-n_closing + 1 :] == whole[-n_closing + 1 :], kind
            assert "Boot" in changed.decode(cut) or "boot" in changed.decode(cut)


def test_a_plain_text_that_is_cut_keeps_the_end_of_its_template(kinds):
    config = PromptSettings(user="Jemand {titles} und Boot", item="{title} und das.", max_tokens=32)
    for kind, tokenizer in kinds.items():
        prompts = Prompts(tokenizer, ["Das Boot " * 40], config)
        for tokens, end in (
            (prompts.user_titles([["Das Boot " * 40]]), " und Boot"),
            (prompts.items([0]), " und das."),
        ):
            (row,) = rows(tokens)
            assert len(row) == 32
            shown = str(tokenizer.decode(row, skip_special_tokens=True))
            if kind == "pieces":
                shown, end = shown.replace(" ##", "").replace(" .", "."), end.lower()
            assert shown.endswith(end), kind
            assert (row[-1] == tokenizer.eos_token_id) == (kind in ("prefix space", "pieces"))


def test_a_cut_title_leaves_no_broken_character_before_the_template_end(kinds):
    # a separate full stop is encoded with a space, which would replace a part of a character
    for kind in ("bytes", "prefix space"):
        prompts = Prompts(kinds[kind], [], PromptSettings(user="Gern {titles}.", max_tokens=16))
        (row,) = rows(prompts.user_titles([["e" * 30 + "🏽"]]))
        shown = str(prompts.tokenizer.decode(row, skip_special_tokens=True))
        assert re.fullmatch(r" ?Gern e+\.", shown), shown


def test_a_chat_template_has_a_fixed_date(kinds):
    tokenizer = copy.deepcopy(kinds["bytes"])
    tokenizer.chat_template = (
        "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
        "{%- endif %}{{ date_string }}: {{ messages[0]['content'] }}"
    )
    prompts = Prompts(tokenizer, ["Boot"], PromptSettings(chat=True))
    assert text(prompts, prompts.items([0]), 0) == "26 Jul 2024: Boot"


def test_unsuitable_chat_templates_are_refused(kinds):
    config = PromptSettings(chat=True, system="be brief")
    cases = [
        (None, "chat template, got 'bytes', which has none"),
        (BRACKETS, "'bytes' accepts, got: System role not supported"),
        ("{{ messages[-1]['content'] }}", "'bytes', which leaves out 'be brief'"),
        ("{{ messages[0]['content'] }}", "'bytes', which leaves out 'rarec content'"),
    ]
    for template, message in cases:
        tokenizer = copy.deepcopy(kinds["bytes"])
        tokenizer.chat_template = template
        with pytest.raises(ValueError, match=re.escape(message)):
            Prompts(tokenizer, [], config)


def test_templates_that_fill_max_tokens_are_refused(kinds):
    long = "Ein sehr langer Text ohne Platz"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"user": long + "{titles}"}, "user"),
        ({"item": long + "{title}"}, "item"),
        ({"new_user": long}, "new_user"),
        ({"chat": True, "system": long, "max_tokens": 32}, "user"),
    ]
    for changes, name in cases:
        message = rf"max_tokens > \d+, the number of tokens of the {name} text"
        with pytest.raises(ValueError, match=message):
            Prompts(
                kinds["bytes"],
                [],
                PromptSettings(**{"user": "{titles}", "new_user": "", "max_tokens": 8, **changes}),
            )


words = st.text(st.sampled_from("aeBoot \n.,;?!-、。羅生門باب{}é👍🏽"), min_size=1, max_size=14)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_the_longest_history_that_fits_is_shown(kinds, data):
    """Compare with the definition, which removes one title at a time until the text fits."""
    config = PromptSettings(
        user=data.draw(st.sampled_from(["{titles}", "Gern: {titles}. Nun", "{titles}|{titles}"])),
        new_user="x",
        separator=data.draw(st.sampled_from(["; ", "、", " ", "-", "e"])),
        n_titles=data.draw(st.integers(1, 40)),
        newest_first=data.draw(st.booleans()),
        max_tokens=data.draw(st.sampled_from([48, 80])),
        chat=data.draw(st.booleans()),
    )
    tokenizer = kinds[data.draw(st.sampled_from(sorted(kinds)))]
    prompts = Prompts(tokenizer, [], config)
    histories = data.draw(st.lists(st.lists(words, max_size=40), min_size=1, max_size=3))
    tokens = prompts.user_titles(histories)
    n_cut = 0
    for row, history in zip(rows(tokens), histories, strict=True):
        shown = history[-config.n_titles :]
        expected = encoded(prompts, prompts.user_text(shown))
        n_cut += len(expected) > config.max_tokens
        while len(expected) > config.max_tokens and len(shown) > 1:
            shown = shown[1:]
            expected = encoded(prompts, prompts.user_text(shown))
        if len(expected) <= config.max_tokens:
            assert row == expected
        else:
            assert config.max_tokens - 3 <= len(row) <= config.max_tokens
            assert "\N{REPLACEMENT CHARACTER}" not in str(tokenizer.decode(row))
    assert tokens.n_cut == n_cut


def test_long_histories_are_encoded_a_few_times_only(kinds, monkeypatch):
    prompts = Prompts(kinds["bytes"], [], PromptSettings(n_titles=200, max_tokens=64))
    counts = []
    encode = Prompts._ids
    monkeypatch.setattr(
        Prompts, "_ids", lambda *args, **kw: counts.append(len(args[1])) or encode(*args, **kw)
    )
    tokens = prompts.user_titles([[f"Das Boot {row} {n}" for n in range(200)] for row in range(9)])
    assert tokens.n_cut == 9
    # with one title removed at a time, each history would be encoded more than 180 times
    assert sum(counts) - (9 * 200 + 1) < 9 * 15


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


def test_a_text_that_is_no_utf8_is_read_with_question_marks(tokenizer):
    prompts = Prompts(tokenizer, [])
    found, expected = (prompts.user_titles([[title]]).ids for title in ("red \udcff", "red ?"))
    assert found.tolist() == expected.tolist()
