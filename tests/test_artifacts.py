from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rarec.artifacts import (
    LockedError,
    WriteError,
    check_folder,
    lock,
    read_config,
    read_sealed,
    read_whole,
    require_space,
    write_config,
    write_file,
    write_folder,
    write_json,
    write_sealed,
    write_text,
    writing_to,
)
from rarec.settings import typed

FORMAT = "rarec.test/1"


@typed
class Config:
    """What the config of a test says."""

    value: int
    """A number."""


def value_in(folder: Path) -> int:
    return read_config(folder, FORMAT, Config).value


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def write(path: Path, value: int) -> None:
    with write_folder(path) as folder:
        write_config(folder, FORMAT, {"value": value})
        (folder / f"content-{value}.txt").write_text("x")


def test_a_new_folder_appears_with_its_content_and_nothing_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "thing", 1)
    assert names(tmp_path / "deep") == ["thing"]
    assert names(tmp_path / "deep" / "thing") == ["config.json", "content-1.txt", "files.json"]
    assert value_in(tmp_path / "deep" / "thing") == 1


def test_our_own_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write(tmp_path / "thing", 1)
    write(tmp_path / "thing", 2)
    assert names(tmp_path) == ["thing"]
    assert names(tmp_path / "thing") == ["config.json", "content-2.txt", "files.json"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "thing").mkdir()
    write(tmp_path / "thing", 1)
    assert value_in(tmp_path / "thing") == 1


def test_a_failing_block_leaves_the_old_folder_and_no_rest(tmp_path: Path) -> None:
    write(tmp_path / "thing", 1)

    def fail() -> None:
        with write_folder(tmp_path / "thing") as folder:
            (folder / "half").write_text("x")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert names(tmp_path) == ["thing"]
    assert value_in(tmp_path / "thing") == 1


def test_a_block_that_leaves_no_config_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"leave a config\.json"), write_folder(tmp_path / "thing"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("config", [None, "not json", "[]", '{"format": "other/1"}', "{}"])
def test_a_folder_of_someone_else_is_refused_and_kept(tmp_path: Path, config: str | None) -> None:
    theirs = tmp_path / "thing"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    if config is not None:
        (theirs / "config.json").write_text(config)
    with pytest.raises(ValueError, match="expected a new or empty folder"):
        write(theirs, 1)
    assert (theirs / "thesis.txt").read_text() == "years of work"
    assert names(tmp_path) == ["thing"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thing").write_text("x")
    with pytest.raises(ValueError, match="got the file"):
        write(tmp_path / "thing", 1)


def test_reading_names_what_was_expected_and_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        read_config(tmp_path / "absent", FORMAT, Config)
    write(tmp_path / "thing", 1)
    with pytest.raises(ValueError, match=r"expected format 'rarec\.index/1'.*got 'rarec\.test/1'"):
        read_config(tmp_path / "thing", "rarec.index/1", Config)
    with write_folder(tmp_path / "thing") as folder:
        write_config(folder, FORMAT, {"value": "one"})
    with pytest.raises(ValueError, match=r"config\.json: expected value to be a valid integer"):
        read_config(tmp_path / "thing", FORMAT, Config)


def test_a_config_is_strict_json_of_our_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"starts with 'rarec\."):
        write_config(tmp_path, "other", {})
    with pytest.raises(ValueError, match="without the key 'format'"):
        write_config(tmp_path, FORMAT, {"format": "x"})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_config(tmp_path, FORMAT, {"loss": float("nan")})


def test_a_text_file_is_replaced_whole_and_leaves_no_rest(tmp_path: Path) -> None:
    write_text(tmp_path / "sub" / "a.json", json.dumps("é"))
    write_text(tmp_path / "sub" / "a.json", json.dumps("second"))
    assert names(tmp_path / "sub") == ["a.json"]
    assert json.loads((tmp_path / "sub" / "a.json").read_text(encoding="utf-8")) == "second"
    with pytest.raises(UnicodeEncodeError, match="surrogates"):
        write_text(tmp_path / "sub" / "a.json", "\ud800")
    assert names(tmp_path / "sub") == ["a.json"]
    assert json.loads((tmp_path / "sub" / "a.json").read_text(encoding="utf-8")) == "second"


def test_a_file_appears_when_its_block_succeeds(tmp_path: Path) -> None:
    target = tmp_path / "sub" / "table.bin"

    def fail() -> None:
        with write_file(target) as path:
            path.write_bytes(b"half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert names(tmp_path / "sub") == []
    with write_file(target) as path:
        path.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert names(tmp_path / "sub") == ["table.bin"]


def test_values_that_json_does_not_have_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.json: expected values that JSON has"):
        write_json(tmp_path / "a.json", {"path": tmp_path})
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    code = f"""
import os
from rarec.artifacts import write_folder
with write_folder({str(tmp_path / "thing")!r}) as folder:
    (folder / "half").write_text("x")
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert len(names(tmp_path)) == 1
    host = names(tmp_path)[0].removeprefix(".rarec-tmp.").rsplit(".", 3)[0]
    assert host.startswith(socket.gethostname())
    mine = tmp_path / f".rarec-tmp.{host}.{os.getpid()}.0.other"
    mine.mkdir()
    elsewhere = tmp_path / ".rarec-tmp.another-host.1.0.other"
    elsewhere.mkdir()
    write(tmp_path / "thing", 1)
    # those of a running process and of another machine stay
    assert names(tmp_path) == sorted([mine.name, elsewhere.name, "thing"])


def test_a_folder_is_replaced_in_one_step_or_moved_back(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path / "thing", 1)
    # a file system that cannot exchange two folders
    monkeypatch.setattr("rarec.artifacts.places._exchange", lambda *_: False)
    write(tmp_path / "thing", 2)
    assert value_in(tmp_path / "thing") == 2
    assert names(tmp_path) == ["thing"]
    # killed after the old one was moved aside
    code = f"""
import os
from pathlib import Path
from rarec.artifacts import places, write_config, write_folder
places._exchange = lambda *_: False
rename = Path.rename
def killed(self, target):
    if "rarec-tmp" in self.name:
        os._exit(9)
    return rename(self, target)
Path.rename = killed
with write_folder({str(tmp_path / "thing")!r}) as folder:
    write_config(folder, {FORMAT!r}, {{"value": 3}})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert not (tmp_path / "thing").exists()
    write(tmp_path / "other", 1)
    assert value_in(tmp_path / "thing") == 2
    assert names(tmp_path) == ["other", "thing"]


def test_a_link_leads_to_the_folder_that_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "real" / "thing", 1)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "thing")
    write(tmp_path / "link", 2)
    assert (tmp_path / "link").is_symlink()
    assert value_in(tmp_path / "real" / "thing") == 2


def change(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "removed":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(content[:-2])
    elif kind == "flipped":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("kind", ["removed", "cut", "flipped"])
@pytest.mark.parametrize("name", ["content-1.txt", "config.json", "files.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, kind: str) -> None:
    write(tmp_path / "thing", 1)
    change(tmp_path / "thing" / name, kind)
    with pytest.raises(ValueError, match=rf"thing/{name}: expected"):
        read_config(tmp_path / "thing", FORMAT, Config)


def test_of_a_large_file_the_beginning_is_read_and_all_of_it_if_asked(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("rarec.artifacts.contents.LARGE", 1000)
    monkeypatch.setattr("rarec.artifacts.contents._BEGINNING", 100)
    with write_folder(tmp_path / "thing") as folder:
        write_config(folder, FORMAT, {"value": 1})
        (folder / "large").write_bytes(bytes(2000))
    (tmp_path / "thing" / "large").write_bytes(bytes(1999) + b"x")
    assert value_in(tmp_path / "thing") == 1
    with pytest.raises(ValueError, match="thing/large: expected the content that was written"):
        check_folder(tmp_path / "thing", whole=True)
    (tmp_path / "thing" / "large").write_bytes(b"x" + bytes(1999))
    with pytest.raises(ValueError, match="thing/large: expected the content that was written"):
        value_in(tmp_path / "thing")


def test_a_sealed_file_shows_each_change(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    write_sealed(file, FORMAT, {"value": (1, 2), "none": None})
    assert read_sealed(file, FORMAT) == {"value": [1, 2], "none": None}
    for values in ({"value": [1, 3]}, {"none": 0}, {"more": 1}, {"sha256": "0"}):
        write_sealed(file, FORMAT, {"value": (1, 2), "none": None})
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
        with pytest.raises(ValueError, match=r"run\.json: expected the values that were written"):
            read_sealed(file, FORMAT)


def test_a_reader_never_sees_two_states(tmp_path: Path) -> None:
    write(tmp_path / "thing", 1)
    replaced = []

    def read() -> tuple[int, list[str]]:
        value = value_in(tmp_path / "thing")
        if not replaced:
            # another process makes it again, between two files
            write(tmp_path / "thing", 2)
            replaced.append(True)
        return value, names(tmp_path / "thing")

    value, found = read_whole(tmp_path / "thing", read)
    assert value == 2
    assert "content-2.txt" in found


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "no space left on the disk"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no space left"),
        (RuntimeError("[enforce fail at inline_container.cc:603]"), "cannot be written"),
        (PermissionError(13, "Permission denied"), r"cannot be written \(Permission denied\)"),
        (OSError(30, "Read-only file system"), r"cannot be written \(Read-only file system\)"),
    ],
)
def test_a_failure_of_the_disk_is_one_line_with_the_path(tmp_path: Path, error, message) -> None:
    write(tmp_path / "thing", 1)

    def fail() -> None:
        with write_folder(tmp_path / "thing") as folder:
            (folder / "half").write_bytes(bytes(5000))
            raise error

    with pytest.raises(WriteError, match=message) as caught:
        fail()
    assert str(tmp_path / "thing") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert value_in(tmp_path / "thing") == 1
    assert names(tmp_path) == ["thing"]
    with pytest.raises(KeyError), writing_to(tmp_path):
        raise KeyError("other")


def test_space_is_asked_for_before_the_work(tmp_path: Path) -> None:
    require_space(tmp_path / "new" / "thing", 1000)
    with pytest.raises(WriteError, match=r"1000000\.0 GB or more are needed"):
        require_space(tmp_path / "new" / "thing", 10**15)


def test_a_second_process_is_told_who_holds_a_lock(tmp_path: Path) -> None:
    file = tmp_path / "locks" / "thing.lock"
    code = f"""
import sys
from rarec.artifacts import lock
with lock({str(file)!r}, "thing"):
    print("held", flush=True)
    sys.stdin.read()
"""
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(LockedError, match=rf"thing is being made by process {holder.pid} on"),
            lock(file, "thing"),
        ):
            pass
        # the lock of a killed process does not stay
        holder.kill()
    said: list[str] = []
    with lock(file, "thing", wait=True, say=said.append):
        pass
    assert said == []
