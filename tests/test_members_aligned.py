"""The aligned model as a member: ID tokens of users, vectors of the newest items among them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rarec.backbone import load_backbone
from rarec.data import Histories
from rarec.ids import GivenIDs
from rarec.members.aligned import AlignedModel
from rarec.model import RARec
from rarec.recommender import Recommender
from rarec.settings import AlignSettings, ModelSettings, SelectionSettings, TrainingSettings

N, K, E, U = 9, 2, 5, 4
KNOWN = np.arange(N) != 7
VECTORS = np.random.default_rng(0).normal(size=(N, E)).astype(np.float32)
USERS = 3 * np.random.default_rng(1).normal(size=(U, K, E)).astype(np.float32)


def aligned(tiny_llm, **changes) -> AlignedModel:
    backbone, tokenizer = load_backbone(str(tiny_llm), device="cpu")
    settings = ModelSettings(prefix_length=2, layers="all", **changes)
    model = RARec(backbone, user_id_dim=E, item_id_dim=E, settings=settings)
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


def test_a_model_with_them_is_kept_and_gives_the_same_answers(planted, tiny_llm, tmp_path):
    generator = np.random.default_rng(0)
    ids = GivenIDs(generator.normal(size=(40, E)).astype(np.float32), np.arange(40) % 10 > 0)
    recommender = Recommender(planted, folder=tmp_path / "run")
    recommender.select(SelectionSettings(fraction=0.5))
    recommender.use_ids(ids)
    training = TrainingSettings(max_steps=3, per_device_train_batch_size=16, learning_rate=1e-2)
    config = AlignSettings(
        llm=str(tiny_llm),
        model=ModelSettings(item_tokens=3),
        training=training,
    )
    recommender.align(config)
    again = Recommender.open(tmp_path / "run")
    model = again.model().model
    assert model.settings.item_tokens == 3
    questions: list[dict[str, Any]] = [
        {"user": "u003"},
        {"items": ["i02", "i04"]},
        {"titles": ["red wolf"]},
        {},
    ]
    for question in questions:
        assert again.recommend(**question, k=5) == recommender.recommend(**question, k=5)
    # and the tokens are read: without them other answers come out
    bare = Recommender.open(tmp_path / "run").model()
    history = planted.histories.take([3])
    with_tokens = bare.queries(bare.user_entities(history))
    bare.model.settings = replace(bare.model.settings, item_tokens=0)
    without = bare.queries(bare.user_entities(history))
    assert not np.allclose(with_tokens, without, atol=1e-4)
    assert torch.isfinite(model.user.projector).all()


def test_zero_vectors_do_not_count_in_the_scale(planted, tiny_llm):
    ids = GivenIDs(np.full((40, E), 2, np.float32), np.arange(40) % 2 > 0)
    recommender = Recommender(planted)
    recommender.select(SelectionSettings(fraction=0.5))
    recommender.use_ids(ids)
    model = ModelSettings(item_tokens=4)
    recommender.align(
        AlignSettings(llm=str(tiny_llm), model=model, training=TrainingSettings(max_steps=1))
    )
    assert recommender.model().model.user.id_scale.item() == pytest.approx(2, rel=1e-5)


def test_vectors_before_the_text_may_be_items(planted, tiny_llm):
    recommender = Recommender(planted)
    recommender.select(SelectionSettings(fraction=0.5))
    recommender.use_ids(GivenIDs(np.ones((40, E), np.float32), np.ones(40, bool)))
    model = ModelSettings(placement="inputs", prefix_length=2, item_tokens=5)
    training = TrainingSettings(max_steps=1, per_device_train_batch_size=8)
    config = AlignSettings(llm=str(tiny_llm), model=model, training=training)
    recommender.align(config)
    assert len(recommender.recommend("u003", k=5)) == 5
    # each takes a position of the 64 that the model has
    many = replace(config, model=replace(model, item_tokens=60))
    with pytest.raises(ValueError, match="at most 64 tokens"):
        recommender.align(many, restart=True)


def test_a_number_of_items_below_zero_is_refused():
    with pytest.raises(ValueError, match=r"item_tokens to be greater than or equal to 0, got -1"):
        ModelSettings(item_tokens=-1)
