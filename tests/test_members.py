"""Members: scores as inner products, their weighted sum, and the choice of weights."""

import numpy as np
import pytest

from rarec.data import Cases, Histories
from rarec.ids import GivenIDs
from rarec.members import fusion
from rarec.members.fusion import choose_weights, fused_name, weighing_cases
from rarec.members.id_model import (
    id_queries_to_add,
    id_scores,
    id_scores_to_add,
    with_mean_for_cold,
)
from rarec.members.scores import ScoreVectors, popularity_scores, weighted_sum

N = 12


def cases(n: int, seed: int = 0) -> Cases:
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(N) for _ in range(n)]
    return Cases(
        np.arange(n, dtype=np.int32),
        np.array([order[0] for order in orders], dtype=np.int32),
        Histories.from_lists([order[1:4].tolist() for order in orders]),
    )


def random_scores(n: int, n_vectors: int, seed: int) -> ScoreVectors:
    generator = np.random.default_rng(seed)
    return ScoreVectors(
        generator.normal(size=(n, n_vectors, 3)).astype(np.float32),
        generator.normal(size=(N, 3)).astype(np.float32),
    )


def dense(scores: ScoreVectors) -> np.ndarray:
    return np.einsum("ckd,nd->ckn", scores.queries, scores.items).max(axis=1)


def test_popularity_ranks_by_training_events():
    train = Histories.from_lists([[0, 1, 2], [1, 2], [2]])
    asked = Cases(np.zeros(1, np.int32), np.array([1], np.int32), Histories.from_lists([[]]))
    ranks = popularity_scores(train, asked, 4).ranks(asked)
    assert ranks.values().tolist() == [2.0]


def test_a_fused_score_is_the_weighted_sum():
    first, second = random_scores(5, 1, 0), random_scores(5, 3, 1)
    expected = dense(first) + 0.7 * dense(second)
    scores = {"rarec": first, "id": second}
    fused = weighted_sum(scores, {"rarec": 1.0, "id": 0.7})
    np.testing.assert_allclose(dense(fused), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="one member with several query vectors"):
        weighted_sum({"a": second, "b": second}, {"a": 1.0, "b": 1.0})
    with pytest.raises(ValueError, match=r"weights of \['id', 'rarec'\], got \['id'\]"):
        weighted_sum(scores, {"id": 1.0})


def test_the_weight_is_the_best_on_the_cases(monkeypatch):
    asked = cases(200)
    truth = np.eye(N, dtype=np.float32)
    good = ScoreVectors(truth[asked.targets][:, None], truth)
    noise = random_scores(200, 1, 3)
    monkeypatch.setattr(fusion, "FUSION_WEIGHTS", (0.01, 0.1, 50.0))
    assert choose_weights(("noise", noise), ("good", good), asked) == {"noise": 1.0, "good": 50.0}
    monkeypatch.setattr(fusion, "FUSION_WEIGHTS", (0.001, 5.0))
    assert choose_weights(("good", good), ("noise", noise), asked)["noise"] == 0.001
    # without cases there is nothing to choose on
    none = asked.take(np.array([], np.int64))
    assert choose_weights(("good", good), ("noise", noise), none)["noise"] == 0.0


def test_weights_are_chosen_on_few_of_many_cases(monkeypatch):
    monkeypatch.setattr(fusion, "MOST_CASES", 9)
    assert len(weighing_cases(cases(50))) == 9


def test_sums_have_names():
    assert [fused_name(name) for name in ("text", "rarec", "lora")] == [
        *("late_fusion", "rarec+id", "lora+id")
    ]


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_items_without_a_vector_share_the_last_place(size):
    known = np.ones(N, dtype=bool)
    known[[4, 9]] = False
    generator = np.random.default_rng(0)
    ids = GivenIDs((size * generator.normal(size=(N, 3))).astype(np.float32), known)
    asked = cases(6)
    scores = dense(id_scores(ids, asked))
    vectors, _ = ids.user_vectors(asked.histories)
    plain = np.einsum("ckd,nd->cn", vectors, ids.item_vectors)
    np.testing.assert_allclose(scores[:, known], plain[:, known], rtol=1e-5, atol=1e-6)
    assert np.all(scores[:, 4] == scores[:, 9])
    assert np.all(scores[:, 4] < scores[:, known].min(axis=1))
    mean = dense(id_scores_to_add(ids, asked))
    np.testing.assert_allclose(mean[:, 4], plain[:, known].mean(axis=1), rtol=1e-3, atol=1e-6)


def test_cold_items_have_the_mean_vector():
    vectors = np.array([[1.0, 2.0], [3.0, 6.0], [np.nan, np.nan]], np.float32)
    found = with_mean_for_cold(GivenIDs(vectors, np.array([True, True, False])))
    np.testing.assert_array_equal(found, [[1, 2], [3, 6], [2, 4]])
    # new items after those of the ID model are cold, too
    ids = GivenIDs(vectors, np.array([True, True, False]))
    np.testing.assert_array_equal(with_mean_for_cold(ids, 5)[3:], [[2, 4], [2, 4]])
    queries = id_queries_to_add(ids, Histories.from_lists([[0], [2]]), None, 2.0)
    np.testing.assert_array_equal(queries[:, 0], [[2, 4], [0, 0]])
    # nothing is known: no warning, nothing that is not a number
    assert not with_mean_for_cold(GivenIDs(vectors, np.zeros(3, bool))).any()


def test_a_sample_of_cases_is_in_order_and_the_same_for_a_seed():
    asked = cases(50)
    assert asked.sample(50, seed=0) is asked
    some = asked.sample(9, seed=0)
    rows = np.sort(np.random.default_rng(0).permutation(50)[:9])
    np.testing.assert_array_equal(some.targets, asked.targets[rows])
    np.testing.assert_array_equal(some.users, asked.users[rows])
