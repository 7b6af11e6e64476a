"""Projectors that start at the regression of the texts' states: against least squares of NumPy."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rarec.backbone import load_backbone
from rarec.ids import GivenIDs
from rarec.model import ModelConfig, RARec, ridge
from rarec.recommender import start
from rarec.recommender.aligned import AlignedModel
from rarec.recommender.alignment import align
from rarec.recommender.configs import AlignConfig
from rarec.selection import training_samples
from rarec.training import LossConfig

E = 5


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RAREC_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def llm(tiny_llm):
    return load_backbone(str(tiny_llm), device="cpu")


def least_squares(x, y, strength):
    """Return `W` and `b` of the rows and, below them, one row of the penalty for each column."""
    n_rows, width = x.shape
    penalty = np.sqrt(strength * n_rows * np.mean((x - x.mean(axis=0)) ** 2))
    system = np.block([[x, np.ones((n_rows, 1))], [penalty * np.eye(width), np.zeros((width, 1))]])
    states = y.reshape(n_rows, -1)
    states = np.concatenate([states, np.zeros((width, states.shape[1]))])
    solved = np.linalg.lstsq(system, states, rcond=None)[0].T.reshape(*y.shape[1:], width + 1)
    return solved[..., :-1], solved[..., -1]


@pytest.mark.parametrize("strength", [1e-4, 0.1, 10.0])
@pytest.mark.parametrize("n_rows", [1, 3, 40])
def test_ridge_is_least_squares_of_a_longer_system(n_rows, strength):
    generator = np.random.default_rng(0)
    x = 50 + 7 * generator.normal(size=(n_rows, E))
    y = generator.normal(size=(n_rows, 2, 4)) + x[:, :2, None]
    weight, bias = ridge(torch.from_numpy(x), torch.from_numpy(y), strength)
    assert weight.dtype == bias.dtype == torch.float32
    expected = least_squares(x, y, strength)
    if n_rows == 1:
        # nothing to tell apart: the one state is the answer to all
        expected = np.zeros((2, 4, E)), y[0]
    np.testing.assert_allclose(weight, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bias, expected[1], rtol=1e-4, atol=1e-3)


def test_ridge_does_not_go_by_size_or_number():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, E, generator=generator), torch.randn(30, 2, 4, generator=generator)
    weight, bias = ridge(x, y, 0.5)
    larger = ridge(1000 * x, y, 0.5)
    torch.testing.assert_close(larger, (weight / 1000, bias))
    torch.testing.assert_close(ridge(torch.cat([x, x]), torch.cat([y, y]), 0.5), (weight, bias))


def test_ridge_says_what_is_wrong():
    x, y = torch.zeros(3, E), torch.zeros(3, 2, 4)
    for bad in ((x[:2], y), (x[0], y), (x, y[0]), (x[:0], y[:0])):
        with pytest.raises(ValueError, match=r"expected x \[R, E\] and y \[R, L, H\]"):
            ridge(*bad, 0.1)
    with pytest.raises(ValueError, match="strength > 0, got 0"):
        ridge(x, y, 0.0)


def tower(llm, **changes):
    made = RARec(llm[0], user_id_dim=E, item_id_dim=E, config=ModelConfig(**changes)).user
    if made.id_dim:
        made.set_id_scale(torch.full((2, E), 3.0))
    return made


@pytest.mark.parametrize("gate", [False, True])
def test_projections_that_are_set_are_those_there_are(llm, gate):
    weight, bias, vectors = torch.randn(2, 32, E), torch.randn(2, 32), torch.randn(7, 2, E)
    expected = torch.einsum("lhe,bke->lbkh", weight, vectors) + bias[:, None, None]
    each = tower(llm, gate=gate)
    if gate:
        with torch.no_grad():
            each.gate.copy_(torch.tensor([0.5, 2.0]))
    each.set_projections(weight, bias)
    torch.testing.assert_close(each.project(vectors), expected)
    for found, given in zip(each.projections() or (), (weight, bias), strict=True):
        torch.testing.assert_close(found, given)


def test_one_projector_for_all_is_set_to_the_mean_over_layers(llm):
    weight, bias, vectors = torch.randn(2, 32, E), torch.randn(2, 32), torch.randn(7, 2, E)
    one = tower(llm, projector="shared")
    one.set_projections(weight, bias)
    sizes = one.scale[:, None, None]
    expected = torch.einsum("he,bke->bkh", (weight / sizes).mean(dim=0), vectors)
    expected = expected + (bias / sizes[..., 0]).mean(dim=0)
    torch.testing.assert_close(one.project(vectors), expected * sizes[..., None])


def test_projectors_of_low_rank_are_set_to_the_closest(llm):
    weight, bias = torch.randn(2, 32, E), torch.randn(2, 32)
    for rank in (2, E):
        low = tower(llm, projector_rank=rank)
        low.set_projections(weight, bias)
        found, found_bias = low.projections() or (bias, bias)
        torch.testing.assert_close(found_bias, bias)
        # the best approximation leaves the squares of the singular values it drops
        left = torch.linalg.svdvals(weight)[:, rank:].square().sum()
        torch.testing.assert_close((found - weight).square().sum(), left, rtol=1e-4, atol=1e-6)


def test_there_has_to_be_a_projector_to_set(llm):
    for changes in ({"projector": "fixed"}, {"use_ids": False}):
        with pytest.raises(ValueError, match="expected a tower with a trained projector"):
            tower(llm, **changes).set_projections(torch.zeros(2, 32, E), torch.zeros(2, 32))
    with pytest.raises(ValueError, match="trained projector alone, got 'ridge' with 'fixed'"):
        ModelConfig(projector="fixed", projector_start="ridge")
    with pytest.raises(ValueError, match="projector_start to be one of"):
        ModelConfig(projector_start="zero")


def ids_of(planted) -> GivenIDs:
    """Return vectors of a size of their own; two items and three users have none."""
    generator = np.random.default_rng(1)
    vectors = 4 + 3 * generator.normal(size=(planted.n_items, E)).astype(np.float32)
    known = np.ones(planted.n_items, bool)
    known[[3, 8]] = False
    users = generator.normal(size=(planted.n_users, E)).astype(np.float32)
    known_users = np.ones(planted.n_users, bool)
    known_users[:3] = False
    vectors[~known] = users[~known_users] = np.nan
    return GivenIDs(vectors, known, users, known_users)


def trained(llm, planted, samples, ids, config) -> AlignedModel:
    backbone, tokenizer = llm
    return align(planted, samples, ids, backbone, tokenizer, config)[0]


@pytest.mark.parametrize("alignment", [0.0, 0.1])
@pytest.mark.parametrize("layers", [None, 1])
@pytest.mark.parametrize("most", [4096, 25])
def test_training_starts_at_the_regression(llm, planted, monkeypatch, alignment, layers, most):
    monkeypatch.setattr(start, "_MOST_ROWS", most)
    samples = training_samples(planted.histories).take(np.arange(0, 1080, 9))
    ids = ids_of(planted)
    config = AlignConfig(
        model=ModelConfig(projector_start="ridge", layers=layers),
        loss=LossConfig(alignment=alignment),
        training={"max_steps": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-12},
        seed=3,
    )
    aligned = trained(llm, planted, samples, ids, config)
    prefixes = samples.prefixes(50)
    users, items = aligned.user_entities(prefixes, samples.users), aligned.item_entities()
    assert users.has_id is not None
    assert items.has_id is not None
    # item 0 has no title
    titled = np.arange(planted.n_items) != 0
    for tower, entities, usable in (
        (aligned.model.user, users, users.has_id),
        (aligned.model.item, items, titled & items.has_id),
    ):
        rows = np.flatnonzero(usable)
        assert 25 < len(rows) < len(entities)
        if most < len(rows):
            rows = np.sort(np.random.default_rng(3).choice(rows, most, replace=False))
        backbone = aligned.model.backbone
        pooled = backbone.text_states(*entities.tokens.batch(rows))[
            :, aligned.model.prompted_layers
        ]
        # directions of the size that soft prompts start with: half of what the attention reads
        sizes = backbone.state_sizes[aligned.model.prompted_layers] / 2
        states = F.normalize(pooled, dim=-1) * sizes[:, None] * np.sqrt(32)
        assert entities.id_vectors is not None
        vectors = entities.id_vectors[rows].mean(axis=1)
        weight, bias = least_squares(vectors.astype(np.float64), states.double().numpy(), 0.1)
        expected = np.einsum("lhe,re->lrh", weight, vectors) + bias[:, None]
        found = tower.project(torch.from_numpy(vectors[:, None]))[:, :, 0]
        # the states are kept in 16 bits
        np.testing.assert_allclose(found.detach(), expected, atol=2e-3 * float(states.abs().max()))


def test_users_with_several_vectors_start_at_the_regression_on_their_mean(llm, planted):
    ids = ids_of(planted)
    samples = training_samples(planted.histories).take(np.arange(0, 1080, 9))
    config = AlignConfig(
        model=ModelConfig(projector_start="ridge"),
        training={"max_steps": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-12},
    )
    single = trained(llm, planted, samples, ids, config)
    apart = np.random.default_rng(2).normal(size=(planted.n_users, 1, E)).astype(np.float32)
    assert ids.user_table is not None
    both = np.concatenate([ids.user_table + apart, ids.user_table - apart], axis=1)
    pairs = GivenIDs(ids.item_vectors, ids.item_known, both, ids.user_known)
    several = trained(llm, planted, samples, pairs, config)
    for found, expected in zip(
        several.model.user.projections() or (), single.model.user.projections() or (), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_nobody_with_an_id_vector_is_no_start(llm, planted):
    ids = ids_of(planted)
    nobody = GivenIDs(
        ids.item_vectors, ids.item_known, ids.user_table, np.zeros(planted.n_users, bool)
    )
    samples = training_samples(planted.histories).take(np.arange(40))
    config = AlignConfig(model=ModelConfig(projector_start="ridge"))
    with pytest.raises(ValueError, match=r"expected users, and items with titles, .* got none"):
        trained(llm, planted, samples, nobody, config)
    text = trained(
        llm,
        planted,
        samples,
        nobody,
        AlignConfig(
            model=ModelConfig(projector_start="ridge"),
            training={"max_steps": 1, "per_device_train_batch_size": 8},
        ).without_ids(),
    )
    assert not text.model.user.id_dim
