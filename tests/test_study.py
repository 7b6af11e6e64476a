"""Many settings from one file."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rarec.data import ReadOptions
from rarec.evaluation import Ranks, read_ranks
from rarec.ids import load_ids
from rarec.recommender import AlignConfig, id_recipe
from rarec.recommender import recommender as recommender_module
from rarec.selection import SelectionConfig
from rarec.study import DataSource, Study, Variant, markdown, read_study, run_study, runs
from rarec.study.groups import write_result
from rarec.study.report import TAIL, report
from rarec.training import LowerStateCache

STUDIES = Path(__file__).parents[1] / "docs" / "studies"
FILE = """
part = "test"
seeds = [0, 4]
cases = 30

[data.small]
source = "somewhere"
min_user_interactions = 2
text = ["title", "brand"]
set.ids.dim = 16

[set]
ids.max_epochs = 2
ids.dim = 8
align.training.max_steps = 3

[levers.titles]
align.prompts.n_titles = [1, 3]

[variants.paper]
align.preset = "paper"

[parts.a]
align.model.layers = 1
[parts.b]
selection.fraction = 0.5

[id_models.wide]
ids.dim = 32
"""


def test_a_file_says_what_is_tried(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(FILE)
    study = read_study(file, sources={"small": "elsewhere"})
    assert (study.part, study.seeds, study.cases) == ("test", (0, 4), 30)
    (source,) = study.data
    assert source.source == "elsewhere"
    assert source.options == ReadOptions(min_user_interactions=2)
    assert source.columns.text == ("title", "brand")
    named = {variant.name: study.on(variant, source) for variant in study.variants}
    assert list(named) == [
        *("base", "titles=1", "titles=3", "paper"),
        *("all", "all-but-a", "only-a", "all-but-b", "only-b"),
    ]
    (wide,) = (study.on(model, source).configs(0) for model in study.id_models)
    assert (wide.ids.dim, wide.ids.max_epochs, wide.hold_out) == (32, 2, False)
    base = named["base"].configs(4)
    # what a dataset sets comes before what all have
    assert (base.ids.dim, base.ids.max_epochs) == (16, 2)
    assert {base.ids.seed, base.selection.seed, base.align.seed, base.align.model.seed} == {4}
    assert base.align.training["max_steps"] == 3
    assert named["titles=3"].configs(0).align.prompts.n_titles == 3
    assert named["paper"].configs(0).align.loss.prediction == "bpr"
    every = named["all"].configs(0)
    assert (every.align.model.layers, every.selection.fraction) == (1, 0.5)
    without = named["all-but-a"].configs(0)
    assert (without.align.model.layers, without.selection.fraction) == (3, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "expected a study file"),
        ("color = 1", r"got \['color'\]"),
        ("[data.a]", r"data\.a: expected a source"),
        ("[data.a]\nsource = 'x'\nmin_users = 3", r"data\.a: .*min_users"),
        ("[data.a]\nsource = 'x'\n[set]\nalign.model.layer = 3", "did you mean 'layers'"),
        ("[data.a]\nsource = 'x'\n[set]\nalign.model.layers = '3'", "expected layers as int or"),
        ("[data.a]\nsource = 'x'\n[set]\nlayers = 3", "expected settings of selection, ids or"),
        ("[data.a]\nsource = 'x'\n[levers.b]\nids.dim = 3", r"levers\.b: .*a list of values"),
        ("[data.a]\nsource = 'x'\n[variants.base]\nids.dim = 3", r"got \['base'\] twice"),
        ("[data.a]\nsource = 'x'\n[variants.b]\nalign.preset = 'best'", "preset to be one of"),
        ("reference = 'c'\n[data.a]\nsource = 'x'", "reference to be one of"),
        ("part = 'train'\n[data.a]\nsource = 'x'", "part to be one of"),
        ("seeds = ['a']\n[data.a]\nsource = 'x'", r"different seeds >= 0, .*'a'"),
        ("cases = 'all'\n[data.a]\nsource = 'x'", "cases >= 1, got all"),
        ("levers = 3\n[data.a]\nsource = 'x'", "expected tables in levers, got 3"),
        ("[data.a]\nsource = 'x'\n[set]\nhold_out = 'no'", "true or false.*'no'"),
        ("[data.a]\nsource = 'x'\n[variants.'../b']\nids.dim = 3", r"got '\.\./b'"),
        ("[data.a]\nsource = 'x'\n[variants.ids-b]\nids.dim = 3", "got 'ids-b'"),
        ("seeds = [1, 1]\n[data.a]\nsource = 'x'", "different seeds"),
        ("cases = 0\n[data.a]\nsource = 'x'", "cases >= 1"),
        ("[data.a]\nsource = 'x'\n[id_models.b]\nselection.seed = 3", "b: .*ids alone.*selection"),
        ("[data.a]\nsource = 'x'\n[id_models.base]\nids.dim = 3", r"got \['base'\] twice"),
        ("", "a dataset and a variant"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path, text, message):
    file = tmp_path / "study.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        read_study(file)
    assert str(raised.value).startswith(str(file))


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.toml")), ids=lambda file: file.stem)
def test_the_studies_of_this_project_can_be_read(file):
    assert len(read_study(file).variants) > 1


def test_unknown_datasets_are_named(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(FILE)
    with pytest.raises(ValueError, match=r"datasets of \['small'\], got \['big'\]"):
        read_study(file, sources={"big": "x"})
    with pytest.raises(ValueError, match=r"got \['big'\]"):
        read_study(file, data=["big"])


def at_once(function, *arguments, n_threads):
    """Stand for the processes, which would spend their time on imports."""
    del n_threads
    return function(*arguments)


@pytest.fixture(scope="module")
def study(planted, tiny_llm):
    """Return a study of the planted catalogue."""
    common = {
        "ids.dim": 8,
        "ids.max_history": 10,
        "ids.batch_size": 32,
        "ids.max_epochs": 3,
        "selection.fraction": 0.5,
        "align.llm": str(tiny_llm),
        "align.training.max_steps": 3,
        "align.training.per_device_train_batch_size": 16,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataSource, "read", lambda _: planted)
        yield Study(
            (DataSource("planted", "nowhere", settings=common),),
            (
                Variant("base", {}),
                Variant("top", {"align.model.layers": 1}),
                Variant("wide", {"ids.dim": 12}),
                Variant("known", {"hold_out": False}),
                Variant("top-gated", {"align.model.layers": 1, "align.model.gate": True}),
            ),
            seeds=(0, 1),
            cases=40,
            names={"base": "rarec", "wide:id": "wider"},
            id_models=(Variant("shallow", {"ids.max_epochs": 1, "hold_out": False}),),
        )


@pytest.fixture(scope="module")
def studied(study, tmp_path_factory):
    """Return the folder of a finished study, its results and what was said."""
    folder = tmp_path_factory.mktemp("study")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "in_process", at_once)
        # one of them first, the others later
        run_study(study, folder, only=lambda name: name == "base", say=said.append)
        results = run_study(study, folder, n_bootstrap=200, say=said.append)
    return folder, results["planted"], said


def test_each_variant_has_a_row_alone_and_fused(studied):
    folder, results, said = studied
    assert [row["model"] for row in results["rows"]] == [
        *("popularity", "id", "id_held_out", "base", "base+id", "top", "top+id"),
        *("wide:id", "wide:id_held_out", "wide", "wide+id", "known:id", "known", "known+id"),
        *("top-gated", "top-gated+id", "shallow"),
    ]
    rows = {row["model"]: row for row in results["rows"]}
    values = []
    for seed in (0, 1):
        ranks, part = read_ranks(folder / "planted" / f"seed-{seed}" / "top")
        assert part == "validation"
        assert len(ranks["alone"]) == 40
        values.append((ranks["fused"].values() <= 10).mean())
    assert rows["top+id"]["hr@10"] == pytest.approx(np.mean(values))
    assert rows["top"]["settings"] == {"align.model.layers": 1}
    assert len(rows["top+id"]["weights"]) == 2
    assert rows["top"]["trainable_parameters"] < rows["base"]["trainable_parameters"]
    assert rows["base"]["steps"] == 3
    assert results["protocol"]["cases"] == 40
    # samples and ID models are made once for all that share them
    groups = results["protocol"]["groups"]
    assert groups["base"] == groups["top"]
    assert len(set(groups.values())) == 3
    assert sum("fitted" in line for line in said) == 8
    assert (rows["shallow"]["settings"]["ids.max_epochs"], rows["shallow"]["steps"]) == (1, 1)
    # the table has a line for each
    table = (folder / "planted" / "results.md").read_text()
    for name in ("popularity", "wide:id", "top", "shallow"):
        assert table.count(f"| `{name}` ") == 1


def test_variants_that_read_the_same_texts_share_lower_states(study, tmp_path, monkeypatch):
    made: list[str] = []
    ordinary = LowerStateCache._make

    def counted(self, states, table, on_rows):
        made.append(table.name)
        ordinary(self, states, table, on_rows)

    monkeypatch.setattr(LowerStateCache, "_make", counted)
    monkeypatch.setattr(runs, "in_process", at_once)
    small = replace(study, seeds=(0,))
    run_study(small, tmp_path, only=lambda name: name.startswith("top"), n_bootstrap=20)
    # users of the samples, items, users of the cases; once, though two variants read them
    assert len(made) == len(set(made)) == 3
    assert not list(tmp_path.rglob("lower-states"))


def test_groups_share_the_id_model_of_all_samples(study, tmp_path, monkeypatch):
    fitted: list[str] = []
    ordinary = recommender_module.fit_id_model

    def counted(recommender, config, name, *others):
        fitted.append(name)
        return ordinary(recommender, config, name, *others)

    monkeypatch.setattr(recommender_module, "fit_id_model", counted)
    monkeypatch.setattr(runs, "in_process", at_once)
    small = replace(
        study,
        seeds=(0,),
        variants=(
            Variant("base", {}),
            Variant("known", {"hold_out": False}),
            Variant("fewer", {"selection.fraction": 0.3}),
        ),
        id_models=(),
    )
    results = run_study(small, tmp_path, n_bootstrap=20)["planted"]
    # two held-out ones, and one on all samples for the three groups
    assert sorted(fitted) == ["id", "id_held_out", "id_held_out"]
    rows = {row["model"]: row for row in results["rows"]}
    for name in ("known:id", "fewer:id"):
        assert rows[name]["hr@10"] == rows["id"]["hr@10"]
        assert rows[name]["seconds"] == rows["id"]["seconds"]
    assert rows["fewer:id_held_out"]["samples"] > rows["id_held_out"]["samples"]
    # what one trains by itself is the same
    run_study(replace(small, variants=small.variants[:1]), tmp_path / "alone", n_bootstrap=20)
    (alone,) = (tmp_path / "alone").rglob("baseline")
    for group in (tmp_path / "planted" / "seed-0").glob("ids-*"):
        whole = group / "baseline" if (group / "baseline").is_dir() else group / "ids"
        assert np.array_equal(load_ids(whole).item_vectors, load_ids(alone).item_vectors)


def test_a_folder_of_other_data_is_refused_before_any_work(planted, study, studied, monkeypatch):
    folder, _, _ = studied
    other = replace(planted, titles=[title.upper() for title in planted.titles])
    monkeypatch.setattr(DataSource, "read", lambda _: other)
    monkeypatch.setattr(runs, "in_process", lambda *_, **__: pytest.fail("work"))
    with pytest.raises(ValueError, match=r"planted.seed-0.ids-\w+: expected .* of this data"):
        run_study(study, folder)


def test_nothing_to_report_is_said(study, tmp_path):
    with pytest.raises(ValueError, match="expected results of base, got none"):
        run_study(study, tmp_path, jobs=0)
    assert not (tmp_path / "results.json").exists()


def test_what_is_there_of_a_stopped_study_is_reported(study, studied, tmp_path):
    folder, _, _ = studied
    shutil.copytree(folder / "planted", tmp_path / "planted")
    second = tmp_path / "planted" / "seed-1"

    def reported() -> tuple[list[str], list[str]]:
        found = run_study(study, tmp_path, jobs=0, n_bootstrap=20, say=lambda _: None)["planted"]
        return [row["model"] for row in found["rows"]], list(found["protocol"]["seeds"])

    # what has not all seeds of the reference is left out
    (second / "top" / "result.json").unlink()
    names, seeds = reported()
    assert seeds == ["0", "1"]
    assert "top" not in names
    assert {"top-gated", "shallow"} <= set(names)
    # and where the reference lacks one, so do all
    (second / "base" / "result.json").unlink()
    names, seeds = reported()
    assert seeds == ["0"]
    assert "top" in names
    assert not (second / "base" / "result.json").exists()


def test_everything_is_set_against_the_reference(studied):
    folder, results, _ = studied
    pairs = {(pair["a"], pair["b"]) for pair in results["paired"]}
    assert ("top", "base") in pairs
    assert ("top+id", "base+id") in pairs
    assert ("id", "base") in pairs
    for other in ("id", "popularity", "wide:id", "shallow", "top+id"):
        assert ("base+id", other) in pairs
    found = {(p["a"], p["b"]): p for p in results["paired"] if p["metric"] == "hr@100"}
    down, up = found["top+id", "base+id"], found["base+id", "top+id"]
    assert up["difference"] == -down["difference"]
    assert up["ci"] == [-down["ci"][1], -down["ci"][0]]
    # all datasets in one file, under the names that were asked for
    together = json.loads((folder / "results.json").read_text())
    assert {row["data"] for row in together["rows"]} == {"planted"}
    named = [row["model"] for row in together["rows"]]
    assert named[3:5] == ["rarec", "base+id"]
    assert "wider" in named
    assert any(pair["a"] == "base+id" and pair["b"] == "wider" for pair in together["paired"])
    for pair in results["paired"]:
        low, high = pair["ci"]
        wide_low, wide_high = pair["ci_corrected"]
        assert wide_low <= low <= high <= wide_high


def test_what_has_a_result_is_not_run_again(study, studied):
    folder, results, said = studied
    assert said[0] == "10 runs, 2 of them to do now"
    file = folder / "planted" / "seed-0" / "top" / "result.json"
    before = file.stat().st_mtime_ns
    again: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "in_process", at_once)
        second = run_study(study, folder, n_bootstrap=200, say=again.append)
        assert again == ["10 runs, 0 of them to do now"]
        assert file.stat().st_mtime_ns == before
        assert second["planted"]["rows"] == results["rows"]
        # a result of other settings is none
        stored = json.loads(file.read_text())
        stored["identity"]["align"]["model"]["layers"] = 2
        file.write_text(json.dumps(stored))
        run_study(study, folder, n_bootstrap=200, say=again.append)
    assert "10 runs, 1 of them to do now" in again


def test_results_outlive_settings_that_come_later(study, studied, tmp_path):
    folder, _, _ = studied
    shutil.copytree(folder / "planted", tmp_path / "planted")
    file = tmp_path / "planted" / "seed-0" / "top" / "result.json"
    result = json.loads(file.read_text())
    model = result["identity"]["align"]["model"]

    def is_done() -> bool:
        file.write_text(json.dumps(result))
        run_study(study, tmp_path, jobs=0, n_bootstrap=20, say=lambda _: None)
        rows = json.loads((tmp_path / "results.json").read_text())["rows"]
        return "top" in {row["model"] for row in rows}

    # as written before there was a setting
    del model["learn_temperature"]
    assert is_done()
    # which the result lacks that this study wants otherwise
    model["learn_temperature"] = False
    assert not is_done()
    del model["learn_temperature"], model["layers"]
    assert not is_done()


@pytest.mark.slow
def test_processes_do_it_too(planted, tiny_llm, study, studied, tmp_path):
    _, results, _ = studied
    small = Study(study.data, study.variants[:1], seeds=(0, 1), cases=40)
    said: list[str] = []
    found = run_study(small, tmp_path, jobs=2, n_bootstrap=200, say=said.append)["planted"]
    assert sum("HR@100" in line for line in said) == 2
    first = {row["model"]: row for row in results["rows"]}["base"]
    second = {row["model"]: row for row in found["rows"]}["base"]
    assert second["hr@10"] == pytest.approx(first["hr@10"], abs=0.05)


def test_a_run_that_fails_does_not_end_the_others(study, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "in_process", at_once)
    bad = Variant("bad", {"align.llm": "./nowhere"})
    late = Variant("late", {"align.model.layers": 1})
    small = replace(study, variants=(study.variants[0], bad, late), seeds=(0,), names={})
    said: list[str] = []
    with pytest.raises(ValueError, match=r"1 runs failed.*/bad: .*nowhere"):
        run_study(small, tmp_path, n_bootstrap=20, say=said.append)
    assert any("bad failed" in line for line in said)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["model"] for row in rows][-3:-1] == ["late", "late+id"]


def test_cold_targets_and_the_tail_have_columns(tmp_path):
    ranks = Ranks(np.array([0, 200, 3, 150]), np.zeros(4, int), np.full(4, 300))
    # HR@100: hit, miss, hit, miss
    seen = [0, 0, TAIL, TAIL + 1]
    for place in ("group", "base"):
        (tmp_path / place).mkdir()
    runs.write_ranks(tmp_path / "group", {"popularity": ranks, "id": ranks}, "test")
    runs.write_ranks(tmp_path / "base", {"alone": ranks, "fused": ranks}, "test")
    facts = {"samples": 3, "seconds": 2.0}
    write_result(tmp_path / "group", {"facts": {"id": facts}})
    identity = {"data": "hash", "part": "test"}
    write_result(
        tmp_path / "base",
        {
            "identity": identity,
            "facts": facts,
            "weight": 2.0,
            "data": {},
            "split": "by hand",
            "filters": [],
            "target_events": seen,
        },
    )
    results = report(
        tmp_path / "out",
        {"base": {}},
        {("base", 0): (tmp_path / "base", tmp_path / "group")},
        reference="base",
        seeds=[0],
        n_bootstrap=20,
    )
    row = results["rows"][-1]
    assert (row["cold_hr@100"], row["tail_hr@100"]) == (0.5, 1.0)
    assert results["protocol"]["cold"] == 2
    assert results["protocol"]["tail"] == 1
    line = next(one for one in markdown(results).splitlines() if one.startswith("| `base` "))
    assert "| 0.500 | 1.000 | 2 | 2 |" in line


def test_a_lever_on_paths_has_names_of_folders(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text("[data.a]\nsource = 'x'\n[levers.llm]\nalign.llm = ['org/one', 'two']")
    study = read_study(file)
    assert [variant.name for variant in study.variants] == ["base", "llm=org_one", "llm=two"]
    with pytest.raises(ValueError, match="jobs >= 0"):
        run_study(study, tmp_path / "out", jobs=-1)


def test_data_without_titles_is_refused_before_any_work(planted, study, tmp_path, monkeypatch):
    bare = replace(planted, titles=[""] * planted.n_items)
    monkeypatch.setattr(DataSource, "read", lambda _: bare)
    with pytest.raises(ValueError, match="title"):
        run_study(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not STUDIES.exists(), reason="the studies are not part of the wheel")
def test_the_ablation_is_of_the_recipe():
    """All its parts together are what the final table reports, which are the defaults."""
    recipe, ablation = (read_study(STUDIES / f"{name}.toml") for name in ("recipe", "ablation"))
    for source in ablation.data:
        (same,) = (other for other in recipe.data if other.name == source.name)
        base, everything = (
            next(variant for variant in study.variants if variant.name == study.reference)
            for study in (recipe, ablation)
        )
        found = ablation.on(everything, source).configs(2)
        assert found == recipe.on(base, same).configs(2)
        default = AlignConfig()
        assert (found.align.model, found.align.loss) == (
            replace(default.model, seed=2),
            default.loss,
        )
        assert found.selection == SelectionConfig(seed=2)
        assert found.ids.text == id_recipe().text
