from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rarec.artifacts import (
    read_config,
    write_config,
    write_file,
    write_folder,
    write_json,
    write_text,
)

FORMAT = "rarec.test/1"


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def write(path: Path, value: int) -> None:
    with write_folder(path) as folder:
        write_config(folder, FORMAT, {"value": value})
        (folder / f"content-{value}.txt").write_text("x")


def test_a_new_folder_appears_with_its_content_and_nothing_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "thing", 1)
    assert names(tmp_path / "deep") == ["thing"]
    assert names(tmp_path / "deep" / "thing") == ["config.json", "content-1.txt"]
    assert read_config(tmp_path / "deep" / "thing", FORMAT) == {"format": FORMAT, "value": 1}


def test_our_own_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write(tmp_path / "thing", 1)
    write(tmp_path / "thing", 2)
    assert names(tmp_path) == ["thing"]
    assert names(tmp_path / "thing") == ["config.json", "content-2.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "thing").mkdir()
    write(tmp_path / "thing", 1)
    assert read_config(tmp_path / "thing", FORMAT)["value"] == 1


def test_a_failing_block_leaves_the_old_folder_and_no_rest(tmp_path: Path) -> None:
    write(tmp_path / "thing", 1)

    def fail() -> None:
        with write_folder(tmp_path / "thing") as folder:
            (folder / "half").write_text("x")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert names(tmp_path) == ["thing"]
    assert read_config(tmp_path / "thing", FORMAT)["value"] == 1


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
        read_config(tmp_path / "absent", FORMAT)
    write(tmp_path / "thing", 1)
    with pytest.raises(ValueError, match=r"expected format 'rarec\.index/1'.*got 'rarec\.test/1'"):
        read_config(tmp_path / "thing", "rarec.index/1")
    (tmp_path / "thing" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="expected a JSON object"):
        read_config(tmp_path / "thing", FORMAT)


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
    with pytest.raises(UnicodeEncodeError):
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
    mine = tmp_path / f".rarec-tmp.{socket.gethostname()}.{os.getpid()}.0.other"
    mine.mkdir()
    elsewhere = tmp_path / ".rarec-tmp.another-host.1.0.other"
    elsewhere.mkdir()
    write(tmp_path / "thing", 1)
    # those of a running process and of another machine stay
    assert names(tmp_path) == sorted([mine.name, elsewhere.name, "thing"])
