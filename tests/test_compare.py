"""Rivals in one table."""

import json

import numpy as np
import pytest

from rarec.backbone import lora
from rarec.compare import CompareConfig, compare, runs
from rarec.evaluation import read_ranks
from rarec.ids import GivenIDs, IDConfig
from rarec.recommender import Recommender
from rarec.selection import SelectionConfig

IDS = IDConfig(dim=8, max_history=10, batch_size=32, max_epochs=3, patience=3)


@pytest.fixture(scope="module")
def compared(tmp_path_factory, planted, tiny_llm):
    """Return the folder of a run, its comparison, and what was said."""
    folder = tmp_path_factory.mktemp("compare") / "run"
    recommender = Recommender(planted, folder=folder)
    recommender.select(SelectionConfig(fraction=0.5))
    recommender.fit_ids(IDS, baseline=False)
    config = CompareConfig(
        ("text", "project-inputs"),
        seeds=(3, 5),
        steps=3,
        batch_size=16,
        align={"llm": str(tiny_llm)},
    )
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        # ten processes would spend a minute on imports; another test has them
        patch.setattr(runs, "in_process", lambda function, *arguments: function(*arguments))
        results = compare(recommender, config, n_bootstrap=50, say=said.append)
    return folder, config, results, said


def test_each_rival_has_a_row_of_means_over_seeds(compared):
    folder, _, results, _ = compared
    assert [row["model"] for row in results["rows"]] == [
        *("popularity", "id", "id_held_out", "text", "late_fusion", "rarec", "rarec+id"),
        *("project-inputs", "project-inputs+id"),
    ]
    rows = {row["model"]: row for row in results["rows"]}
    for name, row in rows.items():
        each = [
            json.loads((folder / "compare" / f"seed-{seed}" / "results.json").read_text())
            for seed in (3, 5)
        ]
        values = [one["hr@10"] for run in each for one in run["rows"] if one["model"] == name]
        assert row["hr@10_runs"] == values
        assert row["hr@10"] == pytest.approx(np.mean(values))
        low, high = row["hr@10_ci"]
        assert low <= row["hr@10"] <= high
        assert row["what"]
    for name in ("text", "rarec", "project-inputs"):
        assert rows[name]["steps"] == 3
        assert rows[name]["peak_rss_mb"] > 10
        assert rows[name]["samples_per_second"] > 0
        assert rows[name]["adapter_bytes"] > 1000
    assert len(rows["rarec+id"]["weights"]) == 2
    pairs = {(pair["a"], pair["b"]) for pair in results["paired"]}
    assert ("rarec", "project-inputs") in pairs
    assert [seeds["ids"] for seeds in results["protocol"]["seeds"]] == [3, 5]


def test_it_is_written_as_a_table_and_as_json(compared):
    folder, _, results, _ = compared
    stored = json.loads((folder / "compare" / "results.json").read_text())
    assert stored["rows"] == results["rows"]
    lines = (folder / "compare" / "results.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("| `")]
    assert len(table) == len(results["rows"])
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    row = next(line for line in table if line.startswith("| `project-inputs` "))
    assert f"{results['rows'][7]['hr@100']:.3f}" in row


def test_what_is_there_is_not_done_again(compared):
    folder, config, results, said = compared
    assert not any("already" in line for line in said)
    model = folder / "compare" / "seed-3" / "models" / "rarec" / "adapter.safetensors"
    evaluated = folder / "compare" / "seed-3" / "results.json"
    before, then = model.stat().st_mtime_ns, evaluated.stat().st_mtime_ns
    again: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "in_process", lambda function, *arguments: function(*arguments))
        second = compare(Recommender.load(folder), config, n_bootstrap=50, say=again.append)
    assert sum("there already" in line for line in again) == 6
    assert model.stat().st_mtime_ns == before
    assert evaluated.stat().st_mtime_ns == then
    for row, new in zip(results["rows"], second["rows"], strict=True):
        assert row["hr@100_ci"] == new["hr@100_ci"]
    ranks, part = read_ranks(folder / "compare" / "seed-3")
    assert part == "test"
    assert "project-inputs" in ranks


@pytest.mark.slow
def test_vectors_made_elsewhere_are_taken_as_they_are(planted, tiny_llm, tmp_path):
    recommender = Recommender(planted)
    table = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    recommender.use_ids(GivenIDs(table, np.ones(40, bool)))
    align = {"llm": str(tiny_llm)}
    config = CompareConfig(("default",), (1,), steps=2, batch_size=16, align=align)
    out = tmp_path / "out"
    results = compare(recommender, config, folder=out, n_bootstrap=0, say=[].append)
    names = [row["model"] for row in results["rows"]]
    assert names == ["popularity", "id", "rarec", "rarec+id"]
    adapter = out / "seed-1" / "models" / "rarec" / "adapter.safetensors"
    first = adapter.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "in_process", lambda function, *arguments: function(*arguments))
        compare(recommender, config, folder=out, n_bootstrap=0, say=[].append)
        assert adapter.read_bytes() == first
        # other vectors: what was trained with the first ones is of no use
        recommender.use_ids(GivenIDs(-2 * table + 1, np.ones(40, bool)))
        compare(recommender, config, folder=out, n_bootstrap=0, say=[].append)
    assert adapter.read_bytes() != first


def test_a_comparison_that_cannot_be_is_refused(planted, monkeypatch):
    with pytest.raises(ValueError, match=r"rivals of .*got \['best'\]"):
        CompareConfig(("best",))
    with pytest.raises(ValueError, match="different seeds"):
        CompareConfig(seeds=(1, 1))
    with pytest.raises(ValueError, match="steps and batch_size >= 1"):
        CompareConfig(steps=0)
    with pytest.raises(ValueError, match="expected a folder"):
        compare(Recommender(planted))
    monkeypatch.setattr(lora, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"rarec\[lora\]"):
        CompareConfig()
    assert CompareConfig(("text", "full")).rivals == ("text", "full")
