"""Fixtures that several test files share."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from rarec.data import Dataset, read_dataset

WORDS = ("red", "blue", "wolf", "lake", "storm", "river", "night", "stone", "a", "user", "liked")


@pytest.fixture
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill new uninitialised float tensors with NaN, so that memory never written shows."""
    empty, empty_like = torch.empty, torch.empty_like

    @torch.no_grad()
    def poison(tensor: Tensor) -> Tensor:
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", lambda *args, **options: poison(empty(*args, **options)))
    monkeypatch.setattr(
        torch, "empty_like", lambda *args, **options: poison(empty_like(*args, **options))
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of the real datasets, or skip."""
    beside = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("RAREC_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder} (set RAREC_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random BERT of two layers and a tokenizer of whole words."""
    folder = tmp_path_factory.mktemp("tiny-llm")
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    vocabulary = {word: number for number, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def planted() -> Dataset:
    """Return 120 users of two tastes: the even ones take red items, the odd ones blue items.

    Item 0 is red and has no title; the titles otherwise name the taste.
    """
    generator = np.random.default_rng(0)
    rows = []
    for user in range(120):
        chosen = 2 * generator.permutation(20)[:10] + user % 2
        rows += [(f"u{user:03}", f"i{item:02}", time) for time, item in enumerate(chosen)]
    interactions = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    titles = [
        "" if item == 0 else f"{('red', 'blue')[item % 2]} {WORDS[2 + item % 6]}"
        for item in range(40)
    ]
    items = pl.DataFrame({"item_id": [f"i{item:02}" for item in range(40)], "title": titles})
    return read_dataset(interactions, items)
