"""The variants of the method and the baselines in one table, on the data of a run."""

import json

import numpy as np
import pytest

from rarec import processes
from rarec.backbone import lora
from rarec.ids import GivenIDs
from rarec.pipeline.fit_ids import fit_ids, import_ids
from rarec.pipeline.session import Session
from rarec.run import RunFolder
from rarec.settings import VARIANTS, FitSettings, IDSettings, SelectionSettings, SplitSettings
from rarec.study import compare_study, run_study

FIT = FitSettings(
    selection=SelectionSettings(fraction=0.5, seed=9),
    ids=IDSettings(text="", dim=8, max_history=10, batch_size=32, max_epochs=3, patience=3),
    all_samples=False,
)


def at_once(tasks, *, jobs, n_threads):
    """Stand for the processes, which would spend their time on imports."""
    del jobs, n_threads
    for name, (function, *arguments) in tasks.items():
        yield processes._Ended(name, function(*arguments))


@pytest.fixture(scope="module")
def compared(tmp_path_factory, planted, tiny_llm):
    """Return the folder of a run, the study, and its results."""
    run = RunFolder.create(
        tmp_path_factory.mktemp("compare") / "run", planted, SplitSettings(min_history=2)
    )
    fit_ids(run, FIT, Session())
    study = compare_study(
        run.path,
        variants=["text", "project-inputs"],
        seeds=(3, 5),
        steps=3,
        batch_size=16,
        llm=str(tiny_llm),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_run", at_once)
        results = run_study(study, run.path / "compare", n_bootstrap=50, say=lambda _: None)
    return run, study, results["run"]


def test_each_variant_is_compared_with_the_default(compared):
    run, _, results = compared
    assert [row["model"] for row in results["rows"]] == [
        *("popularity", "id", "id_held_out", "rarec", "rarec+id", "text", "late_fusion"),
        *("project-inputs", "project-inputs+id"),
    ]
    rows = {row["model"]: row for row in results["rows"]}
    assert rows["project-inputs"]["what"] == VARIANTS["project-inputs"].what
    assert all(row["what"] for row in rows.values())
    for name in ("text", "rarec", "project-inputs"):
        assert rows[name]["steps"] == 3
        assert rows[name]["samples_per_second"] > 0
    pairs = {(pair["a"], pair["b"]) for pair in results["paired"]}
    assert ("project-inputs", "rarec") in pairs
    assert results["protocol"]["seeds"] == {"3": 3, "5": 5}
    # each variant has a row in each of the two tables
    text = (run.path / "compare" / "run" / "results.md").read_text()
    assert text.count("| `project-inputs` ") == 2
    stored = json.loads((run.path / "compare" / "run" / "results.json").read_text())
    assert stored["rows"] == results["rows"]


def test_samples_and_id_model_are_made_as_in_the_run(compared):
    run, study, _ = compared
    (source,) = study.data
    fit, align = study.settings("rarec", source, 3)
    assert fit.selection == SelectionSettings(fraction=0.5, seed=3)
    assert (fit.ids.dim, fit.ids.text, fit.ids.seed) == (8, "", 3)
    # a comparison has the ID model of all samples, too
    assert (fit.hold_out, fit.all_samples) == (True, True)
    assert align.training.max_steps == 3
    for copy in run.path.rglob("compare/run/seed-*/run-*/run.json"):
        assert RunFolder(copy.parent).data_hash == run.data_hash


def test_the_packaged_study_has_all_variants(planted, tmp_path):
    run = RunFolder.create(tmp_path / "run", planted)
    study = compare_study(run.path)
    assert set(study.variants) == {"rarec", *VARIANTS} - {"default"}
    (source,) = study.data
    for name, values in study.variants.items():
        assert values.get("align.variant", "rarec") == name
        fit, align = study.settings(name, source, 0)
        # the budget and the samples are the same for all
        assert align.training == VARIANTS["default"].settings.training
        assert fit == FitSettings()


def test_imported_vectors_are_taken_as_they_are(planted, tiny_llm, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_run", at_once)
    run = RunFolder.create(tmp_path / "run", planted)
    table = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    adapters = []
    for vectors in (table, table, -2 * table + 1):
        import_ids(run, GivenIDs(vectors, np.ones(40, bool)), Session(), restart=True)
        study = compare_study(
            run.path, variants=["default"], seeds=(1,), steps=2, batch_size=16, llm=str(tiny_llm)
        )
        results = run_study(study, tmp_path / "out", n_bootstrap=20, say=lambda _: None)["run"]
        names = [row["model"] for row in results["rows"]]
        assert names == ["popularity", "id", "rarec", "rarec+id"]
        folder = results["protocol"]["runs"]["rarec"]
        model = tmp_path / "out" / "run" / "seed-1" / folder / "models" / "rarec"
        adapters.append((model / "adapter.safetensors").read_bytes())
    assert adapters[0] == adapters[1]
    assert adapters[1] != adapters[2]


def test_what_cannot_be_compared_is_refused(planted, tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path / "run", planted)
    with pytest.raises(ValueError, match="expected a run folder"):
        compare_study(tmp_path)
    with pytest.raises(ValueError, match=r"variants of .*got \['best'\]"):
        compare_study(run.path, variants=["best"])
    with pytest.raises(ValueError, match="different seeds"):
        compare_study(run.path, seeds=(1, 1))
    with pytest.raises(ValueError, match=r"training\.max_steps to be .*got 0"):
        compare_study(run.path, steps=0)
    monkeypatch.setattr(lora, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"rarec\[lora\]"):
        compare_study(run.path)
    assert set(compare_study(run.path, variants=["full"]).variants) == {"rarec", "full"}
