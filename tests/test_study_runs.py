"""Many configurations run from one study."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from rarec import processes
from rarec.evaluation import read_ranks
from rarec.ids import load_ids
from rarec.pipeline import fit_ids as fit_step
from rarec.run import RunFolder, read_record
from rarec.study import DataSource, Study, run_study
from rarec.study.runs import _asked

SMALL = {
    "ids.text": "",
    "ids.dim": 8,
    "ids.max_history": 10,
    "ids.batch_size": 32,
    "ids.max_epochs": 3,
    "selection.fraction": 0.5,
    "align.training.max_steps": 3,
    "align.training.per_device_train_batch_size": 16,
}


def at_once(tasks, *, jobs, n_threads):
    """Stand for the processes, which would spend their time on imports."""
    del jobs, n_threads
    for name, (function, *arguments) in tasks.items():
        try:
            yield processes._Ended(name, function(*arguments))
        except Exception as error:
            yield processes._Ended(name, error=error)


@pytest.fixture
def without_processes(monkeypatch):
    monkeypatch.setattr(processes, "_run", at_once)


@pytest.fixture(scope="module")
def study(planted, tiny_llm):
    """Return a study of the planted catalogue."""
    common = {**SMALL, "align.llm": str(tiny_llm)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataSource, "read", lambda _: planted)
        yield Study(
            (DataSource("planted", "nowhere", settings=common),),
            {
                "base": {},
                "top": {"align.model.layers": 1},
                "wide": {"ids.dim": 12},
                "known": {"hold_out": False},
                "text": {"align.variant": "text"},
            },
            seeds=(0, 1),
            cases=40,
            names={"base": "rarec", "wide:id": "wider"},
            id_models={"shallow": {"ids.max_epochs": 1}},
        )


@pytest.fixture(scope="module")
def studied(study, tmp_path_factory):
    """Return the folder of a finished study, its results and what was said."""
    folder = tmp_path_factory.mktemp("study")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_run", at_once)
        # the base first, the others later
        run_study(study, folder, only=["base"], say=said.append)
        results = run_study(study, folder, n_bootstrap=200, say=said.append)
    return folder, results["planted"], said


def folder_of(folder, results, name, seed=0):
    """Return where the results of a variant are."""
    run = results["protocol"]["runs"][name]
    return folder / "planted" / f"seed-{seed}" / run / "study" / "variants" / name


def test_each_variant_has_a_row_alone_and_fused(studied):
    folder, results, _ = studied
    assert [row["model"] for row in results["rows"]] == [
        *("popularity", "id", "id_held_out", "base", "base+id", "top", "top+id"),
        *("wide:id", "wide:id_held_out", "wide", "wide+id", "known:id", "known", "known+id"),
        *("text", "late_fusion", "shallow"),
    ]
    rows = {row["model"]: row for row in results["rows"]}
    values = []
    for seed in (0, 1):
        ranks, part = read_ranks(folder_of(folder, results, "top", seed))
        assert part == "validation"
        assert len(ranks["alone"]) == 40
        values.append((ranks["fused"].values() <= 10).mean())
    assert rows["top+id"]["hr@10"] == pytest.approx(np.mean(values))
    assert rows["top+id"]["hr@10_by_seed"] == values
    assert rows["top"]["settings"] == {"align.model.layers": 1}
    assert rows["top"]["what"] == "align.model.layers = 1"
    assert len(rows["top+id"]["weights"]) == 2
    assert rows["top"]["trainable_parameters"] < rows["base"]["trainable_parameters"]
    assert rows["base"]["steps"] == 3
    assert rows["base"]["peak_rss_mb"] > 10
    assert rows["base"]["adapter_bytes"] > 1000
    assert results["protocol"]["cases"] == 40
    assert (rows["shallow"]["settings"]["ids.max_epochs"], rows["shallow"]["epochs"]) == (1, 1)


def test_variants_with_the_same_samples_and_ids_share_a_run(studied):
    folder, results, said = studied
    runs = results["protocol"]["runs"]
    assert runs["base"] == runs["top"] == runs["text"]
    assert len(set(runs.values())) == 3
    assert sum("fitted" in line for line in said) == 8
    run = RunFolder(folder / "planted" / "seed-1" / runs["base"])
    assert run.model_names() == ["base", "text", "top"]


def test_runs_share_the_id_model_of_all_samples(study, tmp_path, monkeypatch, without_processes):
    trained: list[str] = []
    ordinary = fit_step.train_encoders

    def counted(train, validation, n_items, settings, parts, **options):
        trained.extend(parts)
        return ordinary(train, validation, n_items, settings, parts, **options)

    monkeypatch.setattr(fit_step, "train_encoders", counted)
    variants = {"base": {}, "known": {"hold_out": False}, "fewer": {"selection.fraction": 0.3}}
    small = replace(study, seeds=(0,), variants=variants, id_models={})
    results = run_study(small, tmp_path, n_bootstrap=20)["planted"]
    # two that held samples out, and one of all samples for the three runs
    assert sorted(trained) == ["all", "held-out", "held-out"]
    rows = {row["model"]: row for row in results["rows"]}
    for name in ("known:id", "fewer:id"):
        assert rows[name]["hr@10"] == rows["id"]["hr@10"]
        assert rows[name]["seconds"] == rows["id"]["seconds"]
    # what a run trains by itself is the same
    run_study(replace(small, variants={"base": {}}), tmp_path / "alone", n_bootstrap=20)
    (alone,) = (tmp_path / "alone").rglob("ids/id/all")
    for copy in (tmp_path / "planted" / "seed-0").rglob("ids/id/all"):
        assert np.array_equal(load_ids(copy).item_vectors, load_ids(alone).item_vectors)


def test_a_folder_of_other_data_is_refused_before_any_work(planted, study, studied, monkeypatch):
    folder, _, _ = studied
    other = replace(planted, titles=[title.upper() for title in planted.titles])
    monkeypatch.setattr(DataSource, "read", lambda _: other)
    monkeypatch.setattr(processes, "_run", lambda *_, **__: pytest.fail("work"))
    with pytest.raises(ValueError, match=r"planted.seed-0.run-\w+: expected .* the same data"):
        run_study(study, folder)


def test_arguments_are_refused_before_any_work(study, tmp_path):
    with pytest.raises(ValueError, match="expected results of base, got none"):
        run_study(study, tmp_path, jobs=0)
    with pytest.raises(ValueError, match="jobs >= 0"):
        run_study(study, tmp_path, jobs=-1)
    with pytest.raises(ValueError, match=r"variants of .*got 'up\*'"):
        run_study(study, tmp_path, only=["top", "up*"])
    assert not list(tmp_path.iterdir())


def test_a_name_counts_before_the_pattern_that_it_may_be(study):
    named = replace(study, variants={"base": {}, "a*": {}, "ab": {}, "[a]": {}})
    for only, asked in ((["a*"], {"a*"}), (["[a]"], {"[a]"}), (["a?"], {"a*", "ab"})):
        assert _asked(named, only) == {"base", *asked}
    with pytest.raises(ValueError, match=r"got 'A\*'"):
        _asked(named, ["A*"])


def test_data_without_titles_is_refused_before_any_work(planted, study, tmp_path, monkeypatch):
    bare = replace(planted, titles=[""] * planted.n_items)
    monkeypatch.setattr(DataSource, "read", lambda _: bare)
    with pytest.raises(ValueError, match="title"):
        run_study(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_there_of_a_stopped_study_is_reported(study, studied, tmp_path):
    folder, results, _ = studied
    shutil.copytree(folder / "planted", tmp_path / "planted")

    def reported() -> tuple[list[str], list[str]]:
        found = run_study(study, tmp_path, jobs=0, n_bootstrap=20, say=lambda _: None)["planted"]
        return [row["model"] for row in found["rows"]], list(found["protocol"]["seeds"])

    # a variant that has not all seeds of the reference is left out
    shutil.rmtree(folder_of(tmp_path, results, "top", seed=1))
    names, seeds = reported()
    assert seeds == ["0", "1"]
    assert "top" not in names
    assert {"wide", "shallow"} <= set(names)
    # and a seed that the reference does not have
    shutil.rmtree(folder_of(tmp_path, results, "base", seed=1))
    names, seeds = reported()
    assert seeds == ["0"]
    assert "top" in names
    assert not folder_of(tmp_path, results, "base", seed=1).exists()


def test_everything_is_compared_with_the_reference(studied):
    _, results, _ = studied
    pairs = {(pair["a"], pair["b"]) for pair in results["paired"]}
    assert {("top", "base"), ("top+id", "base+id"), ("id", "base")} <= pairs
    for other in ("id", "popularity", "wide:id", "shallow", "top+id", "late_fusion"):
        assert ("base+id", other) in pairs
    found = {(p["a"], p["b"]): p for p in results["paired"] if p["metric"] == "hr@100"}
    down, up = found["top+id", "base+id"], found["base+id", "top+id"]
    assert up["difference"] == -down["difference"]
    assert up["ci"] == [-down["ci"][1], -down["ci"][0]]
    for pair in results["paired"]:
        low, high = pair["ci"]
        wide_low, wide_high = pair["ci_corrected"]
        assert wide_low <= low <= high <= wide_high


def test_all_datasets_are_in_one_file_under_the_names_of_the_study(studied):
    folder, _, _ = studied
    together = json.loads((folder / "results.json").read_text())
    assert {row["data"] for row in together["rows"]} == {"planted"}
    named = [row["model"] for row in together["rows"]]
    assert named[3:5] == ["rarec", "base+id"]
    assert "wider" in named
    assert any(pair["a"] == "base+id" and pair["b"] == "wider" for pair in together["paired"])


def test_what_is_done_is_not_done_again(study, studied, tmp_path, without_processes):
    folder, results, said = studied
    shutil.copytree(folder / "planted", tmp_path / "planted")
    assert said[0] == "10 trainings, 2 of them to do now"
    file = folder_of(tmp_path, results, "top") / "record.json"
    before = file.stat().st_mtime_ns
    again: list[str] = []
    second = run_study(study, tmp_path, n_bootstrap=200, say=again.append)
    assert again == ["10 trainings, 0 of them to do now"]
    assert file.stat().st_mtime_ns == before
    assert second["planted"]["rows"] == results["rows"]
    # a model of other settings is aligned again
    variants = {**study.variants, "top": {"align.model.layers": 2}}
    run_study(replace(study, variants=variants), tmp_path, n_bootstrap=20, say=again.append)
    assert again[1] == "10 trainings, 2 of them to do now"
    # and so is one whose inputs have changed
    run = file.parents[3]
    ids = run / "ids" / "id"
    shutil.rmtree(ids / "held-out")
    shutil.copytree(ids / "all", ids / "held-out")
    with pytest.raises(ValueError, match="expected results of base"):
        run_study(replace(study, seeds=(0,)), tmp_path, jobs=0)


def test_another_language_model_of_the_same_name_is_noticed(
    study, tiny_llm, tmp_path, without_processes
):
    llm = shutil.copytree(tiny_llm, tmp_path / "llm")
    texts = shutil.copytree(tiny_llm, tmp_path / "texts")

    def asked(**names) -> str:
        """Return what the study says it has to do."""
        values = {"align.llm": str(llm), "ids.text": str(texts), **names}
        source = replace(study.data[0], settings={**study.data[0].settings, **values})
        small = replace(
            study, data=(source,), variants={"base": {}}, seeds=(0,), names={}, id_models={}
        )
        said: list[str] = []
        run_study(small, tmp_path / "study", n_bootstrap=20, say=said.append)
        return said[0]

    def change(folder) -> None:
        config = (folder / "tokenizer_config.json").read_text()
        (folder / "tokenizer_config.json").write_text(config + " ")

    assert asked() == "1 trainings, 1 of them to do now"
    # the same content by another name
    assert asked(**{"align.llm": str(tiny_llm)}) == "1 trainings, 0 of them to do now"
    change(llm)
    assert asked() == "1 trainings, 1 of them to do now"
    assert asked() == "1 trainings, 0 of them to do now"
    change(texts)
    with pytest.raises(ValueError, match=r"1 failed.*content of text '.*/texts'"):
        asked()


def test_a_training_that_fails_does_not_end_the_others(study, tmp_path, without_processes):
    variants = {
        "base": {},
        "bad": {"align.llm": "./nowhere"},
        "late": {"align.model.layers": 1},
    }
    small = replace(study, variants=variants, seeds=(0,), names={}, id_models={})
    said: list[str] = []
    with pytest.raises(ValueError, match=r"1 failed.*/bad: .*nowhere"):
        run_study(small, tmp_path, n_bootstrap=20, say=said.append)
    assert any("bad failed" in line for line in said)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["model"] for row in rows][-2:] == ["late", "late+id"]


@pytest.mark.slow
def test_processes_do_it_too(study, studied, tmp_path):
    _, results, _ = studied
    small = replace(study, variants={"base": {}}, id_models={}, names={})
    said: list[str] = []
    # the dataset is read in this process alone
    found = run_study(small, tmp_path, jobs=2, n_bootstrap=200, say=said.append)["planted"]
    assert sum("HR@100" in line for line in said) == 2
    first = {row["model"]: row for row in results["rows"]}["base"]
    second = {row["model"]: row for row in found["rows"]}["base"]
    assert second["hr@10"] == pytest.approx(first["hr@10"], abs=0.05)
    (record,) = [
        read_record(folder) for folder in tmp_path.glob("planted/seed-0/run-*/models/base")
    ]
    assert record is not None
    assert record.measurements["steps"] == 3
