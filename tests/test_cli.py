"""The command line, as somebody would use it."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import polars as pl
import pytest

from rarec.cli import application, doctor
from rarec.ops import Trial

# reading titles with MiniLM takes longer than all else here
NO_TEXT = ("--text", "")


@pytest.fixture
def rarec(monkeypatch, capsys):
    """Return a function that runs the command in this process: exit code, output, errors."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["rarec", *(str(part) for part in arguments)])
        code = 0
        try:
            application.main()
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
    run = tmp_path / "run"
    code, out, _ = rarec("prepare", files, "-o", run, "--json", tmp_path / "prepare.json")
    assert code == 0
    assert json.loads((tmp_path / "prepare.json").read_text())["users"] == 120
    assert "1,200" in out

    ids = ("--max-epochs", 3, "--dim", 8, "--fraction", 0.5, "--batch-size", 32, *NO_TEXT)
    code, _, err = rarec("fit-ids", run, *ids, "--json", tmp_path / "ids.json")
    assert code == 0
    assert "420 selected" in err
    assert json.loads((tmp_path / "ids.json").read_text())["held_out"] == 420

    small = ("--llm", tiny_llm, "--steps", 4, "--batch-size", 32)
    for extra in (["--set", "model.id_dropout=0.25"], ["--text-only"]):
        code, _, err = rarec("align", run, *small, *extra, "--json", tmp_path / "align.json")
        assert code == 0, err
        assert json.loads((tmp_path / "align.json").read_text())["steps"] == 4

    code, out, _ = rarec("evaluate", run, "--bootstrap", 20, "--json", tmp_path / "results.json")
    assert code == 0
    assert "late_fusion" in out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["protocol"]["configs"]["rarec"]["model"]["id_dropout"] == 0.25
    assert results["rows"] == json.loads((run / "results.json").read_text())["rows"]
    assert (run / "protocol.json").exists()

    code, out, _ = rarec("recommend", run, "--user", "u001", "-k", 3, "--json", "-")
    assert code == 0
    assert len(json.loads(out[out.index("[") :])) == 3
    for question in (["--title", "red wolf"], ["--item", "i01", "--item", "i03"], ["--new-user"]):
        assert rarec("recommend", run, *question)[0] == 0

    code, _, err = rarec("recommend", run, "--user", "nobody")
    assert code == 1
    assert "'nobody'" in err


def test_titles_are_made_by_a_template(rarec, files, planted, tmp_path):
    template = ("--title-template", "{title} ({item_id})")
    assert rarec("prepare", files, "-o", tmp_path / "run", *template)[0] == 0
    titles = pl.read_parquet(tmp_path / "run" / "dataset" / "items.parquet")["title"].to_list()
    assert titles[:2] == ["(i00)", f"{planted.titles[1]} (i01)"]
    code, _, err = rarec("prepare", files, "-o", tmp_path / "x", "--title-template", "{brand}")
    assert code == 1
    assert "expected a column 'brand'" in " ".join(err.split())
    assert not (tmp_path / "x").exists()


def test_own_vectors_are_taken(rarec, files, planted, tmp_path):
    run = tmp_path / "run"
    rarec("prepare", files, "-o", run)
    vectors = np.random.default_rng(0).normal(size=(39, 4)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    (tmp_path / "ids.txt").write_text("\n".join(planted.item_ids[:39]) + "\n")
    given = ("--vectors", tmp_path / "vectors.npy", "--ids", tmp_path / "ids.txt")
    code, _, err = rarec("fit-ids", run, *given, "--json", tmp_path / "facts.json")
    assert code == 0
    assert "may have been known" in err
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["items with a vector"] == 39

    vectors[7, 1] = np.nan
    np.save(tmp_path / "vectors.npy", vectors)
    before = sorted(path.name for path in run.rglob("*"))
    code, _, err = rarec("fit-ids", run, *given)
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
        ("user_id,item_id,timestamp\na,b,1\n", ["--repeats", "sometimes"], "repeats"),
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
    rarec("fit-ids", run, "--max-epochs", 1, "--no-baseline", "--fraction", 0.5, *NO_TEXT)
    code, _, err = rarec("align", run, "--llm", tmp_path / "no-model")
    assert code == 1
    assert "no language model" in err
    assert "no-model" in err
    assert err.count("error:") == 1
    assert not (run / "rarec").exists()


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
    small = ("--max-epochs", 1, "--dim", 8, "--no-baseline", "--fraction", 0.5, *NO_TEXT)
    assert rarec("fit-ids", run, *small)[0] == 0
    return run


def test_an_id_model_reads_titles(rarec, fitted, tiny_llm):
    small = ("--max-epochs", 1, "--dim", 8, "--no-baseline", "--shared-negatives", 9)
    code, _, err = rarec("fit-ids", fitted, *small, "--text", tiny_llm)
    assert code == 0, err
    config = json.loads((fitted / "ids" / "config.json").read_text())
    assert config["ids"]["text"] == str(tiny_llm)
    assert config["ids"]["shared_negatives"] == 9


def test_prompts_of_the_user_are_kept_with_the_model(rarec, fitted, chat_llm):
    texts = {
        "user-prompt": "Jemand mochte {titles}. Was kommt als Nächstes?",
        "new-user-prompt": "Jemand Neues",
        "item-prompt": "Film: „{title}“",
        "separator": " und ",
        "titles": 3,
        "max-tokens": 40,
        "system": "Antworte kurz.",
        "pooling": "last",
    }
    options = [part for name, value in texts.items() for part in (f"--{name}", value)]
    small = ("--llm", chat_llm, "--steps", 2, "--batch-size", 32)
    code, _, err = rarec("align", fitted, *small, *options, "--chat")
    assert code == 0, err
    from rarec.model import RARec
    from rarec.prompts import PromptConfig

    model = RARec.from_pretrained(fitted / "models" / "rarec")
    assert model.prompts == PromptConfig(
        user=texts["user-prompt"],
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

    code, _, err = rarec("align", fitted, *small, "--plain", "--user-prompt", "{titles}!")
    assert code == 0, err
    assert RARec.from_pretrained(fitted / "models" / "rarec").prompts == PromptConfig(
        user="{titles}!"
    )


def test_bad_texts_are_one_line(rarec, fitted, tiny_llm, chat_llm):
    cases = [
        (tiny_llm, ["--user-prompt", "Jemand mochte"], "expected '{titles}' in the user template"),
        (tiny_llm, ["--item-prompt", "[bold]"], "in the item template, got '[bold]'"),
        (tiny_llm, ["--separator", ""], "separator, got an empty one"),
        (tiny_llm, ["--max-tokens", 3], "max_tokens >= 8"),
        (tiny_llm, ["--max-tokens", 8, "--new-user-prompt", "a " * 9], "expected max_tokens > 11"),
        (tiny_llm, ["--item-prompt", "{title}" + " a" * 70], "at most 64 tokens"),
        (tiny_llm, ["--chat"], f"chat template, got '{tiny_llm}', which has none"),
        (tiny_llm, ["--system", "be brief"], "expected chat for a system message"),
        (tiny_llm, ["--pooling", "middle"], "pooling to be one of"),
        (tiny_llm, ["--set", "model.layers"], "expected --set NAME=VALUE, got 'model.layers'"),
        (tiny_llm, ["--set", "model.layer=1"], "did you mean 'layers'?"),
        (tiny_llm, ["--set", "model.pool=middle"], "pool to be one of"),
        (tiny_llm, ["--quantization", "2bit"], "quantization to be one of"),
        (chat_llm, ["--chat", "--max-tokens", 8, "--system", "a " * 9], "expected max_tokens > "),
    ]
    for llm, options, message in cases:
        code, out, err = rarec("align", fitted, "--llm", llm, *options)
        assert code == 1, options
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
    assert code == 0
    code, _, err = rarec("fit-ids", run, "--max-epochs", 1, "--no-baseline")
    assert code == 1
    assert '--text ""' in err
    assert not (run / "samples").exists()
    rarec("fit-ids", run, "--max-epochs", 1, "--no-baseline", *NO_TEXT)
    code, _, err = rarec("align", run, "--llm", tiny_llm)
    assert code == 1
    assert "expected titles" in err


def test_a_step_that_is_stopped_says_how_it_goes_on(rarec, tmp_path, monkeypatch):
    from rarec.recommender import Recommender

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recommender, "load", stopped)
    code, _, err = rarec("evaluate", tmp_path)
    assert code == 130
    assert err == "stopped; the same command goes on from here\n"


def test_wrong_usage_is_told_from_bad_input(rarec):
    assert rarec("evaluate")[0] == 2
    assert rarec("fly")[0] == 2


def test_help_is_quick_and_says_what_comes_first():
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from rarec.cli import main; sys.argv[1:] = ['--help'];"
            "import atexit; atexit.register(lambda: print('torch' in sys.modules)); main()",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "prepare" in shown.stdout
    # torch takes seconds to import, and help needs none of it
    assert shown.stdout.strip().endswith("False")


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
    assert "RAREC_PREFIX_ATTENTION says so" in " ".join(out.split())


def test_the_doctor_names_kernels_that_are_wrong():
    right = Trial("head dimension 64, causal", 0.004, "query")
    assert doctor._judged(0, [right]).endswith("GPU 0: right in 1 trials (error 4e-03)")
    wrong = replace(right, error=float("nan"), worst="prefix key")
    told = doctor._judged(1, [right, wrong])
    assert "on GPU 1: WRONG in 1 of 2 trials; set RAREC_PREFIX_ATTENTION=reference" in told
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
        [levers.layers]
        align.model.layers = [1, 2]
        """
        + f"[data.planted.set]\nalign.llm = {str(tiny_llm)!r}\n"
    )
    out = tmp_path / "out"
    options = ("-o", out, "--source", f"planted={files}", "--only", "layers=1")
    options = (*options, "--json", tmp_path / "all.json")
    code, stdout, err = rarec("study", file, *options)
    assert code == 0, err
    assert "3 runs, 2 of them to do now" in err
    assert "| `layers=1` | align.model.layers = 1 |" in stdout
    assert "layers=2" not in stdout
    rows = json.loads((out / "planted" / "results.json").read_text())["rows"]
    assert [row["model"] for row in rows][-2:] == ["layers=1", "layers=1+id"]
    together = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert together == [{"data": "planted", **row} for row in rows]


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
