"""Names on the command line are literal: whatever is in them, no pattern, markup or format."""

import io
import json
import os
import shutil
import sys

import numpy as np
import polars as pl
import pytest

from rarec import processes
from rarec.artifacts import read_json
from rarec.cli import application
from rarec.cli.printing import in_one_line
from rarec.data import Dataset
from rarec.run import RunFolder

# every kind of character that a shell, a library or a terminal may read as something else
NASTIEST = os.fsdecode(b"[/]x *?%s{titles}'\"\n\x1b[31m:dog:\\ \xe6\x97\xa5 \xff")
NAMES = [
    *("a b", 'it\'s "q"', "new\nline", "Größe 日本", os.fsdecode(b"latin\xff1"), "[/]x", "[red]y"),
    *("part[1]", "st*r?", "%s %(a)d", "{x}{0}{titles}", "-dash", "~", "~root", ":dog:", "a\\", "="),
]
NO_TEXT = ("--text", "")
SMALL_IDS = ("--max-epochs", 1, "--dim", 8, "--no-all-samples", "--fraction", 0.5, *NO_TEXT)
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems do not allow all of these names"
)


@pytest.fixture
def rarec(monkeypatch, capsys, tmp_path):
    """Return a function that runs the command in an empty folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["rarec", *(str(part) for part in arguments)])
        code = 0
        try:
            application.run()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def write_tables(planted: Dataset, interactions, items):
    """Write the planted dataset as two csv files, whatever their names are."""
    histories = planted.histories
    events = pl.DataFrame(
        {
            "user_id": [planted.user_ids[row] for row in histories.rows],
            "item_id": [planted.item_ids[item] for item in histories.items],
            "timestamp": histories.times,
        }
    )
    titles = pl.DataFrame({"item_id": planted.item_ids, "title": planted.titles})
    for frame, path in ((events, interactions), (titles, items)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(frame.write_csv())


@pytest.mark.parametrize("name", NAMES)
def test_data_run_and_report_may_have_any_name(rarec, planted, tmp_path, name):
    # "./" so that the name is no option; "~" is a folder of this name
    data, items = f"./{name}/{name}.csv", f"./{name}/{name} items.csv"
    write_tables(planted, tmp_path / data, tmp_path / items)
    run, report = f"runs of/{name}", f"./{name}.json"
    (tmp_path / report).parent.mkdir(exist_ok=True)
    code, out, err = rarec("prepare", data, items, "-o", run, "--json", report)
    assert code == 0, err
    shown = in_one_line(name).encode(errors="backslashreplace").decode()
    assert f"from {shown}/{shown}.csv" in err
    assert f"runs of/{shown}" in out
    assert read_json(tmp_path / report)["users"] == 120
    assert RunFolder(tmp_path / run).dataset.titles == planted.titles
    # the same run under its name again
    assert rarec("prepare", data, items, "-o", run)[0] == 0


@pytest.mark.parametrize("run", [f"{NASTIEST} run", "~"])
def test_all_steps_with_the_nastiest_names(rarec, planted, tiny_llm, tmp_path, monkeypatch, run):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    write_tables(planted, tmp_path / NASTIEST / "data.csv", tmp_path / NASTIEST / "items.csv")
    files = (f"{NASTIEST}/data.csv", f"{NASTIEST}/items.csv")
    assert rarec("prepare", *files, "-o", run)[0] == 0
    (tmp_path / f"{NASTIEST}.toml").write_text(
        "[ids]\nmax_epochs = 1\ndim = 8\ntext = ''\n[selection]\nfraction = 0.5\n"
    )
    code, _, err = rarec("fit-ids", run, "--config", f"{NASTIEST}.toml")
    assert code == 0, err
    name = "[red]M *%s{x} 日"
    few = ("--llm", tiny_llm, "--batch-size", 32, "--set", "training.save_steps=1")
    code, out, err = rarec("align", run, *few, "--steps", 2, "--name", name)
    assert code == 0, err
    # the title of the table is in several lines
    assert "".join(f"models/{name}".split()) in "".join(out.split())
    report = f"{NASTIEST}.json"
    code, out, err = rarec("evaluate", run, "--bootstrap", 5, "--json", report)
    assert code == 0, err
    assert name in out
    assert name in [row["model"] for row in read_json(tmp_path / report)["rows"]]
    # a folder that was moved is the same run
    (tmp_path / run).rename(tmp_path / "moved")
    code, _, err = rarec("recommend", "moved", "--user", "u001", "--model", name, "--json", report)
    assert code == 0, err
    assert len(json.loads((tmp_path / report).read_text())) == 10
    code, _, err = rarec("recommend", "moved", "--title", NASTIEST)
    assert code == 0, err
    # hashes of language models are kept there
    assert [path.name for path in home.iterdir()] in ([], [".cache"])


def test_imported_vectors_and_their_ids_may_have_any_name(rarec, planted, tmp_path):
    write_tables(planted, tmp_path / "interactions.csv", tmp_path / "items.csv")
    rarec("prepare", "interactions.csv", "-o", "run")
    (tmp_path / NASTIEST).mkdir(parents=True)
    np.save(tmp_path / NASTIEST / "[1] -v.npy", np.ones((40, 4), np.float32))
    (tmp_path / NASTIEST / "*.txt").write_text("\n".join(planted.item_ids))
    imported = ("--vectors", f"{NASTIEST}/[1] -v.npy", "--ids", f"{NASTIEST}/*.txt")
    code, _, err = rarec("fit-ids", "run", *imported)
    assert code == 0, err


def test_ids_titles_and_columns_are_literal(rarec, tmp_path):
    users = [f"[/]u{number}\n%s" for number in range(30)]
    items = [f"*i{number} {{title}}:dog:" for number in range(10)]
    rows = [(user, item, time) for user in users for time, item in enumerate(items[:6])]
    columns = ["[user]", "{item}", "(row)"]
    events = pl.DataFrame(rows, schema=columns, orient="row")
    (tmp_path / "a.csv").write_text(events.write_csv() + "\n")
    titles = pl.DataFrame({"{item}": items, "^.*$": [f"[bold]{item}[/bold]" for item in items]})
    (tmp_path / "b.csv").write_text(titles.write_csv())
    options = ("--user-column", "[user]", "--item-column", "{item}", "--time-column", "(row)")
    texts = ("--text-column", "^.*$")
    code, _, err = rarec("prepare", "a.csv", "b.csv", "-o", "run", *options, *texts)
    assert code == 0, err
    dataset = RunFolder("run").dataset
    assert dataset.user_ids == sorted(users)
    assert dataset.titles[0] == "[bold]*i0 {title}:dog:[/bold]"
    code, _, err = rarec("recommend", "run", "--user", "[/]\n" * 5000)
    assert code == 1
    (tmp_path / "a.csv").write_text(events.write_csv() + "\n\n[/]u,*i,x y\n")
    code, _, err = rarec("prepare", "a.csv", "-o", "other", *options)
    assert code == 1
    assert "a.csv:364: column '(row)': expected a number, got 'x y'" in err


def test_symbolic_links_stay_links(rarec, planted, tmp_path):
    write_tables(planted, tmp_path / "real.csv", tmp_path / "real items.csv")
    (tmp_path / "data.csv").symlink_to("real.csv")
    for place in ("disk", "disk/ids", "disk/samples", "disk/results"):
        (tmp_path / place).mkdir()
    (tmp_path / "disk" / "report.json").write_text("old")
    (tmp_path / "report.json").symlink_to("disk/report.json")
    (tmp_path / "run").symlink_to("disk/run", target_is_directory=True)
    code, _, err = rarec(
        "prepare", "data.csv", "real items.csv", "-o", "run", "--json", "report.json"
    )
    assert code == 0, err
    for part in ("ids", "samples"):
        (tmp_path / "run" / part).symlink_to(tmp_path / "disk" / part, target_is_directory=True)
    for restart in ([], ["--restart"]):
        code, _, err = rarec("fit-ids", "run", *SMALL_IDS, *restart)
        assert code == 0, err
    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "report.json").is_symlink()
    assert read_json(tmp_path / "disk" / "report.json")["users"] == 120
    assert (tmp_path / "run" / "samples").is_symlink()
    assert (tmp_path / "disk" / "samples" / "record.json").is_file()
    assert (tmp_path / "disk" / "ids" / "id" / "held-out" / "record.json").is_file()
    assert not list(tmp_path.rglob(".rarec-tmp*"))


def test_models_on_another_disk_find_the_id_vectors(rarec, planted, tiny_llm, tmp_path):
    write_tables(planted, tmp_path / "data.csv", tmp_path / "items.csv")
    rarec("prepare", "data.csv", "items.csv", "-o", "run")
    rarec("fit-ids", "run", *SMALL_IDS)
    (tmp_path / "disk" / "of models").mkdir(parents=True)
    (tmp_path / "run" / "models").symlink_to("../disk/of models", target_is_directory=True)
    code, _, err = rarec("align", "run", "--llm", tiny_llm, "--steps", 1, "--batch-size", 32)
    assert code == 0, err
    assert (tmp_path / "disk" / "of models" / "rarec").is_dir()
    # a copy is a run, too
    shutil.copytree("run", "copy")
    code, _, err = rarec("recommend", "copy", "--user", "u001")
    assert code == 0, err


def test_a_report_into_a_device_or_a_file_called_dash(rarec, planted, tmp_path):
    write_tables(planted, tmp_path / "data.csv", tmp_path / "items.csv")
    code, _, err = rarec("prepare", "data.csv", "-o", "run", "--json", "./-")
    assert code == 0, err
    assert read_json(tmp_path / "-")["users"] == 120
    code, _, err = rarec("prepare", "data.csv", "-o", "run", "--json", "/dev/null")
    assert code == 0, err
    assert not os.path.isfile("/dev/null")  # noqa: PTH113
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        code, _, err = rarec("prepare", "data.csv", "-o", "run", "--json", "pipe")
        assert code == 0, err
        assert json.loads(os.read(reader, 1 << 16))["users"] == 120
    finally:
        os.close(reader)


def test_errors_with_any_text_are_one_line(rarec):
    code, _, err = rarec("evaluate", "[/]no\nrun\x1b[31m:dog:")
    assert code == 1
    assert r"got [/]no\nrun\x1b[31m:dog:" in err
    assert err.count("\n") == 1
    code, _, err = rarec("evaluate", "x" * 5000)
    assert code == 1
    assert "characters left out" in err
    assert len(err) < 3000
    assert err.count("\n") == 1


def test_a_pattern_is_read_where_no_such_file_is(rarec, planted, tmp_path):
    write_tables(planted, tmp_path / "part[1].csv", tmp_path / "items.csv")
    lines = (tmp_path / "part[1].csv").read_text().splitlines(keepends=True)
    (tmp_path / "part1.csv").write_text("".join(lines[:601]))
    (tmp_path / "part2.csv").write_text("".join([lines[0], *lines[601:]]))
    code, _, err = rarec("prepare", "part[1].csv", "-o", "literal")
    assert code == 0, err
    assert len(RunFolder("literal").dataset.histories.items) == 1200
    code, _, err = rarec(
        "prepare", "part[1].csv", "-o", "forced", "--glob", "--json", "report.json"
    )
    assert code == 0, err
    note = "files that match 'part[1].csv': 1 (part1.csv)"
    assert note in err
    assert note in read_json(tmp_path / "report.json")["report"]["notes"]
    assert len(RunFolder("forced").dataset.histories.items) == 600
    code, _, err = rarec("prepare", "part?.csv", "items.csv", "-o", "both")
    assert code == 0, err
    assert "files that match 'part?.csv': 2 (part1.csv, part2.csv)" in err
    run = RunFolder("both")
    assert run.dataset.content_hash == planted.content_hash
    code, _, err = rarec("prepare", "no*.csv", "-o", "none")
    assert code == 1
    assert err == "error: expected a file 'no*.csv' or files that match it, got none\n"


def test_the_name_of_a_public_dataset_comes_before_a_folder_of_this_name(
    rarec, planted, tmp_path, monkeypatch
):
    write_tables(planted, tmp_path / "ml-100k/interactions.csv", tmp_path / "ml-100k/items.csv")
    write_tables(planted, tmp_path / "cache/interactions.csv", tmp_path / "unused.csv")
    monkeypatch.setattr("rarec.assets.fetch", lambda _: tmp_path / "cache")
    code, _, err = rarec("prepare", "ml-100k", "-o", "public")
    assert code == 0, err
    assert f"the public dataset ml-100k, from {tmp_path / 'cache'}" in err
    assert "write ./ml-100k to read it" in err
    assert not any(RunFolder("public").dataset.titles)
    code, _, err = rarec("prepare", "./ml-100k", "-o", "own")
    assert code == 0, err
    assert "from ml-100k" in err
    assert RunFolder("own").dataset.titles == planted.titles


def test_a_terminal_that_cannot_encode_a_name_shows_escapes(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "argv", ["rarec", "evaluate", os.fsdecode("日本".encode() + b"\xff")])
    with pytest.raises(SystemExit):
        application.run()
    stream.flush()
    shown = stream.buffer.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert rb"\u65e5\u672c\udcff" in shown
    assert b"UnicodeEncodeError" not in shown


def test_a_study_and_its_parts_may_have_any_name(rarec, planted, tiny_llm, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "in_process", lambda f, *given, **_: f(*given))
    write_tables(planted, tmp_path / "p=q [1]/data.csv", tmp_path / "items.csv")
    write_tables(planted, tmp_path / "p=q [1]/interactions.csv", tmp_path / "p=q [1]/items.csv")
    data, variant = "[b]a=b *%s", "[red]v* {x}|`"
    file = tmp_path / f"{NASTIEST}.toml"
    file.parent.mkdir()
    file.write_text(
        f"""
        cases = 20
        [data."{data}"]
        source = "elsewhere"
        [set]
        ids.dim = 8
        ids.max_epochs = 1
        selection.fraction = 0.5
        ids.text = ""
        align.training.max_steps = 1
        align.training.per_device_train_batch_size = 16
        align.llm = "{tiny_llm}"
        [variants]
        "{variant}" = {{"align.model.layers" = 1}}
        "[red]v*" = {{}}
        """
    )
    options = ("--source", f"{data}=p=q [1]", "--only", variant, "-o", f"{NASTIEST} out")
    code, out, err = rarec("study", f"{NASTIEST}.toml", *options)
    assert code == 0, err
    assert f"{data}\n" in out
    assert "2 of them to do now" in err
    rows = read_json(tmp_path / f"{NASTIEST} out" / data / "results.json")["rows"]
    assert [row["model"] for row in rows][-2:] == [variant, f"{variant}+id"]
