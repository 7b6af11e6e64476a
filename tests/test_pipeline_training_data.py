"""What a training takes from the ID model: its scores, and the hard negatives mined with it."""

import numpy as np
import pytest

from rarec.ids import GivenIDs
from rarec.pipeline import training_data
from rarec.pipeline.training_data import mine_hard_negatives, sample_scores
from rarec.selection import training_samples

E = 6


@pytest.fixture
def ids() -> GivenIDs:
    """Return vectors with one cold item and one cold user."""
    generator = np.random.default_rng(0)
    users = generator.normal(size=(120, 2, E)).astype(np.float32)
    known = np.arange(120) != 3
    users[3] = np.nan
    items = generator.normal(size=(40, E)).astype(np.float32)
    items[5] = np.nan
    return GivenIDs(items, np.arange(40) != 5, users, known)


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
def test_mined_negatives_are_the_best_unseen_items(planted, ids, size, block, monkeypatch):
    monkeypatch.setattr(training_data, "_BLOCK", block)
    samples = training_samples(planted.histories).take(np.arange(0, 1080, 13))
    scores = sample_scores(ids, samples, samples.prefixes(5))
    pools = mine_hard_negatives(scores, samples, planted, size)
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
