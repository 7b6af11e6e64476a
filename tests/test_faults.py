"""Real commands are disturbed at some of their file events; `make faults` takes all events."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.faults.compare import contents, differences, fingerprint, lost, wrong_hashes
from tests.faults.damage import DAMAGES, damages
from tests.faults.points import FAULTS, chosen_events
from tests.faults.runner import Event, Fault, ShimState, build_shim, child_events
from tests.faults.survey import Plan, survey

needs_shim = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None,
    reason="LD_PRELOAD needs Linux, and the shim needs a C compiler",
)
SEED = 0

# five events: create, write, flush, rename, remove
SCRIPT = """
import os
with open("a", "w") as file:
    file.write("x")
    file.flush()
    os.fsync(file.fileno())
os.replace("a", "b")
os.remove("b")
print("end")
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return build_shim(tmp_path_factory.mktemp("shim"))


def run_script(script, shim, folder, fault=None):
    """Run a Python script in `folder/point`, and return its end and the state of the shim."""
    watched = folder / "point"
    watched.mkdir(exist_ok=True)
    state = ShimState(folder)
    state.reset()
    variables = state.environment(watched, fault, log=True)
    ended = subprocess.run(
        [sys.executable, "-I", "-c", script],
        cwd=watched,
        env={**os.environ, **variables, "LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    return ended, state


@needs_shim
def test_the_shim_counts_events_in_order(shim, tmp_path):
    ended, state = run_script(SCRIPT, shim, tmp_path)
    assert ended.stdout == "end\n"
    assert not state.fired
    found = [(event.kind, event.path) for event in state.events(tmp_path / "point")]
    assert found == [
        ("create", "a"),
        ("write", "a"),
        ("flush", "a"),
        ("rename", "b"),
        ("remove", "b"),
    ]


@needs_shim
@pytest.mark.parametrize(("number", "left"), [(1, []), (2, ["a"]), (4, ["a"]), (5, ["b"])])
def test_the_shim_kills_before_an_event(shim, tmp_path, number, left):
    ended, state = run_script(SCRIPT, shim, tmp_path, Fault("kill", number))
    assert ended.returncode == -9
    assert state.fired
    assert [path.name for path in (tmp_path / "point").iterdir()] == left


@needs_shim
def test_an_event_that_is_never_reached_does_not_fire(shim, tmp_path):
    ended, state = run_script(SCRIPT, shim, tmp_path, Fault("kill", 6))
    assert ended.returncode == 0
    assert not state.fired
    assert state.n_events == 5


@needs_shim
def test_a_full_disk_stays_full_and_files_can_be_removed(shim, tmp_path):
    script = """
import os
def fails(call):
    try:
        call()
    except OSError as error:
        return error.errno
file = os.open("a", os.O_CREAT | os.O_WRONLY)
for number in range(3):
    print(fails(lambda: os.write(file, b"x")), end=" ")
print(fails(lambda: os.mkdir("c")), fails(lambda: open("d", "w")), end=" ")
print(fails(lambda: os.rename("a", "b")), fails(lambda: os.remove("b")))
"""
    ended, _ = run_script(script, shim, tmp_path, Fault("enospc", 3))
    assert ended.stdout.split() == ["None", "28", "28", "28", "28", "None", "None"]


@needs_shim
@pytest.mark.parametrize(("action", "number"), [("eio", 5), ("eacces", 13)])
def test_an_error_is_of_one_event_alone(shim, tmp_path, action, number):
    script = """
import os
for _ in range(3):
    try:
        os.mkdir("a")
    except OSError as error:
        print(error.errno)
"""
    ended, _ = run_script(script, shim, tmp_path, Fault(action, 1))
    # the second call makes the folder, and the third finds it
    assert ended.stdout.split() == [str(number), "17"]


@needs_shim
def test_the_counter_is_shared_by_children_and_one_can_be_killed(shim, tmp_path):
    script = """
import os, subprocess, sys
os.mkdir("a")
if not os.fork():
    os.mkdir("b")
    os._exit(0)
forked = os.waitstatus_to_exitcode(os.wait()[1])
started = subprocess.run([sys.executable, "-I", "-c", "import os; os.mkdir('c')"]).returncode
os.mkdir("d")
print(forked, started)
"""
    ended, state = run_script(script, shim, tmp_path)
    events = state.events(tmp_path / "point")
    assert [event.path for event in events] == ["a", "b", "c", "d"]
    assert child_events(events) == [2, 3]
    shutil.rmtree(tmp_path / "point")
    ended, _ = run_script(script, shim, tmp_path, Fault("kill-child", 3))
    assert ended.stdout.split() == ["0", "-9"]
    shutil.rmtree(tmp_path / "point")
    # the first process is none of its children
    ended, state = run_script(script, shim, tmp_path, Fault("kill-child", 4))
    assert ended.stdout.split() == ["0", "0"]
    assert not state.fired


@needs_shim
@pytest.mark.parametrize(("action", "number"), [("int", 2), ("term", 15)])
def test_signals_go_to_the_group(shim, tmp_path, action, number):
    script = """
import os, signal
for one in (signal.SIGINT, signal.SIGTERM):
    signal.signal(one, lambda number, frame: print(number))
os.mkdir("a")
print("end")
"""
    ended, _ = run_script(script, shim, tmp_path, Fault(action, 1))
    assert ended.stdout.split() == [str(number), "end"]
    assert (tmp_path / "point" / "a").is_dir()


def test_events_that_make_no_difference_are_left_out():
    kinds = ["create", "write", "write", "write", "flush", "rename", "remove"]
    events = [Event(1, kind, "a") for kind in kinds]
    assert chosen_events("kill", events) == [1, 2, 4, 5, 7]
    assert chosen_events("eio", events) == [1, 2, 4, 5, 6, 7]
    assert chosen_events("enospc", events) == [1, 2, 4]
    assert chosen_events("eacces", events) == [1, 6, 7]
    assert chosen_events("int", events) == [1, 4, 7]
    assert chosen_events("term", events) == [2, 5]
    assert chosen_events("kill-child", events) == []
    assert chosen_events("kill", events, share=0.0) == []


def write_run(folder, loss=1.0):
    """Write what looks like a run with one artifact."""
    artifact = folder / "run" / "ids"
    artifact.mkdir(parents=True)
    save_file({"vectors": torch.ones(2, 2)}, artifact / "vectors.safetensors")
    measurements = {"loss": loss, "seconds": 1.0}
    (artifact / "record.json").write_text(json.dumps({"measurements": measurements}))
    (folder / "run" / "locks").mkdir()
    (folder / "cache").mkdir()
    return folder


def test_contents_differ_by_what_was_computed_and_not_by_times(tmp_path):
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b", loss=2.0)
    (second / "cache" / "states").write_text("")
    (second / "run" / "locks" / "models.lock").write_text("1")
    (second / "run" / "ids" / ".rarec-tmp.host.1.2.x").mkdir()
    found = differences(contents(first), contents(second))
    assert found == [
        "run/ids/.rarec-tmp.host.1.2.x/ is left",
        "run/ids/record.json: .measurements.loss: expected 1.0, got 2.0",
    ]
    record = second / "run" / "ids" / "record.json"
    record.write_text(json.dumps({"measurements": {"loss": 1.0, "seconds": 9.0}}))
    (second / "run" / "ids" / ".rarec-tmp.host.1.2.x").rmdir()
    assert differences(contents(first), contents(second)) == []


def test_leftovers_of_other_processes_have_the_same_fingerprint(tmp_path):
    folders = [write_run(tmp_path / name) for name in ("a", "b")]
    for number, folder in enumerate(folders):
        (folder / "run" / f".rarec-tmp.host.{number}.x").write_text("x")
    assert fingerprint(folders[0]) == fingerprint(folders[1])
    (folders[1] / "run" / ".rarec-tmp.host.1.x").write_text("y")
    assert fingerprint(folders[0]) != fingerprint(folders[1])


def test_a_file_is_lost_if_neither_the_old_nor_the_new_one_is_there():
    before = {"kept": 1, "replaced": 1, "removed": 1, "run/checkpoints/1": 1}
    after = {"kept": 1, "replaced": 2, "made": 1, "run/checkpoints/1": 2}
    assert lost(before, after, {"kept": 1, "replaced": 1}) == []
    assert lost(before, after, {"kept": 1, "replaced": 2}) == []
    assert lost(before, after, {"kept": 2}) == [
        "kept is neither the old nor the new one",
        "replaced is gone",
    ]


def test_hashes_of_records_are_checked(tmp_path):
    (tmp_path / "a").write_text("x")
    right = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    (tmp_path / "record.json").write_text(json.dumps({"files": {"a": right}}))
    assert wrong_hashes(tmp_path) == []
    (tmp_path / "a").write_text("y")
    assert wrong_hashes(tmp_path) == ["a is not the one in the list"]
    (tmp_path / "a").unlink()
    assert wrong_hashes(tmp_path) == ["a is missing, and is in the list"]


def test_damages_change_one_value_one_tensor_or_one_file(tmp_path):
    made = write_run(tmp_path / "made")
    found = {kind: damages(kind, made) for kind in DAMAGES}
    # 3 places with 6 other values; 6 changes of a tensor and an extra one; 5 changes of 2 files
    assert [len(found[kind]) for kind in DAMAGES] == [18, 7, 10]
    assert {damage.what for damage in found["damage-json"] if "seconds" in damage.what} == {
        f"measurements.seconds: {name}"
        for name in ("null", "negative", "huge", "text", "list", "missing")
    }
    for kind in DAMAGES:
        for number, damage in enumerate(found[kind]):
            folder = shutil.copytree(made, tmp_path / f"{kind}-{number}")
            before = (folder / damage.file).read_bytes()
            damage.apply(folder / damage.file)
            if damage.what == "removed":
                assert not (folder / damage.file).exists()
            else:
                assert (folder / damage.file).read_bytes() != before
            if damage.what == "vectors: NaN":
                assert load_file(folder / damage.file)["vectors"].isnan().all()


@needs_shim
def test_disturbed_commands_end_as_the_undisturbed_ones(tmp_path):
    plan = Plan(
        sys.executable,
        commands=("prepare", "fit-ids", "align", "evaluate"),
        faults=(*FAULTS, *DAMAGES),
        # 1% of the points take 25 seconds, and what is made before them takes 20
        share=0.01,
        seed=SEED,
    )
    rows = list(survey(plan, tmp_path))
    assert sum(row.points for row in rows) > 10
    assert [row.skipped for row in rows if row.skipped] == []
    failing = [
        f"{row.command}, {row.fault}, {point['point']}: {'; '.join(point['what'])}"
        for row in rows
        for point in row.failing
    ]
    assert failing == []


def test_the_driver_imports_nothing_of_rarec():
    for path in (Path(__file__).parent / "faults").glob("*.py"):
        assert "from rarec" not in path.read_text() or path.name == "warm.py"
