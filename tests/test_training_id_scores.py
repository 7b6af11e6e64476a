"""Scores of the ID model in training: added to the own ones, and for hard-negative mining."""

import numpy as np
import pytest
import torch

from rarec.backbone import load_backbone
from rarec.encoding import Entities
from rarec.losses import sampled_softmax_loss
from rarec.model import RARec
from rarec.prompts import Prompts
from rarec.selection import training_samples
from rarec.settings import LossSettings, ModelSettings, TrainingSettings
from rarec.training import (
    HardNegatives,
    IDScores,
    RARecTrainer,
    TrainingData,
    training_arguments,
)

E = 6


@pytest.fixture(scope="module")
def llm(tiny_llm):
    return load_backbone(str(tiny_llm), device="cpu")


@pytest.fixture
def scores(planted) -> IDScores:
    """Return scores with two vectors of each sample; the ID model does not know one user."""
    samples = training_samples(planted.histories)
    generator = np.random.default_rng(0)
    users = generator.normal(size=(120, 2, E)).astype(np.float32)
    items = generator.normal(size=(40, E)).astype(np.float32)
    return IDScores(users[samples.users], items, samples.users != 3)


def pools_of(scores: IDScores, samples, planted, size: int) -> np.ndarray:
    """Return `[S, size]` items with the highest scores that the user has not seen."""
    table = scores.of(np.arange(len(samples)), np.arange(40)).numpy()
    pools = np.full((len(samples), size), -1, np.int32)
    for row in np.flatnonzero(scores.known):
        seen = planted.histories[samples.users[row]]
        unseen = [item for item in np.argsort(-table[row]) if item not in seen]
        pools[row] = unseen[:size]
    return pools


def make_data(llm, planted, **options) -> TrainingData:
    prompts = Prompts(llm[1], planted.titles)
    samples = training_samples(planted.histories)
    users = Entities(prompts.users(samples.prefixes(5)))
    return TrainingData(samples, users, Entities(prompts.items(range(40))), **options)


def make_model(llm, **changes) -> RARec:
    settings = ModelSettings(prefix_length=2, use_ids=False, **changes)
    return RARec(llm[0], user_id_dim=E, item_id_dim=E, settings=settings)


def arguments(folder, **changes):
    return training_arguments(folder, TrainingSettings(**changes))


def test_scores_are_the_largest_of_the_inner_products(scores):
    rows, items = np.array([0, 50, 27]), np.array([5, 7])
    found = scores.of(rows, items).numpy()
    # sample 27 is of user 3
    assert np.isnan(found[2]).all()
    for row, number in enumerate(rows[:2]):
        expected = [(scores.queries[number] @ scores.items[item]).max() for item in items]
        np.testing.assert_allclose(found[row], expected, rtol=1e-5)


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


def test_hard_negatives_join_the_candidates(llm, planted, scores):
    samples = training_samples(planted.histories)
    pools = pools_of(scores, samples, planted, 4)
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


def test_what_does_not_fit_is_refused(llm, planted, scores, tmp_path):
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
    hard = make_data(llm, planted, hard=HardNegatives(np.zeros((1080, 2), np.int32), 40, 2))
    for given, loss, match in (
        (data, LossSettings(hard_negatives=1), "expected 1 hard negatives .*, got none"),
        (hard, LossSettings(hard_negatives=1), "expected 1 hard negatives .*, got 2"),
        (data, LossSettings(extra_negatives=3), "expected 3 extra negatives .*, got none"),
    ):
        with pytest.raises(ValueError, match=match):
            RARecTrainer(make_model(llm), arguments(tmp_path), given, loss)


@pytest.mark.parametrize(("id_score", "warmup"), [("fixed", 0), ("learned", 0), ("fixed", 8)])
def test_the_id_scores_are_added_in_training(llm, planted, scores, tmp_path, id_score, warmup):
    data = make_data(llm, planted, id_scores=scores)
    model = make_model(llm, id_score=id_score, id_weight=0.5)
    args = arguments(tmp_path, per_device_train_batch_size=30, max_steps=2)
    trainer = RARecTrainer(model, args, data, LossSettings(id_score_warmup=warmup))
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


def test_adding_id_scores_needs_them(llm, planted, tmp_path):
    args = arguments(tmp_path, per_device_train_batch_size=30)
    with pytest.raises(ValueError, match="expected ID scores in data with id_score='fixed'"):
        RARecTrainer(make_model(llm, id_score="fixed"), args, make_data(llm, planted))
