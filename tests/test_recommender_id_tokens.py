"""ID tokens of users: vectors of the newest items beside their own, and vectors of length one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rarec.backbone import load_backbone
from rarec.data import Histories
from rarec.ids import GivenIDs
from rarec.model import ModelConfig, RARec
from rarec.recommender import AlignConfig, AlignedModel, Recommender
from rarec.selection import SelectionConfig

N, K, E, U = 9, 2, 5, 4
KNOWN = np.arange(N) != 7
VECTORS = np.random.default_rng(0).normal(size=(N, E)).astype(np.float32)
USERS = 3 * np.random.default_rng(1).normal(size=(U, K, E)).astype(np.float32)


def aligned(tiny_llm, **changes) -> AlignedModel:
    backbone, tokenizer = load_backbone(str(tiny_llm), device="cpu")
    config = ModelConfig(prefix_length=2, **changes)
    model = RARec(backbone, user_id_dim=E, item_id_dim=E, config=config)
    ids = GivenIDs(VECTORS, KNOWN, USERS, np.array([True, True, True, False]))
    return AlignedModel(model, tokenizer, ["red wolf"] * N, ids)


def user_vectors(model: AlignedModel, histories: list[list[int]]) -> np.ndarray:
    rows = Histories.from_lists(histories)
    entities = model.user_entities(rows, np.arange(len(rows), dtype=np.int32))
    assert entities.id_vectors is not None
    assert entities.id_vectors.dtype == np.float32
    return entities.id_vectors


def test_the_newest_items_stand_after_the_vectors_of_the_user(tiny_llm):
    model = aligned(tiny_llm, item_tokens=3)
    found = user_vectors(model, [[1, 2, 3, 4, 5], [8, 0], [], [6, 7, 2]])
    assert found.shape == (4, K + 3, E)
    np.testing.assert_array_equal(found[:, :K], USERS)
    nothing = np.zeros(E)
    # the oldest of the three first; a short history is filled up in front
    np.testing.assert_array_equal(found[0, K:], VECTORS[[3, 4, 5]])
    np.testing.assert_array_equal(found[1, K:], [nothing, VECTORS[8], VECTORS[0]])
    np.testing.assert_array_equal(found[2, K:], [nothing] * 3)
    # 7 has no vector: its place is kept
    np.testing.assert_array_equal(found[3, K:], [VECTORS[6], nothing, VECTORS[2]])
    assert model.ids is not None
    np.testing.assert_array_equal(model.ids.item_vectors, VECTORS)
    assert user_vectors(aligned(tiny_llm), [[1, 2]]).shape == (1, K, E)


def test_a_user_without_vectors_has_no_item_tokens(tiny_llm):
    model = aligned(tiny_llm, item_tokens=3)
    histories = Histories.from_lists([[1, 2], [1, 2]])
    # the last one is no user of the table
    entities = model.user_entities(histories, np.array([0, 3], dtype=np.int32))
    assert entities.has_id is not None
    assert entities.has_id.tolist() == [True, False]
    vectors = model.queries(entities)
    alone = model.queries(model.user_entities(histories.take([1]), None))
    np.testing.assert_allclose(vectors[1], alone[0], rtol=1e-4, atol=1e-4)


def test_what_the_newest_item_is_changes_the_user(tiny_llm):
    model = aligned(tiny_llm, item_tokens=1)
    users = np.zeros(2, dtype=np.int32)
    # the same text, as all titles are alike
    histories = Histories.from_lists([[1, 2], [1, 3]])
    found = model.queries(model.user_entities(histories, users))
    assert not np.allclose(found[0], found[1], atol=1e-4)
    model = aligned(tiny_llm)
    same = model.queries(model.user_entities(histories, users))
    np.testing.assert_allclose(same[0], same[1], atol=1e-4)


def test_id_vectors_of_length_one(tiny_llm):
    model = aligned(tiny_llm, item_tokens=2, normalize_ids=True)
    found = user_vectors(model, [[1, 2], [3], [], [7, 4]])
    lengths = np.linalg.norm(found, axis=-1)
    assert lengths[0] == pytest.approx([1] * 4, rel=1e-5)
    assert lengths[1] == pytest.approx([1, 1, 0, 1], rel=1e-5)
    np.testing.assert_allclose(found[0, 3], VECTORS[2] / np.linalg.norm(VECTORS[2]), rtol=1e-5)
    items = model.item_entities().id_vectors
    assert items is not None
    np.testing.assert_allclose(np.linalg.norm(items, axis=-1), 1, rtol=1e-5)
    plain = aligned(tiny_llm).item_entities().id_vectors
    assert plain is not None
    np.testing.assert_array_equal(plain[:, 0], VECTORS)


def test_a_model_with_them_is_kept_and_gives_the_same_answers(planted, tiny_llm, tmp_path):
    generator = np.random.default_rng(0)
    ids = GivenIDs(generator.normal(size=(40, E)).astype(np.float32), np.arange(40) % 10 > 0)
    recommender = Recommender(planted, folder=tmp_path / "run")
    recommender.select(SelectionConfig(fraction=0.5))
    recommender.use_ids(ids)
    training = {"max_steps": 3, "per_device_train_batch_size": 16, "learning_rate": 1e-2}
    config = AlignConfig(
        llm=str(tiny_llm),
        model=ModelConfig(item_tokens=3, normalize_ids=True),
        training=training,
    )
    recommender.align(config)
    # each vector is of length one, and so is the scale: zero vectors are not counted
    for tower in (recommender.models["rarec"].model.user, recommender.models["rarec"].model.item):
        assert tower.id_scale.item() <= E**-0.5 + 1e-6
    item_scale = recommender.models["rarec"].model.item.id_scale.item()
    assert item_scale == pytest.approx(E**-0.5, rel=1e-4)

    again = Recommender.load(tmp_path / "run")
    model = again.models["rarec"].model
    assert (model.model_config.item_tokens, model.model_config.normalize_ids) == (3, True)
    questions: list[dict[str, Any]] = [
        {"user": "u003"},
        {"items": ["i02", "i04"]},
        {"titles": ["red wolf"]},
        {},
    ]
    for question in questions:
        assert again.recommend(**question, k=5) == recommender.recommend(**question, k=5)
    # and the tokens are read: without them other answers come out
    bare = Recommender.load(tmp_path / "run").models["rarec"]
    history = planted.histories.take([3])
    with_tokens = bare.queries(bare.user_entities(history))
    bare.model.model_config = replace(bare.model.model_config, item_tokens=0)
    without = bare.queries(bare.user_entities(history))
    assert not np.allclose(with_tokens, without, atol=1e-4)
    assert torch.isfinite(model.user.projector).all()


def test_zero_vectors_do_not_count_in_the_scale(planted, tiny_llm):
    ids = GivenIDs(np.full((40, E), 2, np.float32), np.arange(40) % 2 > 0)
    recommender = Recommender(planted)
    recommender.select(SelectionConfig(fraction=0.5))
    recommender.use_ids(ids)
    model = ModelConfig(item_tokens=4)
    recommender.align(AlignConfig(llm=str(tiny_llm), model=model, training={"max_steps": 1}))
    assert recommender.models["rarec"].model.user.id_scale.item() == pytest.approx(2, rel=1e-5)


def test_vectors_before_the_text_may_be_items(planted, tiny_llm):
    recommender = Recommender(planted)
    recommender.select(SelectionConfig(fraction=0.5))
    recommender.use_ids(GivenIDs(np.ones((40, E), np.float32), np.ones(40, bool)))
    model = ModelConfig(placement="inputs", prefix_length=2, item_tokens=5)
    training = {"max_steps": 1, "per_device_train_batch_size": 8}
    config = AlignConfig(llm=str(tiny_llm), model=model, training=training)
    recommender.align(config)
    assert len(recommender.recommend("u003", k=5)) == 5
    # each takes a position of the 64 that the model has
    many = replace(config, model=replace(model, item_tokens=60))
    with pytest.raises(ValueError, match="at most 64 tokens"):
        recommender.align(many)


def test_a_number_of_items_below_zero_is_refused():
    with pytest.raises(ValueError, match=r"item_tokens >= 0, got -1"):
        ModelConfig(item_tokens=-1)
