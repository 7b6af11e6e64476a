"""Gradient caching against the whole batch."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from rarec.backbone import Backbone, load_backbone
from rarec.encoding import Entities
from rarec.model import RARec, Tower
from rarec.prompts import Prompts
from rarec.selection import training_samples
from rarec.settings import LossSettings, ModelSettings, TrainingSettings
from rarec.training import (
    RARecTrainer,
    StateCache,
    TrainingData,
    text_states,
    train,
    training_arguments,
)

E = 6


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep the states of texts out of the cache of whoever runs the tests."""
    monkeypatch.setenv("RAREC_CACHE", str(tmp_path / "cache"))


def make_data(llm, planted, folder=None) -> TrainingData:
    """Return data with cold users, cold items and, given a folder, text states."""
    backbone, tokenizer = llm
    prompts = Prompts(tokenizer, planted.titles)
    samples = training_samples(planted.histories)
    generator = np.random.default_rng(0)

    def vectors(n: int) -> tuple[np.ndarray, np.ndarray]:
        return generator.normal(size=(n, 1, E)).astype(np.float32), generator.random(n) < 0.7

    users = Entities(prompts.users(samples.prefixes(5)), *vectors(len(samples)))
    items = Entities(prompts.items(range(40)), *vectors(40))
    text = None
    if folder is not None:
        cache = StateCache(folder)
        text = tuple(text_states(backbone, e.tokens, cache=cache) for e in (users, items))
    return TrainingData(samples, users, items, text=text)


def make_model(backbone, **changes) -> RARec:
    settings = ModelSettings(prefix_length=2, **changes)
    return RARec(backbone, user_id_dim=E, item_id_dim=E, settings=settings)


def gradients(model, data, loss, folder, rows, *, scale=1.0) -> dict[str, Tensor]:
    """Return the loss of one training step under "loss", and each weight's gradient."""
    folder = folder / str(loss.chunk_size)
    trainer = RARecTrainer(model, training_arguments(folder), data, loss)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = int(1 / scale)
    model.zero_grad()
    value = trainer.training_step(model, {"rows": torch.as_tensor(rows)})
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": value, **grads}


@pytest.fixture
def in_float64(monkeypatch):
    """Let nothing be cast to float32."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)


ROWS = np.random.default_rng(3).choice(1080, 23, replace=False)


@pytest.mark.parametrize("size", [1, 4, 7, 100])
@pytest.mark.parametrize(
    ("changes", "alignment"),
    [
        ({}, 0.0),
        ({}, 0.5),
        ({"layers": 1}, 0.0),
        ({"placement": "inputs", "tune": "lora"}, 0.0),
        ({"placement": "inputs", "tune": "full"}, 0.0),
        ({"use_ids": False, "similarity": "dot"}, 0.0),
    ],
)
def test_gradients_are_those_of_the_whole_batch(
    tiny_llm, planted, tmp_path, in_float64, size, changes, alignment
):
    llm = load_backbone(str(tiny_llm), device="cpu")
    data = make_data(llm, planted, tmp_path / "states" if alignment else None)
    llm[0].model.double()
    model = make_model(llm[0], **changes).double()
    with torch.no_grad():
        for weight in model.parameters():
            # a product of LoRA starts at zero, with half its gradients
            weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    loss = LossSettings(alignment=alignment)
    whole = gradients(model, data, loss, tmp_path, ROWS, scale=0.5)
    assert whole["loss"].dtype == torch.float64
    assert all(whole[name].any() for name in ("user.prefix", "item.prefix"))
    loss = dataclasses.replace(loss, chunk_size=size)
    chunked = gradients(model, data, loss, tmp_path, ROWS, scale=0.5)
    assert chunked.keys() == whole.keys()
    for name, expected in whole.items():
        torch.testing.assert_close(chunked[name], expected, rtol=1e-9, atol=1e-12)


def test_each_chunk_is_small_and_read_twice(tiny_llm, planted, tmp_path, monkeypatch):
    backbone, tokenizer = load_backbone(str(tiny_llm), device="cpu")
    data = make_data((backbone, tokenizer), planted)
    read = []
    ordinary = Backbone.last_hidden_states

    def record(self, input_ids, attention_mask, **options):
        assert attention_mask[:, -1].any()
        read.append(len(input_ids))
        return ordinary(self, input_ids, attention_mask, **options)

    monkeypatch.setattr(Backbone, "last_hidden_states", record)
    gradients(make_model(backbone), data, LossSettings(chunk_size=5), tmp_path, ROWS)
    n_items = len(np.unique(data.samples.targets[ROWS]))
    assert max(read) <= 5
    # no state of the first time is kept for the backward
    assert sum(read) == 2 * (len(ROWS) + n_items)


def test_random_numbers_are_the_same_both_times(
    tiny_llm, planted, tmp_path, in_float64, monkeypatch
):
    llm = load_backbone(str(tiny_llm), device="cpu")
    data = make_data(llm, planted)
    llm[0].model.double()
    model = make_model(llm[0]).double()
    ordinary = Tower.project

    def project(self, id_vectors):
        assert self.training
        return ordinary(self, id_vectors * (torch.rand(len(id_vectors), 1, 1) < 0.5))

    monkeypatch.setattr(Tower, "project", project)
    torch.manual_seed(0)
    cached = gradients(model, data, LossSettings(chunk_size=5), tmp_path, ROWS)
    after = torch.rand(1)
    # the same chunks, with all their states kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "rarec.training.gradient_caching.checkpoint",
            lambda function, *inputs, **_: function(*inputs),
        )
        torch.manual_seed(0)
        kept = gradients(model, data, LossSettings(chunk_size=5), tmp_path, ROWS)
    assert torch.equal(after, torch.rand(1))
    for name, expected in kept.items():
        torch.testing.assert_close(cached[name], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layers", ["all", 1])
def test_a_training_in_chunks_goes_on_like_one_of_whole_batches(
    tiny_llm, planted, tmp_path, layers
):
    llm = load_backbone(str(tiny_llm), device="cpu")
    data = make_data(llm, planted)
    reports, weights = [], []
    for size in (None, 6):
        model = make_model(llm[0], layers=layers)
        settings = TrainingSettings(
            max_steps=4,
            per_device_train_batch_size=16,
            other={"gradient_accumulation_steps": 2},
        )
        args = training_arguments(tmp_path / str(size), settings)
        reports.append(train(model, data, args, LossSettings(chunk_size=size)))
        weights.append(model.state_dict())
    assert reports[0].loss == pytest.approx(reports[1].loss, rel=1e-4)
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=1e-3, atol=1e-3)


def test_more_than_one_process_is_refused(tiny_llm, planted, tmp_path, monkeypatch):
    llm = load_backbone(str(tiny_llm), device="cpu")
    args = training_arguments(tmp_path)
    monkeypatch.setattr(type(args), "world_size", 2)
    with pytest.raises(ValueError, match="expected one process and one GPU with chunk_size, got 2"):
        RARecTrainer(make_model(llm[0]), args, make_data(llm, planted), LossSettings(chunk_size=4))
