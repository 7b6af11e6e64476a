"""The command line, as somebody would use it."""

import json
import shutil
import sys
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import polars as pl
import pytest

from rarec import study as studies
from rarec.cli import application, machine
from rarec.ids import load_ids
from rarec.model import RARec
from rarec.ops import SelfTestCase
from rarec.run import read_record
from rarec.settings import PromptSettings

# reading titles with MiniLM takes longer than all else here
NO_TEXT = ("--text", "")
SMALL_IDS = ("--max-epochs", 1, "--dim", 8, "--no-all-samples", "--fraction", 0.5, *NO_TEXT)


@pytest.fixture
def rarec(monkeypatch, capsys):
    """Return a function that runs the command in this process: exit code, output, errors."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["rarec", *(str(part) for part in arguments)])
        code = 0
        try:
            application.app()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def files(tmp_path_factory, planted):
    """Return a folder with the planted dataset as csv files."""
    folder = tmp_path_factory.mktemp("files")
    histories = planted.histories
    pl.DataFrame(
        {
            "user_id": [planted.user_ids[row] for row in histories.rows],
            "item_id": [planted.item_ids[item] for item in histories.items],
            "timestamp": histories.times,
        }
    ).write_csv(folder / "interactions.csv")
    pl.DataFrame({"item_id": planted.item_ids, "title": planted.titles}).write_csv(
        folder / "items.csv"
    )
    return folder


def test_the_steps_one_after_the_other(rarec, files, tiny_llm, tmp_path):
    # the name is no markup of rich
    run = tmp_path / "[/]run"
    code, out, _ = rarec("prepare", files, "-o", run, "--json", tmp_path / "prepare.json")
    assert code == 0
    assert json.loads((tmp_path / "prepare.json").read_text())["users"] == 120
    assert "1,200" in out

    ids = ("--max-epochs", 3, "--dim", 8, "--fraction", 0.5, "--set", "ids.batch_size=32")
    code, out, err = rarec("fit-ids", run, *ids, *NO_TEXT, "--json", tmp_path / "ids.json")
    assert code == 0, err
    assert "420 selected" in err
    assert "held-out" in out
    measured = json.loads((tmp_path / "ids.json").read_text())
    assert measured["held-out"]["held_out_samples"] == 420
    assert measured["all"]["epochs"] == 3

    small = ("--llm", tiny_llm, "--steps", 4, "--batch-size", 32)
    for extra in (["--set", "model.id_dropout=0.25"], ["--text-only"]):
        code, _, err = rarec("align", run, *small, *extra, "--json", tmp_path / "align.json")
        assert code == 0, err
        assert json.loads((tmp_path / "align.json").read_text())["steps"] == 4

    code, out, err = rarec("evaluate", run, "--bootstrap", 20, "--json", tmp_path / "results.json")
    assert code == 0, err
    assert "late_fusion" in out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["protocol"]["settings"]["rarec"]["model"]["id_dropout"] == 0.25
    written = run / "results" / "test"
    assert results == json.loads((written / "results.json").read_text())
    assert (written / "protocol.json").exists()
    weights = next(row for row in results["rows"] if row["model"] == "rarec+id")["weights"]
    assert f"w = {weights['id']:g}" in " ".join(out.split())

    code, out, _ = rarec("recommend", run, "--user", "u001", "-k", 3, "--json", "-")
    assert code == 0
    assert len(json.loads(out[out.index("[\n") :])) == 3
    for question in (["--title", "red wolf"], ["--item", "i01", "--item", "i03"], ["--new-user"]):
        assert rarec("recommend", run, *question)[0] == 0

    code, _, err = rarec("recommend", run, "--user", "nobody")
    assert code == 1
    assert "'nobody'" in err


def test_a_step_that_is_done_is_not_done_again(rarec, files, fitted, tiny_llm, tmp_path):
    code, out, err = rarec("prepare", files, "-o", fitted)
    assert code == 0, err
    assert f"{fitted} is a run of the same data already." in err
    assert "1,200" in out
    assert (fitted / "ids").is_dir()
    code, _, err = rarec("prepare", files, "-o", fitted, "--split", "time")
    assert code == 1
    assert "expected a run of the same split" in err
    code, _, err = rarec("prepare", files, "-o", fitted, "--set", 'read.repeats="last"')
    assert code == 0, err
    code, _, err = rarec("prepare", files / "interactions.csv", "-o", fitted)
    assert code == 1
    assert "expected a run of the same data" in err

    small = ("align", fitted, "--llm", tiny_llm, "--batch-size", 32)
    reports = [tmp_path / "first.json", tmp_path / "second.json"]
    for report in reports:
        code, _, err = rarec(*small, "--steps", 2, "--json", report)
        assert code == 0, err
    assert "models/rarec is there already" in err
    assert reports[0].read_text() == reports[1].read_text()
    code, _, err = rarec(*small, "--steps", 3)
    assert code == 1
    assert "training.max_steps (2, now 3)" in err
    assert "--restart" in err
    code, _, err = rarec(*small, "--steps", 3, "--restart", "--json", reports[1])
    assert code == 0, err
    assert json.loads(reports[1].read_text())["steps"] == 3

    same = ("fit-ids", fitted, *SMALL_IDS)
    code, _, err = rarec(*same)
    assert code == 0, err
    code, _, err = rarec(*same, "--seed", 5)
    assert code == 1
    assert "--restart" in err
    assert rarec(*same, "--seed", 5, "--restart")[0] == 0


def test_titles_are_made_by_a_template(rarec, files, planted, tmp_path):
    template = ("--set", "columns.title_template={title} ({item_id})")
    assert rarec("prepare", files, "-o", tmp_path / "run", *template)[0] == 0
    titles = pl.read_parquet(tmp_path / "run" / "dataset" / "items.parquet")["title"].to_list()
    assert titles[:2] == ["(i00)", f"{planted.titles[1]} (i01)"]
    code, _, err = rarec(
        "prepare", files, "-o", tmp_path / "x", "--set", "columns.title_template={brand}"
    )
    assert code == 1
    assert "expected a column 'brand'" in " ".join(err.split())
    assert not (tmp_path / "x").exists()


def test_imported_vectors_are_taken(rarec, files, planted, tmp_path):
    run = tmp_path / "run"
    rarec("prepare", files, "-o", run)
    vectors = np.random.default_rng(0).normal(size=(39, 4)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    (tmp_path / "ids.txt").write_text("\n".join(planted.item_ids[:39]) + "\n")
    imported = ("--vectors", tmp_path / "vectors.npy", "--ids", tmp_path / "ids.txt")
    code, _, err = rarec("fit-ids", run, *imported, "--json", tmp_path / "measured.json")
    assert code == 0, err
    assert "may have been trained on the tuning samples" in err
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert measured["imported"]["items_with_vector"] == 39
    code, _, err = rarec("fit-ids", run, *imported, "--normalize")
    assert code == 1
    assert "--restart" in err
    assert rarec("fit-ids", run, *imported, "--normalize", "--restart")[0] == 0
    lengths = np.linalg.norm(load_ids(run / "ids" / "id" / "all").item_vectors, axis=1)
    assert np.allclose(lengths[:39], 1)

    vectors[7, 1] = np.nan
    np.save(tmp_path / "vectors.npy", vectors)
    before = sorted(path.name for path in run.rglob("*"))
    code, _, err = rarec("fit-ids", run, *imported)
    assert code == 1
    assert "'i07'" in err
    assert sorted(path.name for path in run.rglob("*")) == before


def test_bad_input_is_one_line_and_leaves_nothing(rarec, tmp_path, tiny_llm, files):
    run = tmp_path / "run"
    bad = tmp_path / "bad.csv"
    cases = [
        ("user_id,item_id,timestamp\na,b,yesterday\n", [], "bad.csv:2: column 'timestamp'"),
        ("user,item_id,timestamp\na,b,1\n", [], "user_id"),
        ("", [], "bad.csv"),
        ("user_id,item_id,timestamp\n", [], "bad.csv"),
        ("user_id,item_id,timestamp\na,b,1\n", ["--set", "read.repeats=sometimes"], "repeats"),
        ("user_id,item_id,timestamp\na,b,1\n", [], "events"),
    ]
    for content, options, message in cases:
        bad.write_text(content)
        code, out, err = rarec("prepare", bad, "-o", run, *options)
        assert code == 1, content
        assert out == ""
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1
        assert not run.exists()
    code, _, err = rarec("prepare", tmp_path / "absent.csv", "-o", run)
    assert code == 1
    assert "absent.csv" in err
    code, _, err = rarec("evaluate", tmp_path / "absent")
    assert code == 1
    assert "absent" in err
    assert not (tmp_path / "absent").exists()


def test_a_missing_model_is_one_line(rarec, files, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = tmp_path / "run"
    rarec("prepare", files, "-o", run)
    rarec("fit-ids", run, *SMALL_IDS)
    code, _, err = rarec("align", run, "--llm", tmp_path / "no-model")
    assert code == 1
    assert "no language model" in err
    assert "no-model" in err
    assert err.count("error:") == 1
    assert not (run / "models" / "rarec").exists()


@pytest.fixture(scope="module")
def chat_llm(tiny_llm, tmp_path_factory):
    """Return the folder of the small model, with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "llm"
    shutil.copytree(tiny_llm, folder)
    template = "{% for message in messages %}{{ message['content'] }} [SEP]{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture
def fitted(rarec, files, tmp_path):
    """Return a run folder with ID vectors."""
    run = tmp_path / "run"
    rarec("prepare", files, "-o", run)
    assert rarec("fit-ids", run, *SMALL_IDS)[0] == 0
    return run


def test_an_id_model_reads_titles(rarec, fitted, tiny_llm):
    more = ("--text", tiny_llm, "--set", "ids.shared_negatives=9", "--restart")
    code, _, err = rarec("fit-ids", fitted, *SMALL_IDS, *more)
    assert code == 0, err
    record = read_record(fitted / "ids" / "id" / "held-out")
    assert record is not None
    assert record.settings["text"] == str(tiny_llm)
    assert record.settings["shared_negatives"] == 9


def test_prompts_of_the_user_are_kept_with_the_model(rarec, fitted, chat_llm):
    texts = {
        "prompts.user": "Jemand mochte {titles}. Was kommt als Nächstes?",
        "prompts.new_user": "Jemand Neues",
        "prompts.item": "Film: „{title}“",
        "prompts.separator": " und ",
        "prompts.n_titles": 3,
        "prompts.max_tokens": 40,
        "prompts.chat": "true",
        "prompts.system": "Antworte kurz.",
        "pooling": "last",
    }
    options = [part for name, value in texts.items() for part in ("--set", f"{name}={value}")]
    small = ("--llm", chat_llm, "--steps", 2, "--batch-size", 32)
    code, _, err = rarec("align", fitted, *small, *options)
    assert code == 0, err
    model = RARec.from_pretrained(fitted / "models" / "rarec")
    assert model.prompts == PromptSettings(
        user=texts["prompts.user"],
        new_user="Jemand Neues",
        item="Film: „{title}“",
        separator=" und ",
        n_titles=3,
        max_tokens=40,
        chat=True,
        system="Antworte kurz.",
    )
    assert model.backbone.pooling == "last"
    for question in (["--user", "u001"], ["--title", "red wolf"], ["--new-user"]):
        assert rarec("recommend", fitted, *question)[0] == 0

    code, _, err = rarec("align", fitted, *small, "--set", "prompts.user={titles}!", "--restart")
    assert code == 0, err
    model = RARec.from_pretrained(fitted / "models" / "rarec")
    assert model.prompts == PromptSettings(user="{titles}!")


def test_bad_texts_are_one_line(rarec, fitted, tiny_llm, chat_llm):
    cases = [
        (tiny_llm, ["prompts.user=Jemand mochte"], "expected '{titles}' in the user template"),
        (tiny_llm, ["prompts.item=[bold]"], "in the item template, got '[bold]'"),
        (tiny_llm, ["prompts.separator="], "prompts.separator to "),
        (tiny_llm, ["prompts.max_tokens=3"], "prompts.max_tokens to be "),
        (
            tiny_llm,
            ["prompts.max_tokens=8", f"prompts.new_user={'a ' * 9}"],
            "expected max_tokens > 11",
        ),
        (tiny_llm, ["prompts.item={title}" + " a" * 70], "at most 64 tokens"),
        (tiny_llm, ["prompts.chat=true"], f"chat template, got '{tiny_llm}', which has none"),
        (tiny_llm, ["prompts.system=be brief"], "expected prompts.chat with a system message"),
        (tiny_llm, ["pooling=middle"], "pooling to be"),
        (
            chat_llm,
            ["prompts.chat=true", "prompts.max_tokens=8", f"prompts.system={'a ' * 9}"],
            "expected max_tokens > ",
        ),
    ]
    for llm, values, message in cases:
        options = [part for value in values for part in ("--set", value)]
        code, out, err = rarec("align", fitted, "--llm", llm, *options, "--restart")
        assert code == 1, values
        assert out == ""
        assert err.startswith("error: "), err
        assert message in err
        assert err.count("\n") == 1
        assert not (fitted / "models" / "rarec").exists()


def test_interactions_without_titles_are_told_at_the_step_that_needs_them(
    rarec, files, tmp_path, tiny_llm
):
    run = tmp_path / "run"
    code, _, err = rarec("prepare", files / "interactions.csv", "-o", run)
    assert code == 0, err
    code, _, err = rarec("fit-ids", run, "--max-epochs", 1)
    assert code == 1
    assert "expected titles" in err
    assert not (run / "samples").exists()
    rarec("fit-ids", run, *SMALL_IDS)
    code, _, err = rarec("align", run, "--llm", tiny_llm)
    assert code == 1
    assert "expected titles" in err


def test_wrong_usage_is_told_from_bad_input(rarec):
    assert rarec("evaluate")[0] == 2
    assert rarec("fly")[0] == 2


def test_the_doctor_says_what_will_run_and_why(rarec, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    code, out, _ = rarec("doctor")
    assert code == 0
    assert version("torch") in out
    assert "instructions" in out
    told = " ".join(out.split())
    assert "head dimension 256, more than 128" in told
    assert "keys are not concatenated" in told or "no triton" in told
    monkeypatch.setenv("RAREC_PREFIX_ATTENTION", "reference")
    code, out, _ = rarec("doctor")
    assert "set by RAREC_PREFIX_ATTENTION" in " ".join(out.split())


def test_the_doctor_names_kernels_that_are_wrong():
    right = SelfTestCase("head dimension 64, causal", 0.004, "query")
    told = machine.self_test_report(0, [right])
    assert told.endswith("GPU 0: self-test passed, 1 cases (largest error 4e-03)")
    wrong = replace(right, error=float("nan"), worst="prefix key")
    told = machine.self_test_report(1, [right, wrong])
    assert "on GPU 1: self-test FAILED, 1 of 2 cases are wrong" in told
    assert "; set RAREC_PREFIX_ATTENTION=reference" in told
    assert told.endswith("head dimension 64, causal: error nan, prefix key")


def test_a_study_of_a_file(rarec, files, tiny_llm, tmp_path):
    file = tmp_path / "small.toml"
    file.write_text(
        """
        cases = 50
        [data.planted]
        source = "elsewhere"
        [set]
        ids.dim = 8
        ids.max_epochs = 1
        selection.fraction = 0.5
        align.training.max_steps = 2
        align.training.per_device_train_batch_size = 16
        [grid.layers]
        align.model.layers = [1, 2]
        """
        + f"[data.planted.set]\nalign.llm = {str(tiny_llm)!r}\n"
    )
    out = tmp_path / "out"
    options = ("-o", out, "--source", f"planted={files}", "--only", "layers-1")
    options = (*options, "--json", tmp_path / "all.json")
    code, stdout, err = rarec("study", file, *options)
    assert code == 0, err
    assert "3 trainings, 2 of them to do now" in err
    assert "layers-1" in stdout
    assert "layers-2" not in stdout
    rows = json.loads((out / "planted" / "results.json").read_text())["rows"]
    assert [row["model"] for row in rows][-2:] == ["layers-1", "layers-1+id"]
    together = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert together == [{"data": "planted", **row} for row in rows]


def test_the_flags_of_a_comparison_reach_its_study(rarec, fitted, monkeypatch):
    told = {}

    def run_study(study, folder, **options):
        told.update(study=study, folder=folder, **options)
        return {"run": {"rows": []}}

    monkeypatch.setattr(studies, "run_study", run_study)
    monkeypatch.setattr(studies, "markdown", str)
    options = ("--variants", "text, lora", "--seeds", "0,2", "--part", "validation", "--jobs", 2)
    code, out, err = rarec("compare", fitted, *options, "--json", "-")
    assert code == 0, err
    study = told["study"]
    assert list(study.variants) == ["rarec", "text", "lora"]
    assert (tuple(study.seeds), study.part) == ((0, 2), "validation")
    assert (told["folder"], told["jobs"]) == (fitted / "compare", 2)
    assert json.loads(out[out.index("{\n") :]) == {"rows": []}
    code, _, err = rarec("compare", fitted, "--seeds", "one")
    assert code == 1
    assert "expected seeds as whole numbers with commas, got 'one'" in err


@pytest.mark.slow
def test_a_comparison_of_variants(rarec, fitted, tiny_llm, tmp_path):
    options = ("--variants", "text", "--seeds", "0", "--steps", 2, "--batch-size", 16)
    file = tmp_path / "results.json"
    code, out, err = rarec("compare", fitted, "--llm", tiny_llm, *options, "--json", file)
    assert code == 0, err
    models = {row["model"] for row in json.loads(file.read_text())["rows"]}
    assert {"popularity", "id", "text", "rarec", "rarec+id"} <= models
    assert "rarec" in out
    assert (fitted / "compare").is_dir()


def test_a_study_that_cannot_be_is_one_line(rarec, tmp_path):
    file = tmp_path / "small.toml"
    file.write_text("[data.a]\nsource = 'nowhere'")
    for options, message in (
        (["--source", "a"], "expected --source NAME=PATH, got 'a'"),
        (["--data", "b"], "expected datasets of ['a'], got ['b']"),
        ([], "nowhere"),
    ):
        code, _, err = rarec("study", file, "-o", tmp_path / "out", *options)
        assert code == 1
        assert message in err
        assert err.count("\n") == 1
        assert not (tmp_path / "out").exists()
