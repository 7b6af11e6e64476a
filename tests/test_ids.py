"""ID models: causal, padded, and saved; and vectors from elsewhere."""

from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch

from rarec.data import Histories
from rarec.ids import MODELS, GivenIDs, TrainedIDs, build_encoder, load_ids
from rarec.ids.comirec import ComiRec
from rarec.settings import ID_MODEL_OPTIONS, IDSettings

N = 30


def settings_of(model: Any, **changes) -> IDSettings:
    return IDSettings(model=model, dim=8, max_history=6, text="", **changes)


def encoder(model: str, **changes):
    torch.manual_seed(0)
    return build_encoder(settings_of(model, **changes), N).eval()


def test_the_settings_know_the_options_of_each_model():
    assert set(ID_MODEL_OPTIONS) == set(MODELS)
    for model, options in ID_MODEL_OPTIONS.items():
        accepted = set(signature(MODELS[model]).parameters)
        assert set(options) == accepted - {"items", "max_history", "dropout"}
        for option in options:
            encoder(model, options={option: 2})
    with pytest.raises(ValueError, match="n_heads"):
        build_encoder(IDSettings(model="sasrec", dim=7, text=""), N)


@pytest.mark.parametrize("model", MODELS)
def test_a_place_knows_nothing_of_later_items(model):
    history = torch.randint(0, N, (4, 6), generator=torch.Generator().manual_seed(0))
    changed = history.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % N
    with torch.no_grad():
        before, after = encoder(model)(history), encoder(model)(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("model", ["sasrec", "comirec"])
def test_padding_on_the_left_changes_nothing(model):
    # the recurrent model reads the zero vectors of the padding, always as many: next test
    history = torch.randint(0, N, (4, 3), generator=torch.Generator().manual_seed(0))
    padded = torch.cat([torch.full((4, 3), N), history], dim=1)
    with torch.no_grad():
        short, long = (encoder(model).user_vectors(table) for table in (history, padded))
    torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_user_vectors_do_not_depend_on_the_batch(model):
    ids = TrainedIDs(encoder(model), settings_of(model), np.ones(N, bool))
    histories = Histories.from_lists([[1, 2, 3], [4], [], [5, 6, 7, 8, 9, 10, 11, 12]])
    together, known = ids.user_vectors(histories)
    assert known.tolist() == [True, True, False, True]
    for row in range(4):
        alone, _ = ids.user_vectors(histories.take([row]))
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-5, atol=1e-6)
    newest, _ = ids.user_vectors(histories.last(6))
    np.testing.assert_allclose(newest, together, rtol=1e-5, atol=1e-6)


def test_running_sums_are_the_attention_over_each_prefix():
    model = encoder("comirec")
    assert isinstance(model, ComiRec)
    history = torch.tensor([[N, N, 3, 7, 3, 9]])
    items = model.items(history[0, 2:])
    positions = model.position_embedding(torch.arange(1, 5))
    logits = model.attention(items + positions)
    for place in range(4):
        weights = logits[: place + 1].softmax(dim=0)  # [places, K]
        interests = weights.T @ items[: place + 1]
        expected = interests + model.output(interests)
        torch.testing.assert_close(model(history)[0, 2 + place], expected)


def test_items_never_trained_are_no_part_of_a_history():
    known = np.ones(N, dtype=bool)
    known[[2, 5]] = False
    ids = TrainedIDs(encoder("gru4rec"), settings_of("gru4rec"), known)
    vectors, has_any = ids.user_vectors(Histories.from_lists([[1, 2, 3, 5], [1, 3], [2, 5]]))
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert has_any.tolist() == [True, True, False]


@pytest.mark.parametrize("model", MODELS)
def test_trained_ids_to_disk_and_back(tmp_path, model):
    settings = settings_of(model)
    torch.manual_seed(0)
    ids = TrainedIDs(build_encoder(settings, N), settings, np.arange(N) > 1)
    ids.save(tmp_path / "ids")
    again = load_ids(tmp_path / "ids")
    assert isinstance(again, TrainedIDs)
    assert again.settings == settings
    histories = Histories.from_lists([[3, 4], [], [0, 9]])
    for before, after in zip(
        ids.user_vectors(histories), again.user_vectors(histories), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(ids.item_vectors, again.item_vectors)
    np.testing.assert_array_equal(ids.item_known, again.item_known)
    (tmp_path / "ids" / "encoder.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"encoder\.safetensors: expected"):
        load_ids(tmp_path / "ids")


def test_given_vectors_are_averaged_over_the_known_items(tmp_path):
    table = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    known = np.ones(N, dtype=bool)
    known[7] = False
    ids = GivenIDs(table, known)
    ids.save(tmp_path / "ids")
    for source in (ids, load_ids(tmp_path / "ids")):
        vectors, has_any = source.user_vectors(Histories.from_lists([[1, 7, 3, 1], [7], []]))
        np.testing.assert_allclose(vectors[0, 0], (2 * table[1] + table[3]) / 3, rtol=1e-5)
        assert has_any.tolist() == [True, False, False]
        assert vectors.shape == (3, 1, 4)


def test_a_user_table_comes_first(tmp_path):
    table = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    users = np.random.default_rng(1).normal(size=(5, 2, 4)).astype(np.float32)
    ids = GivenIDs(table, np.ones(N, bool), users, np.array([1, 1, 0, 1, 1], bool))
    ids.save(tmp_path / "ids")
    histories = Histories.from_lists([[1], [2]])
    for source in (ids, load_ids(tmp_path / "ids")):
        assert source.n_user_vectors == 2
        vectors, has_any = source.user_vectors(histories, np.array([3, 2], np.int32))
        np.testing.assert_array_equal(vectors[0], users[3])
        assert has_any.tolist() == [True, False]
        # somebody who is not of the dataset has no row in the table
        assert not source.user_vectors(histories)[1].any()
    with pytest.raises(ValueError, match=r"user_known \[5\] with user_table, got None"):
        GivenIDs(table, np.ones(N, bool), users)
    with pytest.raises(ValueError, match="item_known"):
        GivenIDs(table, np.ones(3, bool))
