from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import ArrayLike

from rarec.data import Histories
from rarec.evaluation import (
    CUTOFFS,
    Ranks,
    compare,
    compare_pairs,
    per_user,
    protocol,
    rank_targets,
    read_ranks,
    slices,
    summarise,
    write_ranks,
    write_results,
)


def ranks_of(values: ArrayLike, n_items: int = 1000) -> Ranks:
    """Return ranks without ties."""
    greater = np.asarray(values, dtype=np.int32) - 1
    return Ranks(greater, 0 * greater, np.full_like(greater, n_items - 1))


def a_protocol(**values: Any) -> dict[str, Any]:
    return protocol(
        **{"data_hash": "0", "split": "last", "exclusion": "seen", "seeds": {"split": 0}} | values
    )


def test_pairs_are_compared_on_the_same_resamples_and_corrected_for_their_number() -> None:
    random = np.random.default_rng(0)
    of = {name: ranks_of(random.integers(1, 40, size=200).tolist()) for name in "abc"}
    ranks: dict[str, Ranks | list[Ranks]] = {**of, "d": [of["a"], of["b"]]}
    pairs = [("a", "b"), ("c", "b"), ("d", "a")]
    rows = compare_pairs(ranks, pairs, ["hr@10", "mrr"], n_bootstrap=500, seed=3)
    assert [(row["a"], row["b"], row["metric"]) for row in rows] == [
        (a, b, metric) for a, b in pairs for metric in ("hr@10", "mrr")
    ]
    for row in rows:
        a, b = ranks[row["a"]], ranks[row["b"]]
        one = compare(a, b, row["metric"], n_bootstrap=500, seed=3)
        assert row["difference"] == pytest.approx(one["difference"])
        assert row["ci"] == pytest.approx(one["ci"])
        wide = compare(a, b, row["metric"], n_bootstrap=500, seed=3, confidence=1 - 0.05 / 3)
        assert row["ci_corrected"] == pytest.approx(wide["ci"])
    assert compare_pairs(ranks, [], ["mrr"]) == []
    with pytest.raises(ValueError, match="same queries"):
        compare_pairs({"a": ranks_of([1]), "b": ranks_of([1, 2])}, [("a", "b")], ["mrr"])
    with pytest.raises(ValueError, match="n_bootstrap >= 1"):
        compare_pairs(ranks, pairs, ["mrr"], n_bootstrap=0)


def test_rank_values_follow_the_tie_rule() -> None:
    ranks = Ranks(np.array([0, 3]), np.array([4, 0]), np.array([9, 9]))
    assert ranks.values().tolist() == [3.0, 4.0]
    assert ranks.values("optimistic").tolist() == [1.0, 4.0]
    assert ranks.values("pessimistic").tolist() == [5.0, 4.0]
    assert ranks.values().dtype == np.float64
    with pytest.raises(ValueError, match="expected ties of"):
        ranks.values("lucky")  # pyright: ignore[reportArgumentType]


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"equal <= candidates, got 5, 5 and 9 in row 0"):
        Ranks(np.array([5]), np.array([5]), np.array([9]))
    with pytest.raises(ValueError, match="got 1, 2 and 1"):
        Ranks(np.array([1]), np.array([1, 1]), np.array([9]))
    with pytest.raises(ValueError, match="whole greater"):
        Ranks(np.array([1.5]), np.array([1]), np.array([9]))


@pytest.mark.parametrize("n_vectors", [None, 1, 3])
def test_rank_targets_is_a_full_sort(n_vectors: int | None) -> None:
    random = np.random.default_rng(0)
    shape = (20, 8) if n_vectors is None else (20, n_vectors, 8)
    queries, items = random.integers(-2, 3, shape), random.integers(-2, 3, (60, 8))
    targets = random.integers(0, 60, 20)
    # unsorted, with repetition, and sometimes with the target itself
    seen = Histories.from_lists([random.integers(0, 60, 30).tolist() for _ in range(20)])
    ranks = rank_targets(queries, items, targets, seen, threads=2)
    scores = queries.reshape(20, -1, 8) @ items.T
    for row in range(20):
        best = scores[row].max(axis=0)
        others = np.setdiff1d(np.arange(60), np.append(seen[row], targets[row]))
        assert ranks.greater[row] == np.sum(best[others] > best[targets[row]])
        assert ranks.equal[row] == np.sum(best[others] == best[targets[row]])
        assert ranks.candidates[row] == len(others)


def test_a_model_with_equal_scores_has_its_targets_in_the_middle() -> None:
    ranks = rank_targets(np.zeros((5, 4)), np.ones((101, 4)), np.arange(5), None)
    assert ranks.values().tolist() == [51.0] * 5
    assert summarise(ranks, n_bootstrap=0)["hr@10"] == 0.0
    assert summarise(ranks, n_bootstrap=0, ties="optimistic")["hr@1"] == 1.0


def test_rank_targets_counts_among_the_candidates_where_there_are_some() -> None:
    items = np.arange(6.0)[:, None]
    among = Histories.from_lists([[5, 4, 0, 4], [3]])
    seen = Histories.from_lists([[5], []])
    ranks = rank_targets([[1.0], [-1.0]], items, [2, 2], seen, among=among)
    assert ranks.greater.tolist() == [1, 0]
    assert ranks.candidates.tolist() == [2, 1]
    halves = rank_targets([[1.0], [-1.0]], items.astype(np.float16), [2, 2], seen, among=among)
    assert halves.greater.tolist() == [1, 0]


def test_many_queries_are_counted_as_one_by_one() -> None:
    random = np.random.default_rng(0)
    queries, items = random.standard_normal((2100, 8)), random.standard_normal((300, 8))
    targets = random.integers(0, 300, 2100)
    whole = rank_targets(queries, items, targets, None)
    parts = [rank_targets(queries[i : i + 50], items, targets[i : i + 50], None) for i in (0, 2050)]
    for part, rows in zip(parts, (slice(0, 50), slice(2050, 2100)), strict=True):
        np.testing.assert_array_equal(part.greater, whole.greater[rows])


def test_rank_targets_refuses_bad_arguments() -> None:
    queries, items = np.ones((2, 4)), np.ones((5, 4))
    with pytest.raises(ValueError, match=r"got \[2, 4\] and \[5, 3\]"):
        rank_targets(queries, items[:, :3], [0, 1], None)
    with pytest.raises(ValueError, match="expected 2 targets"):
        rank_targets(queries, items, [0], None)
    with pytest.raises(ValueError, match="targets from 0 to 4, got 0 to 5"):
        rank_targets(queries, items, [0, 5], None)
    with pytest.raises(ValueError, match="whole item numbers"):
        rank_targets(queries, items, [0.0, 1.0], None)
    with pytest.raises(ValueError, match="2 rows of seen items, got 1"):
        rank_targets(queries, items, [0, 1], Histories.from_lists([[1]]))
    with pytest.raises(ValueError, match="expected finite queries, got NaN in row 1"):
        rank_targets([[1, 1, 1, 1], [1, 1, np.nan, 1]], items, [0, 1], None)
    with pytest.raises(ValueError, match="seen items from 0 to 4, got 5"):
        rank_targets(queries, items, [0, 1], Histories.from_lists([[1], [5]]))


def test_no_queries_give_no_ranks() -> None:
    assert len(rank_targets(np.ones((0, 4)), np.ones((5, 4)), np.empty(0, int), None)) == 0


@given(arrays(np.int32, st.integers(1, 30), elements=st.integers(1, 200)))
def test_metrics_are_their_definitions(values: np.ndarray) -> None:
    metrics = per_user(ranks_of(values))
    names = {f"{name}@{k}" for name in ("hr", "ndcg", "recall", "mrr") for k in CUTOFFS}
    assert metrics.keys() == names | {"mrr"}
    for k in CUTOFFS:
        assert metrics[f"hr@{k}"].tolist() == [float(r <= k) for r in values]
        gains = [1 / np.log2(1 + r) if r <= k else 0.0 for r in values]
        np.testing.assert_allclose(metrics[f"ndcg@{k}"], gains)
        np.testing.assert_allclose(metrics[f"mrr@{k}"], [1 / r if r <= k else 0 for r in values])
        np.testing.assert_array_equal(metrics[f"recall@{k}"], metrics[f"hr@{k}"])
    np.testing.assert_allclose(metrics["mrr"], 1 / values)


def test_a_summary_has_means_and_intervals_around_them() -> None:
    random = np.random.default_rng(0)
    ranks = ranks_of(random.integers(1, 41, 2000))
    summary = summarise(ranks, n_bootstrap=2000, seed=4)
    low, high = summary["hr@10_ci"]  # pyright: ignore[reportGeneralTypeIssues]
    mean = summary["hr@10"]
    assert isinstance(mean, float)
    # the interval of the normal approximation for a proportion
    width = 1.96 * np.sqrt(mean * (1 - mean) / 2000)
    assert low == pytest.approx(mean - width, abs=0.15 * width)
    assert high == pytest.approx(mean + width, abs=0.15 * width)
    assert summary == summarise(ranks, n_bootstrap=2000, seed=4)
    assert summary != summarise(ranks, n_bootstrap=2000, seed=5)
    narrow = summarise(ranks, n_bootstrap=2000, seed=4, confidence=0.5)
    assert low < narrow["hr@10_ci"][0] < mean  # pyright: ignore[reportIndexIssue]
    assert not any(key.endswith("_ci") for key in summarise(ranks, n_bootstrap=0))
    assert "hr@3" in summarise(ranks, cutoffs=[3])


def test_a_summary_does_not_depend_on_the_size_of_the_resample_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranks = ranks_of(np.arange(1, 50))
    whole = summarise(ranks, n_bootstrap=100)
    monkeypatch.setattr("rarec.evaluation.metrics._BLOCK", 60)
    parts = summarise(ranks, n_bootstrap=100)
    assert parts.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, err_msg=name)


def test_a_comparison_is_paired() -> None:
    random = np.random.default_rng(0)
    a = ranks_of(random.integers(1, 100, 500))
    better = ranks_of(np.maximum(a.values() - 5, 1))
    pair = compare(better, a, "hr@10", seed=1)
    difference = np.mean(better.values() <= 10) - np.mean(a.values() <= 10)
    assert pair["metric"] == "hr@10"
    assert pair["difference"] == pytest.approx(difference)
    assert 0 < pair["ci"][0] < difference < pair["ci"][1]
    assert compare(a, a, "mrr")["ci"] == [0.0, 0.0]
    assert compare(better, a, "hr@7")["difference"] > 0
    assert compare(a, better, "hr@10", seed=1)["difference"] == pytest.approx(-difference)


def test_a_comparison_refuses_bad_arguments() -> None:
    with pytest.raises(ValueError, match="same queries, got 2 and 1"):
        compare(ranks_of([1, 2]), ranks_of([1]), "mrr")
    for name in ("hr", "hr@0", "hr@x", "auc@10", ""):
        with pytest.raises(ValueError, match="expected hr@k"):
            compare(ranks_of([1]), ranks_of([1]), name)
    with pytest.raises(ValueError, match="n_bootstrap >= 1"):
        compare(ranks_of([1]), ranks_of([1]), "mrr", n_bootstrap=0)


def test_slices_summarise_each_group() -> None:
    groups = np.array(["new", "old", "new", "old", "old"])
    parts = slices(ranks_of([1, 200, 2, 10, 200]), groups, n_bootstrap=10)
    assert list(parts) == ["new", "old"]
    assert parts["new"]["hr@10"] == 1.0
    assert parts["new"]["queries"] == 2
    assert parts["old"]["hr@10"] == pytest.approx(1 / 3)
    assert list(slices(ranks_of([1, 2]), [3, 1])) == [1, 3]
    with pytest.raises(ValueError, match="5 labels"):
        slices(ranks_of([1, 2, 3, 4, 5]), ["a"])


def test_a_summary_refuses_bad_arguments() -> None:
    with pytest.raises(ValueError, match="at least one rank"):
        summarise(ranks_of([]))
    with pytest.raises(ValueError, match="confidence between 0 and 1"):
        summarise(ranks_of([1]), confidence=1.0)
    with pytest.raises(ValueError, match="cutoffs >= 1"):
        summarise(ranks_of([1]), cutoffs=[0])


def test_a_protocol_is_plain_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [str(Path.home() / "bin" / "rarec"), "demo"])
    made = a_protocol(filters=["5-core"], extra={"model": "MiniLM"})
    assert json.loads(json.dumps(made)) == made
    assert made["command"] == [f"~{Path('/bin/rarec')}", "demo"]
    assert made["versions"].keys() == {
        "python", "rarec", "torch", "transformers", "numpy", "polars",
    }  # fmt: skip
    assert made["versions"]["numpy"] == np.__version__
    assert made["ties"] == "average"
    assert made["model"] == "MiniLM"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", made["time"])
    with pytest.raises(ValueError, match=r"does not have, got \['time'\]"):
        a_protocol(extra={"time": "now"})
    with pytest.raises(ValueError, match="expected ties of"):
        a_protocol(ties="none")


def test_results_are_written_beside_their_protocol(tmp_path: Path) -> None:
    made = a_protocol()
    pair = {"a": "rarec", "b": "id", **compare(ranks_of([1, 2]), ranks_of([2, 2]), "hr@1")}
    results = {"rows": [{"model": "rarec", **summarise(ranks_of([1, 2]))}], "paired": [pair]}
    write_results(tmp_path / "run", results, made)
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [
        "protocol.json",
        "results.json",
    ]
    read = json.loads((tmp_path / "run" / "results.json").read_text())
    assert read == {"protocol": made, **results}
    assert json.loads((tmp_path / "run" / "protocol.json").read_text()) == made


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({}, "list of rows"),
        ({"rows": [{"hr@10": 1.0}]}, r"the key 'model' as results\['rows'\], got \[{'hr@10'"),
        ({"rows": [], "protocol": {}}, "without the key 'protocol'"),
        ({"rows": [], "paired": [{"a": "x"}]}, "expected pairs"),
        ({"rows": [{"model": "x", "hr@10": float("nan")}]}, "JSON compliant"),
        ({"rows": [{"model": "x", "hr@10": np.float32(1)}]}, "values that JSON has"),
    ],
)
def test_results_of_another_form_write_nothing(
    tmp_path: Path, results: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_results(tmp_path, results, a_protocol())
    assert list(tmp_path.iterdir()) == []


def test_runs_are_averaged_for_each_user_first() -> None:
    first, second = ranks_of([1, 20, 3]), ranks_of([20, 20, 4])
    found = summarise([first, second], n_bootstrap=200)
    assert found["hr@10"] == pytest.approx((0.5 + 0 + 1) / 3)
    # only users are resampled, so a copy of a run changes nothing
    assert summarise([first, first], n_bootstrap=200) == summarise(first, n_bootstrap=200)
    pair = compare([first, second], ranks_of([20, 20, 20]), "hr@10")
    assert pair["difference"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="runs on the same queries"):
        summarise([first, ranks_of([1])])
    with pytest.raises(ValueError, match="at least one rank"):
        summarise([])


def test_ranks_can_be_written_and_read(tmp_path: Path) -> None:
    ranks = {"a+id": Ranks(np.array([0, 3]), np.array([4, 0]), np.array([9, 9]))}
    write_ranks(tmp_path, ranks, "validation")
    write_ranks(tmp_path, ranks, "validation")
    found, part = read_ranks(tmp_path)
    assert part == "validation"
    assert found["a+id"].values().tolist() == [3.0, 4.0]
    assert [path.name for path in tmp_path.iterdir()] == ["ranks.safetensors"]
    (tmp_path / "ranks.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"ranks\.safetensors: expected ranks"):
        read_ranks(tmp_path)
    with pytest.raises(ValueError, match=r"ranks\.safetensors"):
        read_ranks(tmp_path / "nowhere")
