"""Run folders: what is there, what it was made from, and what is out of date."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rarec.artifacts import LockedError, write_folder, write_json
from rarec.run import (
    RunFolder,
    fresh_hash,
    fresh_record,
    inspect_run,
    read_record,
    why_not_fresh,
    write_artifact,
    write_record,
)
from rarec.settings import SplitSettings


@pytest.fixture
def run(planted, tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", planted)


def files_of(run: RunFolder) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def make(run: RunFolder, address: str, *inputs: str, content: str = "x", **settings) -> None:
    hashes = {name: fresh_hash(run, name) or "" for name in inputs}
    with write_artifact(run, address, made_from=hashes, settings=settings) as folder:
        (folder / "content.txt").write_text(content)


def test_a_run_that_is_there_goes_on_and_keeps_all_it_has(run, planted):
    make(run, "samples", "data")
    before = files_of(run)
    again = RunFolder.create(run.path, planted)
    assert files_of(run) == before
    assert fresh_record(again, "samples") is not None
    assert again.split.description == run.split.description


def test_a_run_of_other_data_is_refused_with_the_way_out(run, planted):
    other = replace(planted, titles=["other"] * planted.n_items)
    with pytest.raises(
        ValueError, match=r"same data; choose another folder, or begin again with prepare --restart"
    ):
        RunFolder.create(run.path, other)
    with pytest.raises(ValueError, match="same split"):
        RunFolder.create(run.path, planted, SplitSettings(min_history=2))
    assert RunFolder(run.path).dataset.titles == planted.titles


def test_what_a_stopped_preparation_left_does_not_stop_the_next(planted, tmp_path):
    folder = tmp_path / "run"
    planted.save(folder / "dataset")
    assert not RunFolder.exists(folder)
    run = RunFolder.create(folder, planted)
    assert run.dataset.content_hash == planted.content_hash
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="new folder or a run"):
        RunFolder.create(tmp_path / "other", planted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "rarec.run/3"}, "expected format 'rarec.run/5', got 'rarec.run/3'"),
        ({"split": {"kind": "time"}}, "expected the values that were written"),
        ({"data": 5}, "expected the values that were written"),
    ],
)
def test_a_damaged_run_file_is_named(run, change, message):
    file = run.path / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as caught:
        RunFolder(run.path)
    assert str(file) in str(caught.value)


def test_a_run_is_removed_only_on_request_and_whole(run, planted):
    make(run, "samples", "data")
    (run.path / "notes.txt").write_text("mine")
    other = replace(planted, titles=["other"] * planted.n_items)
    again = RunFolder.create(run.path, other, restart=True)
    assert again.dataset.titles == other.titles
    assert fresh_record(again, "samples") is None
    assert not again.folder("samples").exists()
    assert (run.path / "notes.txt").read_text() == "mine"


def test_a_removal_that_was_stopped_is_known_and_goes_on(run, planted, monkeypatch):
    make(run, "samples", "data")
    with monkeypatch.context() as patch:
        patch.setattr("rarec.run.folder.remove", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            RunFolder.create(run.path, planted, restart=True)
    with pytest.raises(ValueError, match="whose removal was stopped"):
        RunFolder(run.path)
    again = RunFolder.create(run.path, planted, restart=True)
    assert fresh_record(again, "samples") is None


def test_a_damaged_dataset_is_written_again_from_the_same_data(run, planted):
    (run.path / "dataset" / "items.parquet").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"items\.parquet: expected .* bytes"):
        _ = RunFolder(run.path).dataset
    assert RunFolder.create(run.path, planted).dataset.content_hash == planted.content_hash
    assert RunFolder(run.path).dataset.titles == planted.titles


def test_two_processes_do_not_make_one_artifact(run):
    with run.lock("models/rarec"):
        with (
            pytest.raises(LockedError, match=r"models/rarec is being made by process \d+ on"),
            run.lock("models/rarec"),
        ):
            pass
        # another one is not in the way, and nobody needs a lock to read
        make(run, "models/text", "data")
        assert fresh_record(RunFolder(run.path), "models/text") is not None


def test_an_artifact_of_inputs_that_have_changed_meanwhile_is_not_written(run):
    make(run, "samples", "data", content="first")
    made_from = {"samples": fresh_hash(run, "samples") or ""}

    def write() -> None:
        with write_artifact(run, "models/rarec", made_from=made_from, settings={}):
            make(run, "samples", "data", content="others")

    with pytest.raises(ValueError, match="samples was changed by another process while models"):
        write()
    assert run.model_names() == []


def test_an_inspection_reads_everything_and_names_what_is_damaged(run):
    make(run, "samples", "data")
    make(run, "models/rarec", "samples")
    make(run, "models/text", "samples")
    found = {part.address: part for part in inspect_run(run)}
    assert list(found) == ["dataset", "models/rarec", "models/text", "samples"]
    assert all(part.damage is None for part in found.values())
    make(run, "samples", "data", content="others")
    (run.folder("models/text") / "content.txt").write_text("y")
    (run.folder("models/rarec") / "record.json").unlink()
    found = {part.address: part for part in inspect_run(run)}
    assert "models/text/content.txt" in (found["models/text"].damage or "")
    assert "models/rarec/record.json" in (found["models/rarec"].damage or "")


def test_what_is_out_of_date_is_computed_along_the_chain(run):
    make(run, "samples", "data", content="first")
    make(run, "ids/id/held-out", "data", "samples")
    make(run, "ids/id/all", "data")
    make(run, "models/rarec", "samples", "ids/id/held-out")
    make(run, "weights/rarec+id", "models/rarec", "ids/id/all")
    assert fresh_record(run, "weights/rarec+id") is not None
    make(run, "samples", "data", content="others")
    assert why_not_fresh(run, "ids/id/held-out") == (
        "ids/id/held-out is out of date: samples has changed since it was made"
    )
    assert fresh_hash(run, "models/rarec") is None
    assert fresh_record(run, "weights/rarec+id") is None
    # it was made from the data alone
    assert fresh_record(run, "ids/id/all") is not None
    # the first samples again: nothing was lost, and nothing has to be made again
    make(run, "samples", "data", content="first")
    assert fresh_record(run, "weights/rarec+id") is not None
    assert why_not_fresh(run, "models/other") == "models/other is not there"


def test_a_weight_of_an_older_model_is_out_of_date(run):
    make(run, "models/rarec", "data", content="old")
    make(run, "weights/rarec+id", "models/rarec")
    # a stop between the new model and its weight leaves just this
    make(run, "models/rarec", "data", content="new")
    assert fresh_record(run, "weights/rarec+id") is None


def test_measurements_and_language_models_are_no_part_of_the_hash(run):
    make(run, "samples", "data")
    before = fresh_hash(run, "samples")
    with write_artifact(
        run,
        "samples",
        made_from={"data": run.data_hash},
        settings={},
        measurements={"seconds": 3.0},
        language_models={"llm": "3fa2"},
    ) as folder:
        (folder / "content.txt").write_text("x")
    record = fresh_record(run, "samples")
    assert record is not None
    assert record.measurements == {"seconds": 3.0}
    assert record.language_models == {"llm": "3fa2"}
    assert fresh_hash(run, "samples") == before


@pytest.mark.parametrize("change", [{"made_from": 3}, {"hash": None}, {"unknown": 1}])
def test_a_damaged_record_is_named_with_the_way_out(run, change):
    make(run, "samples", "data")
    file = run.folder("samples") / "record.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=r"Remove the folder .*, or make it again") as caught:
        read_record(run.folder("samples"))
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"made_from": 3}, "expected made_from to be"),
        ({"format": "rarec.record/9"}, "expected format 'rarec.record/2'"),
        ({"unknown": 1}, "expected a field of Record, got 'unknown'"),
    ],
)
def test_a_record_of_another_form_is_named(run, values, message):
    with write_folder(run.folder("samples")) as folder:
        record = write_record(folder, {}, {})
        write_json(folder / "record.json", {**asdict(record), **values})
    with pytest.raises(ValueError, match=message) as caught:
        read_record(run.folder("samples"))
    assert str(run.folder("samples") / "record.json") in str(caught.value)


def test_a_killed_writer_leaves_the_artifact_as_it_was(run):
    make(run, "samples", "data", content="whole")
    code = f"""
import os
from rarec.run import RunFolder, write_artifact
run = RunFolder({str(run.path)!r})
with write_artifact(run, "samples", made_from={{}}, settings={{}}) as folder:
    (folder / "content.txt").write_text("half")
    os._exit(9)
"""
    environment = {**os.environ}
    done = subprocess.run([sys.executable, "-c", code], check=False, env=environment)
    assert done.returncode == 9
    assert (run.folder("samples") / "content.txt").read_text() == "whole"
    assert fresh_record(run, "samples") is not None
    assert Path(run.path, "models").exists() is False
    assert run.model_names() == []
