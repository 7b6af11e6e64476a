"""Many entities in short batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarec.backbone import load_backbone
from rarec.encoding import Entities, encode, length_batches
from rarec.model import RARec
from rarec.prompts import Prompts


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 100))
def test_each_row_comes_once_and_batches_fit(lengths, batch_tokens):
    lengths = np.array(lengths, dtype=np.int64)
    batches = list(length_batches(lengths, batch_tokens))
    rows = np.concatenate(batches) if batches else np.empty(0, int)
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= batch_tokens
    assert np.all(np.diff(lengths[rows]) >= 0)


def test_the_result_does_not_depend_on_the_batches(tiny_llm):
    backbone, tokenizer = load_backbone(str(tiny_llm), device="cpu")
    titles = ["red", "blue wolf lake storm", "night river", "", "stone stone stone"]
    tokens = Prompts(tokenizer, titles).items(range(5))
    vectors = np.random.default_rng(0).normal(size=(5, 1, 4)).astype(np.float32)
    entities = Entities(tokens, vectors, np.array([True, True, False, True, False]))
    model = RARec(backbone, user_id_dim=4, item_id_dim=4)
    done = []
    whole = encode(model, model.item, entities, on_rows=done.append)
    assert sum(done) == 5
    single = encode(model, model.item, entities, batch_tokens=1)
    np.testing.assert_allclose(whole, single, atol=1e-6)
    assert whole.dtype == np.float32


def test_rows_that_do_not_fit_are_refused(tiny_llm):
    _, tokenizer = load_backbone(str(tiny_llm), device="cpu")
    tokens = Prompts(tokenizer, ["red", "blue"]).items(range(2))
    with pytest.raises(ValueError, match=r"id_vectors \[2, K, E\]"):
        Entities(tokens, np.zeros((3, 1, 4), np.float32))
    with pytest.raises(ValueError, match=r"has_id \[2\]"):
        Entities(tokens, np.zeros((2, 1, 4), np.float32), np.ones(3, bool))
