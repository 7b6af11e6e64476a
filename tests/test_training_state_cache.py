"""Lower states that several trainings share."""

import numpy as np
import pytest
import torch

from rarec.backbone import load_backbone
from rarec.encoding import Entities, encode
from rarec.model import ModelConfig, RARec
from rarec.prompts import Prompts
from rarec.training import LowerStateCache, LowerStates


@pytest.fixture(scope="module")
def llm(tiny_llm):
    return load_backbone(str(tiny_llm), device="cpu")


def make_model(llm, **config) -> RARec:
    config = {"layers": 1, "prefix_length": 2, "use_ids": False, **config}
    return RARec(llm[0], user_id_dim=4, item_id_dim=4, config=ModelConfig(**config))


def test_the_states_are_computed_once_and_read_by_others(llm, planted, tmp_path, monkeypatch):
    tokens = Prompts(llm[1], planted.titles).items(np.arange(40))
    cache, model = LowerStateCache(tmp_path / "cache"), make_model(llm)
    read: list[int] = []
    states = cache.of(model, tokens, on_rows=read.append)
    assert states is not None
    assert sum(read) == 40
    # a table and its states, nothing half written
    assert len(list((tmp_path / "cache").iterdir())) == 2

    def fail(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(LowerStates, "_compute", fail)
    again = LowerStateCache(tmp_path / "cache").of(make_model(llm, prefix_length=3), tokens)
    assert again is not None
    rows = np.array([7, 0, 39, 7])
    batch = Entities(tokens).batch(rows)
    filled = again.fill(batch, rows).lower
    assert filled is not None
    ids, mask = batch.input_ids, batch.attention_mask
    torch.testing.assert_close(filled, llm[0].lower_states(ids, mask, below=1))
    # other texts have states of their own
    other = Prompts(llm[1], planted.titles).items(np.arange(30))
    with pytest.raises(AssertionError, match="computed again"):
        cache.of(model, other)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_encoding_with_them_gives_the_same(llm, planted, tmp_path):
    tokens = Prompts(llm[1], planted.titles).items(np.arange(40))
    model = make_model(llm)
    states = LowerStateCache(tmp_path).of(model, tokens)
    assert states is not None
    plain = encode(model, model.item, Entities(tokens))
    filled = encode(model, model.item, Entities(tokens), fill=states.fill)
    np.testing.assert_allclose(filled, plain, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_computed_each_time(llm, planted, tmp_path):
    tokens = Prompts(llm[1], planted.titles).items(np.arange(40))
    model = make_model(llm)
    cache = LowerStateCache(tmp_path, limit=3000)
    states = cache.of(model, tokens)
    assert states is not None
    size = states.file.stat().st_size
    assert 0 < size <= 3000
    again = cache.of(model, tokens)
    assert again is not None
    filled = encode(model, model.item, Entities(tokens), fill=again.fill)
    np.testing.assert_allclose(
        filled, encode(model, model.item, Entities(tokens)), rtol=1e-5, atol=1e-6
    )
    # it only reads what is there
    assert states.file.stat().st_size == size


@pytest.mark.parametrize("config", [{"layers": None}, {"placement": "inputs", "layers": None}])
def test_states_that_change_are_not_kept(llm, planted, tmp_path, config):
    tokens = Prompts(llm[1], planted.titles).items(np.arange(4))
    assert LowerStateCache(tmp_path).of(make_model(llm, **config), tokens) is None
    assert not list(tmp_path.iterdir())
