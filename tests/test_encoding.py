"""Many entities in short batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarec.backbone import load_backbone
from rarec.encoding import Entities, encode, encode_texts, plan_batches
from rarec.model import RARec
from rarec.prompts import Prompts


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 100))
def test_each_row_comes_once_and_batches_fit(lengths, batch_tokens):
    lengths = np.array(lengths, dtype=np.int64)
    batches = list(plan_batches(lengths, batch_tokens))
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
    single = encode(model, model.item, entities, plan=plan_batches(tokens.lengths, 1))
    np.testing.assert_allclose(whole, single, atol=1e-6)
    assert whole.dtype == np.float32


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 5))
def test_the_parts_of_a_plan_have_each_batch_once(lengths, n):
    plan = plan_batches(np.array(lengths, dtype=np.int64), 50)
    parts = [plan.part(k, n) for k in range(n)]
    dealt = sorted(rows.tolist() for part in parts for rows in part)
    assert dealt == sorted(rows.tolist() for rows in plan)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    np.testing.assert_array_equal(plan.rows, np.arange(len(lengths)))


@pytest.mark.parametrize("part", [-1, 3])
def test_a_part_that_is_not_there_is_refused(part):
    with pytest.raises(ValueError, match=f"expected a part from 0 to 2, got {part}"):
        plan_batches(np.ones(4, np.int64)).part(part, 3)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_parts_give_the_bits_of_the_whole(tiny_llm, planted, n):
    backbone, tokenizer = load_backbone(str(tiny_llm), device="cpu")
    tokens = Prompts(tokenizer, planted.titles).users(planted.histories)
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(len(tokens), 1, 4)).astype(np.float32)
    entities = Entities(tokens, vectors, generator.random(len(tokens)) < 0.8)
    model = RARec(backbone, user_id_dim=4, item_id_dim=4)
    plan = plan_batches(tokens.lengths, 200)
    assert len(plan) > 6
    for whole, read in (
        (
            encode(model, model.user, entities, plan=plan),
            lambda p: encode(model, model.user, entities, plan=p),
        ),
        (
            encode_texts(backbone, tokens, plan=plan),
            lambda p: encode_texts(backbone, tokens, plan=p),
        ),
    ):
        merged = np.full_like(whole, np.nan)
        for k in range(n):
            part = plan.part(k, n)
            merged[part.rows] = read(part)
        np.testing.assert_array_equal(merged, whole)


def test_rows_that_do_not_fit_are_refused(tiny_llm):
    _, tokenizer = load_backbone(str(tiny_llm), device="cpu")
    tokens = Prompts(tokenizer, ["red", "blue"]).items(range(2))
    with pytest.raises(ValueError, match=r"id_vectors \[2, K, E\]"):
        Entities(tokens, np.zeros((3, 1, 4), np.float32))
    with pytest.raises(ValueError, match=r"has_id \[2\]"):
        Entities(tokens, np.zeros((2, 1, 4), np.float32), np.ones(3, bool))
