"""A tiny dataset, a tiny language model and a study of them, in a new folder.

They are made without rarec, so that any version of it can be driven on them.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

_WORDS = ("red", "blue", "wolf", "lake", "storm", "river", "night", "stone", "a", "user", "liked")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
N_USERS, N_ITEMS, N_EACH = 120, 40, 10

STUDY = """
part = "validation"
seeds = [0]

[data.tiny]
source = "data"

[set]
ids.text = ""
ids.dim = 8
ids.max_epochs = 2
ids.batch_size = 32
selection.fraction = 0.5
align.llm = "./llm"
align.training.max_steps = 4
align.training.per_device_train_batch_size = 16
align.training.save_steps = 2

[variants.low]
align.training.learning_rate = 1e-4
"""


def write_tiny(folder: Path, llm: str = "./llm") -> None:
    """Write `data/`, `llm/` and `study.toml` into a folder; each call writes the same.

    Args:
        folder: The folder.
        llm: Name of the language model in the study.
    """
    _write_data(folder / "data")
    _write_language_model(folder / "llm")
    (folder / "study.toml").write_text(STUDY.replace("./llm", llm))


def _write_data(folder: Path) -> None:
    """Write 120 users of two tastes: the even ones take red items, the odd ones blue items."""
    folder.mkdir(parents=True)
    generator = random.Random(0)
    rows = ["user_id,item_id,timestamp"]
    for user in range(N_USERS):
        chosen = generator.sample(range(user % 2, N_ITEMS, 2), N_EACH)
        rows += [f"u{user:03},i{item:02},{time}" for time, item in enumerate(chosen)]
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
    titles = [
        f"i{item:02},{('red', 'blue')[item % 2]} {_WORDS[2 + item % 6]} {_WORDS[2 + item // 6 % 6]}"
        for item in range(N_ITEMS)
    ]
    (folder / "items.csv").write_text("\n".join(["item_id,title", *titles]) + "\n")


def _write_language_model(folder: Path) -> None:
    """Write a random BERT of two layers and a tokenizer of whole words."""
    vocabulary = {word: number for number, word in enumerate((*_SPECIAL, *_WORDS))}
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
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
