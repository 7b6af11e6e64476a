"""Hard negatives and distillation: what a training takes from the ID model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rarec.backbone import load_backbone
from rarec.encoding import Entities
from rarec.ids.embeddings import GivenIDs
from rarec.losses import distillation_loss, sampled_softmax_loss
from rarec.model import ModelConfig, RARec
from rarec.prompts import Prompts
from rarec.recommender.configs import AlignConfig
from rarec.recommender.teaching import hard_pools, sample_scores
from rarec.selection import training_samples
from rarec.training import (
    HardNegatives,
    IDScores,
    LossConfig,
    RARecTrainer,
    TrainingData,
    training_arguments,
)

E = 6


@pytest.fixture(scope="module")
def llm(tiny_llm):
    return load_backbone(str(tiny_llm), device="cpu")


@pytest.fixture
def ids(planted) -> GivenIDs:
    """Return vectors with one cold item and one cold user."""
    generator = np.random.default_rng(0)
    users = generator.normal(size=(120, 2, E)).astype(np.float32)
    known = np.arange(120) != 3
    users[3] = np.nan
    items = generator.normal(size=(40, E)).astype(np.float32)
    items[5] = np.nan
    return GivenIDs(items, np.arange(40) != 5, users, known)


def make_data(llm, planted, **options) -> TrainingData:
    prompts = Prompts(llm[1], planted.titles)
    samples = training_samples(planted.histories)
    users = Entities(prompts.users(samples.prefixes(5)))
    return TrainingData(samples, users, Entities(prompts.items(range(40))), **options)


def make_model(llm) -> RARec:
    config = ModelConfig(prefix_length=2, use_ids=False)
    return RARec(llm[0], user_id_dim=E, item_id_dim=E, config=config)


def test_scores_are_the_largest_of_the_inner_products(planted, ids):
    samples = training_samples(planted.histories)
    scores = sample_scores(ids, samples, samples.prefixes(5))
    rows, items = np.array([0, 50, 27]), np.array([5, 7])
    assert samples.users[27] == 3
    found = scores.of(rows, items).numpy()
    assert np.isnan(found[2]).all()
    mean = np.delete(ids.item_vectors, 5, axis=0).mean(axis=0)
    assert ids.user_table is not None
    for row, number in enumerate(rows[:2]):
        query = ids.user_table[samples.users[number]]
        expected = [(query @ mean).max(), (query @ ids.item_vectors[7]).max()]
        np.testing.assert_allclose(found[row], expected, rtol=1e-5)


@pytest.mark.parametrize("block", [7, 4096])
@pytest.mark.parametrize("size", [4, 100])
def test_pools_are_the_best_unseen_items(planted, ids, size, block, monkeypatch):
    monkeypatch.setattr("rarec.recommender.teaching._BLOCK", block)
    samples = training_samples(planted.histories).take(np.arange(0, 1080, 13))
    scores = sample_scores(ids, samples, samples.prefixes(5))
    pools = hard_pools(scores, samples, planted, size)
    assert pools.shape == (len(samples), size)
    assert pools.dtype == np.int32
    table = scores.of(np.arange(len(samples)), np.arange(40)).numpy()
    for row, user in enumerate(samples.users):
        seen = planted.histories[user]
        found = pools[row][pools[row] >= 0]
        if user == 3:
            assert not len(found)
            continue
        expected = [item for item in np.argsort(-table[row]) if item not in seen][:size]
        assert found.tolist() == expected
        assert (pools[row][len(found) :] == -1).all()


def test_draws_are_even_and_fixed_by_seed_and_step():
    pools = np.array([[0, 1, 2, 3], [3, 4, -1, -1], [-1, -1, -1, -1]], np.int32)
    hard = HardNegatives(pools, 6, 3, seed=1)
    rows = np.array([0, 1, 2, 0])
    draws = [hard.sample(rows, step=step) for step in range(2000)]
    np.testing.assert_array_equal(draws[7], hard.sample(rows, step=7))
    assert not np.array_equal(draws[0], draws[1])
    other = HardNegatives(pools, 6, 3, seed=2)
    assert any(not np.array_equal(other.sample(rows, step=s), draws[s]) for s in range(5))
    assert all(len(set(draw[0].tolist())) == 3 for draw in draws)
    assert all(sorted(draw[1].tolist()) == [-1, 3, 4] for draw in draws)
    assert all((draw[2] == -1).all() for draw in draws)
    counts = np.bincount(np.concatenate([draw[[0, 3]].ravel() for draw in draws]), minlength=6)
    np.testing.assert_allclose(counts / (2 * len(draws)), [0.75] * 4 + [0, 0], atol=0.03)
    # a row is one of the three samples, each as likely
    np.testing.assert_allclose(hard.expected, np.array([0.75, 0.75, 0.75, 1.75, 1.0, 0.0]) / 3)


def test_hard_negatives_join_the_candidates(llm, planted, ids):
    samples = training_samples(planted.histories)
    scores = sample_scores(ids, samples, samples.prefixes(5))
    pools = hard_pools(scores, samples, planted, 4)
    hard = HardNegatives(pools, 40, 2, seed=1)
    data = make_data(llm, planted, hard=hard, id_scores=scores)
    rows = np.array([0, 500, 27])
    batch = data.batch(rows, step=3)
    drawn = hard.sample(rows, step=3)
    expected = np.unique(np.concatenate([samples.targets[rows], drawn[drawn >= 0]]))
    np.testing.assert_array_equal(batch.item_rows, expected)
    for row in range(2):
        columns = np.searchsorted(expected, drawn[row])
        assert batch.negatives[row, columns].all()
    share = np.bincount(samples.targets, minlength=40) / len(samples)
    in_pools = np.bincount(pools[pools >= 0], minlength=40) / len(samples)
    log_q = np.log(3 * (share + in_pools * 2 / 4))[expected]
    np.testing.assert_allclose(batch.log_probability, log_q, rtol=1e-5)
    assert batch.id_scores is not None
    torch.testing.assert_close(batch.id_scores, scores.of(rows, expected), equal_nan=True)


@pytest.mark.parametrize(
    "plain",
    [LossConfig(), LossConfig(log_q=False), LossConfig(prediction="bpr")],
    ids=["softmax", "uncorrected", "bpr"],
)
def test_the_distillation_is_added_to_the_loss(llm, planted, ids, tmp_path, plain):
    samples = training_samples(planted.histories)
    data = make_data(llm, planted, id_scores=sample_scores(ids, samples, samples.prefixes(5)))
    model = make_model(llm)
    loss = replace(plain, distillation=0.5, distillation_temperature=2.0)
    rows = np.arange(20, 36)
    values = []
    for each in (plain, loss):
        trainer = RARecTrainer(model, training_arguments(tmp_path), data, each)
        value, outputs = trainer.compute_loss(model, {"rows": torch.from_numpy(rows)}, True)
        values.append(value)
    batch = data.batch(rows, step=0)
    assert batch.id_scores is not None
    softmax = plain.prediction == "softmax"
    log_q = batch.log_probability if softmax and plain.log_q else None
    expected = distillation_loss(
        outputs["scores"],
        batch.id_scores,
        batch.positives,
        batch.negatives,
        log_q,
        temperature=2.0,
    )
    torch.testing.assert_close(values[1] - values[0], 0.5 * expected)
    if softmax:
        own = sampled_softmax_loss(outputs["scores"], batch.positives, batch.negatives, log_q)
        torch.testing.assert_close(values[0], own)


def test_what_does_not_fit_is_refused(llm, planted, ids, tmp_path):
    samples = training_samples(planted.histories)
    scores = sample_scores(ids, samples, samples.prefixes(5))
    few = IDScores(scores.queries[:3], scores.items, scores.known[:3])
    with pytest.raises(ValueError, match="expected ID scores of 1080 samples, got 3"):
        make_data(llm, planted, id_scores=few)
    pools = np.zeros((3, 2), np.int32)
    with pytest.raises(ValueError, match="expected pools of hard negatives of 1080 samples, got 3"):
        make_data(llm, planted, hard=HardNegatives(pools, 40, 1))
    with pytest.raises(ValueError, match="expected n >= 1, got 0"):
        HardNegatives(pools, 40, 0)
    with pytest.raises(ValueError, match="items from -1 to 39"):
        HardNegatives(pools + 40, 40, 1)
    with pytest.raises(ValueError, match="expected queries"):
        IDScores(scores.queries[..., 1:], scores.items, scores.known)
    with pytest.raises(ValueError, match=r"expected known \[1080\], got \[2\]"):
        IDScores(scores.queries, scores.items, scores.known[:2])
    data = make_data(llm, planted)
    for loss, match in (
        (LossConfig(distillation=1.0), "expected ID scores"),
        (LossConfig(hard_negatives=1), "expected hard negatives in data for 1 a row"),
    ):
        with pytest.raises(ValueError, match=match):
            RARecTrainer(make_model(llm), training_arguments(tmp_path), data, loss)


def test_text_alone_takes_nothing_from_the_id_model():
    loss = LossConfig(hard_negatives=2, distillation=1.0, alignment=1.0)
    text = AlignConfig(loss=loss, model=ModelConfig(id_score="fixed")).without_ids()
    assert text.loss == LossConfig()
    assert text.model.id_score == "none"


@pytest.mark.parametrize(("id_score", "warmup"), [("fixed", 0), ("learned", 0), ("fixed", 8)])
def test_a_model_learns_beside_the_id_scores(llm, planted, ids, tmp_path, id_score, warmup):
    samples = training_samples(planted.histories)
    data = make_data(llm, planted, id_scores=sample_scores(ids, samples, samples.prefixes(5)))
    config = ModelConfig(prefix_length=2, use_ids=False, id_score=id_score, id_weight=0.5)
    model = RARec(llm[0], user_id_dim=E, item_id_dim=E, config=config)
    args = training_arguments(tmp_path, per_device_train_batch_size=30, max_steps=2)
    trainer = RARecTrainer(model, args, data, LossConfig(id_score_warmup=warmup))
    trainer.state.global_step = 2
    # the user without an ID vector is among them
    rows = np.arange(15, 45)
    loss, outputs = trainer.compute_loss(
        model, {"rows": torch.from_numpy(rows)}, return_outputs=True
    )
    batch = data.batch(rows, step=2)
    assert batch.id_scores is not None
    by_id = batch.id_scores
    assert by_id.isnan().any()
    with torch.no_grad():
        alone = model.scores(*model(batch.users, batch.items))
    weight = 0.5 * (2 / warmup if warmup else 1)
    expected = alone + weight * by_id.nan_to_num(nan=0.0)
    torch.testing.assert_close(outputs["scores"], expected)
    torch.testing.assert_close(
        loss,
        sampled_softmax_loss(expected, batch.positives, batch.negatives, batch.log_probability),
    )
    loss.backward()
    if id_score == "learned":
        gradient = model.log_id_weight.grad
        assert gradient is not None
        assert gradient.abs() > 0
    else:
        assert not hasattr(model, "log_id_weight")


def test_learning_beside_id_scores_needs_them(llm, planted, tmp_path):
    config = ModelConfig(prefix_length=2, use_ids=False, id_score="fixed")
    model = RARec(llm[0], user_id_dim=E, item_id_dim=E, config=config)
    args = training_arguments(tmp_path, per_device_train_batch_size=30)
    with pytest.raises(ValueError, match="expected ID scores"):
        RARecTrainer(model, args, make_data(llm, planted))
    with pytest.raises(ValueError, match="id_score to be one of"):
        ModelConfig(id_score="some")
    with pytest.raises(ValueError, match="id_weight > 0"):
        ModelConfig(id_weight=0.0)
    with pytest.raises(ValueError, match="id_score_warmup >= 0"):
        LossConfig(id_score_warmup=-1)
