"""Batches, the order of samples, text states, and the trainer."""

import dataclasses
import pickle
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from rarec.backbone import load_backbone
from rarec.encoding import Entities, encode
from rarec.losses import alignment_loss, sampled_softmax_loss
from rarec.model import EntityBatch, RARec
from rarec.prompts import Prompts
from rarec.selection import NegativeSampler, training_samples
from rarec.settings import LossSettings, ModelSettings, TrainingSettings
from rarec.training import (
    ExtraNegatives,
    LengthSampler,
    RARecTrainer,
    StateCache,
    TrainingData,
    text_states,
    train,
    training_arguments,
)
from rarec.training.arguments import on_device
from rarec.training.checkpoints import mark_whole
from rarec.training.state_cache import texts_hash

E = 6


@pytest.fixture(scope="module")
def llm(tiny_llm):
    return load_backbone(str(tiny_llm), device="cpu")


def make_data(llm, planted, n_samples=None, **options) -> TrainingData:
    """Return training data whose ID vectors tell the tastes apart."""
    _, tokenizer = llm
    prompts = Prompts(tokenizer, planted.titles)
    samples = training_samples(planted.histories)
    samples = samples.take(np.arange(len(samples))[:n_samples])
    generator = np.random.default_rng(0)
    taste = np.zeros((2, E), np.float32)
    taste[0, 0] = taste[1, 1] = 2.0
    noise = (0.1 * generator.normal(size=(40, E))).astype(np.float32)
    items = taste[np.arange(40) % 2] + noise
    return TrainingData(
        samples,
        Entities(prompts.users(samples.prefixes(5)), taste[samples.users % 2][:, None]),
        Entities(prompts.items(range(40)), items[:, None]),
        **options,
    )


def make_model(llm, **changes) -> RARec:
    settings = ModelSettings(prefix_length=2, **changes)
    return RARec(llm[0], user_id_dim=E, item_id_dim=E, settings=settings)


def arguments(folder, *, accumulated=1, **changes):
    small = {"max_steps": 8, "per_device_train_batch_size": 16, "save_steps": 4}
    other = {"gradient_accumulation_steps": accumulated}
    return training_arguments(folder, TrainingSettings(**{**small, **changes}, other=other))


def text_of(llm, data, folder):
    """Return the text-only states of users and items."""
    cache = StateCache(folder)
    users, items = (text_states(llm[0], e.tokens, cache=cache) for e in (data.users, data.items))
    return users, items


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep the states of texts out of the cache of whoever runs the tests."""
    monkeypatch.setenv("RAREC_CACHE", str(tmp_path / "cache"))


def hit_rate(model, data) -> float:
    """Return how often the best item of a user is of the user's taste."""
    users = encode(model, model.user, data.users)
    items = encode(model, model.item, data.items)
    best = (users @ items.T).argmax(axis=1)
    return float(np.mean(best % 2 == data.samples.users % 2))


@pytest.mark.parametrize("n_extra", [0, 3])
def test_a_batch_knows_its_positives_and_negatives(llm, planted, n_extra):
    samples = training_samples(planted.histories)
    sampler = NegativeSampler(planted.histories, 40, alpha=0.5, seed=1)
    data = make_data(llm, planted, extra=ExtraNegatives(sampler, n_extra) if n_extra else None)
    rows = np.array([0, 500, 7, 8, 1000, 500])
    batch = data.batch(rows, step=3)
    items = np.unique(
        np.concatenate(
            [samples.targets[rows]]
            + ([sampler.sample(samples.users[rows], 3, step=3).ravel()] if n_extra else [])
        )
    )
    assert len(batch.items) == len(items)
    np.testing.assert_array_equal(items[batch.positives], samples.targets[rows])
    share = np.bincount(samples.targets, minlength=40)[items] / len(samples) * len(rows)
    if n_extra:
        share = share + len(rows) * n_extra * np.exp(sampler.log_probability(items))
    np.testing.assert_allclose(batch.log_probability, np.log(share), rtol=1e-5)
    for row, number in enumerate(rows):
        seen = set(planted.histories[samples.users[number]].tolist())
        for column, item in enumerate(items):
            assert batch.negatives[row, column].item() == (item not in seen)
    assert batch.same_user[1, 5]
    assert batch.same_user[0, 2]
    assert not batch.same_user[0, 1]
    again = data.batch(rows, step=3)
    torch.testing.assert_close(again.items.input_ids, batch.items.input_ids)


def test_data_that_does_not_fit_is_refused(llm, planted):
    data = make_data(llm, planted)
    with pytest.raises(ValueError, match="expected users of 3 samples, got 1080"):
        TrainingData(data.samples.take([0, 1, 2]), data.users, data.items)
    with pytest.raises(ValueError, match="got none"):
        TrainingData(data.samples.take(np.array([], int)), data.users, data.items)
    with pytest.raises(ValueError, match="expected n >= 1, got 0"):
        ExtraNegatives(NegativeSampler(planted.histories, 40), 0)


def test_batches_are_of_like_length_and_random():
    lengths = np.random.default_rng(0).integers(1, 100, 1000)
    sampler = LengthSampler(lengths, 32, seed=5)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert sorted(orders[0]) == list(range(1000))
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]

    def padding(order):
        batches = [lengths[order[at : at + 32]] for at in range(0, 1000, 32)]
        return 1 - lengths.sum() / sum(len(batch) * batch.max() for batch in batches)

    assert padding(orders[0]) < 0.1
    assert padding(np.random.default_rng(0).permutation(1000).tolist()) > 0.4


@pytest.mark.parametrize("n_samples", [7, 64, 100, 1000])
def test_no_sample_is_left_out_of_every_epoch(n_samples):
    """The loader drops a short batch: it must not be the longest texts each time."""
    sampler = LengthSampler(np.arange(n_samples), 32, seed=5)
    dropped = []
    for epoch in range(12):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(order) == list(range(n_samples))
        dropped.append(set(order[n_samples // 32 * 32 :]))
    if n_samples >= 32:
        assert not set.intersection(*dropped)


class OnGPU(TrainingArguments):
    """Arguments as a machine with GPUs makes them."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.use_cpu else torch.device("cuda", 0)


def test_a_training_is_where_the_language_model_is(llm, planted, tmp_path):
    values = arguments(tmp_path, learning_rate=0.5)
    given = {x.name: getattr(values, x.name) for x in dataclasses.fields(values) if x.init}
    args = OnGPU(**given)
    assert args.device.type == "cuda"
    trainer = RARecTrainer(make_model(llm), args, make_data(llm, planted))
    assert trainer.args.device.type == "cpu"
    assert dataclasses.replace(trainer.args, use_cpu=False).to_dict() == args.to_dict()
    with pytest.raises(ValueError, match=r"language model on cuda:0, where .* got cuda:1"):
        on_device(args, torch.device("cuda", 1))


@pytest.mark.parametrize("loss", [LossSettings(), LossSettings(prediction="bpr")])
def test_tastes_are_learnt(llm, planted, tmp_path, loss):
    data = make_data(llm, planted)
    model = make_model(llm)
    report = train(model, data, arguments(tmp_path, max_steps=30, learning_rate=1e-2), loss)
    assert report.steps == 30
    assert report.samples == len(data)
    assert report.trainable_parameters == model.n_trainable()
    assert hit_rate(model, data) > 0.9


@pytest.mark.parametrize("log_q", [True, False])
def test_the_softmax_is_corrected_unless_told_otherwise(llm, planted, tmp_path, log_q):
    data = make_data(llm, planted, extra=ExtraNegatives(NegativeSampler(planted.histories, 40), 3))
    model = make_model(llm)
    trainer = RARecTrainer(model, arguments(tmp_path), data, LossSettings(log_q=log_q))
    rows = np.arange(20, 36)
    loss, outputs = trainer.compute_loss(model, {"rows": torch.from_numpy(rows)}, True)
    batch = data.batch(rows, step=0)
    losses = [
        sampled_softmax_loss(outputs["scores"], batch.positives, batch.negatives, correction)
        for correction in (batch.log_probability, None)
    ]
    assert losses[0].item() != pytest.approx(losses[1].item(), rel=1e-3)
    torch.testing.assert_close(loss, losses[0 if log_q else 1])


def test_prefixes_have_their_own_learning_rate(llm, planted, tmp_path):
    model = make_model(llm, prefix_rate=7.0)
    trainer = RARecTrainer(model, arguments(tmp_path, learning_rate=1e-3), make_data(llm, planted))
    optimizer = trainer.create_optimizer()
    rates = {
        id(parameter): group["lr"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        expected = 7e-3 if name.endswith(".prefix") else 1e-3
        assert rates[id(parameter)] == pytest.approx(expected), name
    assert len(rates) == sum(1 for _ in model.parameters())


@pytest.mark.parametrize("accumulated", [1, 2])
# 53 samples: an epoch has three batches, so the training is stopped in a later one
@pytest.mark.parametrize(
    ("n_samples", "options"),
    [(1080, {}), (53, {}), (53, {"layers": 1}), (53, {"id_dropout": 0.4})],
)
def test_resumed_is_the_same_as_uninterrupted(
    llm, planted, tmp_path, n_samples, options, accumulated
):
    sampler = NegativeSampler(planted.histories, 40, seed=1)
    data = make_data(llm, planted, n_samples=n_samples, extra=ExtraNegatives(sampler, 2))
    assert len(data) == n_samples
    changes = {"accumulated": accumulated}
    whole = make_model(llm, **options)
    train(whole, data, arguments(tmp_path / "whole", **changes))

    class StoppedError(Exception):
        pass

    part = make_model(llm, **options)
    ordinary = RARecTrainer.compute_loss

    def interrupted(self, *args, **keywords):
        if self.state.global_step == 5:
            raise StoppedError
        return ordinary(self, *args, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RARecTrainer, "compute_loss", interrupted)
        with pytest.raises(StoppedError):
            train(part, data, arguments(tmp_path / "part", **changes))
    resumed = make_model(llm, **options)
    report = train(resumed, data, arguments(tmp_path / "part", **changes), resume=True)
    assert report.steps == 8
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0)


def test_training_leaves_ids_out_and_encoding_does_not(llm, planted, tmp_path):
    data = make_data(llm, planted)
    trained = {}
    for share in (0.0, 0.5):
        model = trained[share] = make_model(llm, id_dropout=share)
        train(model, data, arguments(tmp_path / str(share), max_steps=2))
    assert not torch.equal(trained[0.0].user.projector, trained[0.5].user.projector)
    first, second = (encode(trained[0.5], trained[0.5].user, data.users) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_runs_no_code(llm, planted, tmp_path, name):
    data = make_data(llm, planted)
    train(make_model(llm), data, arguments(tmp_path / "run"))
    trace = tmp_path / "trace"
    checkpoint = tmp_path / "run" / "checkpoint-8"
    torch.save(Touch(trace), checkpoint / name)
    # somebody made it so that it looks whole
    mark_whole(checkpoint)
    with pytest.raises(pickle.UnpicklingError):
        train(make_model(llm), data, arguments(tmp_path / "run", max_steps=9), resume=True)
    assert not trace.exists()


class Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_batches_are_numbered_over_the_whole_training(llm, planted, tmp_path):
    data = make_data(llm, planted)
    numbers = []
    ordinary = data.batch

    def batch(rows, *, step):
        numbers.append(step)
        return ordinary(rows, step=step)

    data.batch = batch  # type: ignore[method-assign]
    train(make_model(llm), data, arguments(tmp_path, max_steps=3, accumulated=2))
    assert numbers == list(range(6))


def test_every_epoch_has_its_own_batches_and_numbers(llm, planted, tmp_path):
    data = make_data(llm, planted, n_samples=53)
    seen, numbers = [], []
    ordinary = data.batch

    def batch(rows, *, step):
        seen.append(rows.tolist())
        numbers.append(step)
        return ordinary(rows, step=step)

    data.batch = batch  # type: ignore[method-assign]
    train(make_model(llm), data, arguments(tmp_path, max_steps=6, accumulated=2))
    # three batches an epoch: the second step of each has one batch alone
    assert numbers == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    epochs = [[row for rows in seen[at : at + 3] for row in rows] for at in (0, 3, 6)]
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_resumed_training_unpickles_no_code(llm, planted, tmp_path, monkeypatch):
    data = make_data(llm, planted)
    train(make_model(llm), data, arguments(tmp_path, max_steps=4))
    safe = []
    ordinary = torch.load

    def load(*args, **keywords):
        safe.append(keywords.get("weights_only"))
        return ordinary(*args, **keywords)

    monkeypatch.setattr(torch, "load", load)
    train(make_model(llm), data, arguments(tmp_path, max_steps=5), resume=True)
    assert safe
    assert all(safe)


def test_text_states_are_computed_once_and_kept(llm, planted, tmp_path, monkeypatch):
    backbone, tokenizer = llm
    tokens = Prompts(tokenizer, planted.titles).items(range(40))
    cache = StateCache(tmp_path / "states")
    first = text_states(backbone, tokens, cache=cache)
    ids, mask = tokens.batch([3, 8])
    # the loss reads directions, so they are all that is kept
    expected = torch.nn.functional.normalize(backbone.text_states(ids, mask), dim=-1)
    torch.testing.assert_close(first.rows([3, 8]), expected, rtol=2e-3, atol=2e-3)
    assert first.rows([3]).dtype == torch.float32

    def fail(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(type(backbone), "text_states", fail)
    again = text_states(backbone, tokens, cache=cache)
    np.testing.assert_array_equal(again.table, first.table)
    other = Prompts(tokenizer, planted.titles).items(range(39))
    with pytest.raises(AssertionError, match="computed again"):
        text_states(backbone, other, cache=cache)
    assert len(list(cache.folder.iterdir())) == 1  # and nothing half written


def test_states_are_named_alike_by_any_number_of_threads_and_not_by_other_weights(llm, planted):
    backbone, tokenizer = llm
    tokens = Prompts(tokenizer, planted.titles).items(range(4))
    n_threads = torch.get_num_threads()
    weight = next(w for w in backbone.model.state_dict().values() if w.ndim == 2)
    # large enough for torch to share the sum among threads
    big = {"a": torch.randn(3000, 200, generator=torch.Generator().manual_seed(0))}
    names = set()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(backbone.model, "state_dict", lambda: big)
                names.add(texts_hash("any", backbone, tokens))
    finally:
        torch.set_num_threads(n_threads)
    assert len(names) == 1
    before = texts_hash("any", backbone, tokens)
    with torch.no_grad():
        value = weight[1, 1].item()
        weight[1, 1] += 1e-6
        changed = texts_hash("any", backbone, tokens)
        weight[1, 1] = value
    assert changed != before == texts_hash("any", backbone, tokens)


def test_states_past_the_range_of_float16_are_kept(llm, planted, tmp_path, monkeypatch):
    backbone, tokenizer = llm
    tokens = Prompts(tokenizer, planted.titles).items(range(4))
    plain = text_states(backbone, tokens, cache=StateCache(tmp_path / "plain")).rows(range(4))
    ordinary = type(backbone).text_states
    monkeypatch.setattr(type(backbone), "text_states", lambda *inputs: 1e6 * ordinary(*inputs))
    large = text_states(backbone, tokens, cache=StateCache(tmp_path / "large")).rows(range(4))
    torch.testing.assert_close(large, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layers", ["all", 1])
def test_alignment_brings_soft_prompts_to_their_texts(llm, planted, tmp_path, layers):
    plain = make_data(llm, planted)
    data = make_data(llm, planted, text=text_of(llm, plain, tmp_path / "states"))
    model = make_model(llm, layers=layers)
    loss = LossSettings(alignment=1.0)
    trainer = RARecTrainer(model, arguments(tmp_path), data, loss)
    batch = data.batch(np.arange(0, 640, 10), step=0)
    before = trainer._alignment(batch).item()
    train(model, data, arguments(tmp_path / "run", max_steps=30, learning_rate=1e-2), loss)
    assert trainer._alignment(batch).item() < before - 0.5
    with pytest.raises(ValueError, match="text-only states"):
        RARecTrainer(make_model(llm), arguments(tmp_path), plain, loss)


def test_cold_items_are_no_part_of_the_alignment(llm, planted, tmp_path):
    plain = make_data(llm, planted)
    known = np.arange(40) % 5 > 0
    data = make_data(llm, planted, text=text_of(llm, plain, tmp_path / "states"))
    assert data.items.id_vectors is not None
    data.items.id_vectors[~known] = np.nan
    data.items = dataclasses.replace(data.items, has_id=known)
    model = make_model(llm)
    trainer = RARecTrainer(model, arguments(tmp_path), data, LossSettings(alignment=1.0))
    rows = torch.arange(0, 640, 10)
    assert trainer.compute_loss(model, {"rows": rows}).isfinite()
    data.users = dataclasses.replace(data.users, has_id=np.zeros(len(data), bool))
    assert trainer.compute_loss(model, {"rows": rows}).isfinite()


def test_too_few_samples_for_a_batch_are_refused(llm, planted, tmp_path):
    data = make_data(llm, planted)
    few = TrainingData(
        data.samples.take(np.arange(5)),
        Entities(
            Prompts(llm[1], planted.titles).users(data.samples.take(np.arange(5)).prefixes(5)),
            np.zeros((5, 1, E), np.float32),
        ),
        data.items,
    )
    with pytest.raises(ValueError, match="at least 16 samples"):
        RARecTrainer(make_model(llm), arguments(tmp_path), few)


def test_cold_users_and_warm_ones_train_together(llm, planted, tmp_path):
    data = make_data(llm, planted)
    known = np.arange(len(data)) % 3 > 0
    data.users = dataclasses.replace(data.users, has_id=known)
    batch = data.batch([0, 1, 2], step=0)
    assert isinstance(batch.users, EntityBatch)
    assert batch.users.has_id is not None
    report = train(make_model(llm), data, arguments(tmp_path, max_steps=2))
    assert np.isfinite(report.loss)


def test_the_arguments_of_transformers_come_from_the_settings(tmp_path):
    settings = TrainingSettings(
        max_steps=7, learning_rate=0.5, other={"max_grad_norm": 0.25, "save_total_limit": 3}
    )
    args = training_arguments(tmp_path, settings, seed=9)
    assert (args.max_steps, args.learning_rate, args.seed) == (7, 0.5, 9)
    assert (args.max_grad_norm, args.save_total_limit) == (0.25, 3)
    assert args.dataloader_drop_last
    for name in ("steps", "output_dir"):
        message = f"expected training.other of transformers.TrainingArguments, got '{name}'"
        with pytest.raises(ValueError, match=f"^{message}$"):
            training_arguments(tmp_path, TrainingSettings(other={name: 1}))


@pytest.mark.parametrize("stopped", [False, True])
def test_the_generators_of_the_caller_stay_as_they_were(llm, planted, tmp_path, stopped):
    data = make_data(llm, planted)

    def drawn():
        return random.random(), np.random.random(), torch.rand(1).item()

    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(5)
    expected = drawn()
    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(5)
    args = arguments(tmp_path, max_steps=2)
    if stopped:
        data.batch = None  # type: ignore[assignment]
        with pytest.raises(TypeError):
            train(make_model(llm, id_dropout=0.5), data, args)
    else:
        train(make_model(llm, id_dropout=0.5), data, args)
    assert drawn() == expected


def test_the_result_does_not_depend_on_the_generators_of_the_caller(llm, planted, tmp_path):
    data = make_data(llm, planted)
    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = make_model(llm, id_dropout=0.5)
        train(model, data, arguments(tmp_path / str(seed), max_steps=2))
        weights.append(model.user.projector)
    assert torch.equal(*weights)


def test_a_training_runs_without_the_module_that_windows_lacks(llm, planted, tmp_path, monkeypatch):
    args = arguments(tmp_path, max_steps=1)
    report = train(make_model(llm), make_data(llm, planted), args)
    assert report.peak_rss_mb is not None
    assert report.peak_rss_mb > 0
    monkeypatch.setitem(sys.modules, "resource", None)
    report = train(make_model(llm), make_data(llm, planted), args)
    assert report.peak_rss_mb is None


def test_a_training_stopped_after_its_last_step_takes_no_more(llm, planted, tmp_path):
    data, args = make_data(llm, planted), arguments(tmp_path)
    whole = make_model(llm)
    first = train(whole, data, args)
    # its checkpoints are still there: the process ended before it kept the model
    again = make_model(llm)
    report = train(again, data, args, resume=True)
    assert report.steps == first.steps == args.max_steps
    assert report.samples_per_second == 0
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_the_language_models_weights_learn_at_their_own_rate(tiny_llm, planted, tmp_path, tune):
    own = load_backbone(str(tiny_llm), device="cpu")
    before = {name: weight.clone() for name, weight in own[0].model.state_dict().items()}
    model = make_model(own, placement="inputs", tune=tune, llm_rate=0.5, prefix_rate=3.0)
    data = make_data(own, planted)
    trainer = RARecTrainer(model, arguments(tmp_path, learning_rate=1e-3), data)
    rates = {
        id(weight): group["lr"]
        for group in trainer.create_optimizer().param_groups
        for weight in group["params"]
    }
    assert {rates[id(weight)] for weight in model.llm.values()} == {5e-4}
    assert {rates[id(tower.prefix)] for tower in (model.user, model.item)} == {3e-3}
    assert {rates[id(tower.projector)] for tower in (model.user, model.item)} == {1e-3}
    trainer.train()
    after = own[0].model.state_dict()
    name = "encoder.layer.1.attention.self.query"
    if tune == "full":
        assert not torch.equal(before[f"{name}.weight"], after[f"{name}.weight"])
    else:
        assert torch.equal(before[f"{name}.weight"], after[f"{name}.base_layer.weight"])
        assert bool(after[f"{name}.lora_B.default.weight"].any())


def test_a_training_with_soft_prompts_before_the_text_aligns_with_its_embeddings(
    llm, planted, tmp_path
):
    data = make_data(llm, planted)
    data = make_data(llm, planted, text=text_of(llm, data, tmp_path / "states"))
    model = make_model(llm, placement="inputs")
    trainer = RARecTrainer(model, arguments(tmp_path), data, LossSettings(alignment=1.0))
    batch = data.batch(np.arange(16), step=0)
    expected = torch.zeros(())
    for tower, entities, text, same in (
        (model.user, batch.users, batch.user_text, batch.same_user),
        (model.item, batch.items, batch.item_text, torch.eye(len(batch.items)) > 0),
    ):
        assert entities.id_vectors is not None
        assert text is not None
        expected += alignment_loss(tower.soft_prompts(entities.id_vectors), text[:, :1], same)
    torch.testing.assert_close(trainer._alignment(batch), expected)
