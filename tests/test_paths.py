"""Names that a folder can have, and paths that are no UTF-8."""

import os
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from rarec.ids.checkpoint import Progress, read_checkpoint, write_checkpoint
from rarec.paths import require_folder_name, utf8_path


@pytest.mark.parametrize(
    "name", ["rarec", "A b", "[b]x *%s{y}?'\"", "日本", "-x", "a=b", "_", "x."]
)
def test_any_usual_text_is_a_name(name):
    assert require_folder_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", ".x", " x", "x ", "../x", "a/b", "a\\b", "a,b", "a:b", "a\nb", "a\x00"),
        *("a\u2028", "\udcff", "x" * 101, "日" * 34),
    ],
)
def test_a_name_that_is_no_single_folder_is_refused(name):
    with pytest.raises(ValueError, match="expected a name that a folder can have") as caught:
        require_folder_name(name)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow UTF-8 alone")
def test_libraries_read_files_whose_path_is_no_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    save_file({"a": torch.ones(2)}, folder / "a.safetensors")
    with utf8_path(folder / "a.safetensors") as path:
        assert load_file(path)["a"].tolist() == [1, 1]
    with utf8_path(folder) as path:
        assert [entry.name for entry in path.iterdir()] == ["a.safetensors"]
    with utf8_path("plain") as path:
        assert os.fspath(path) == "plain"

    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters())
    progress = Progress(epoch=3)
    write_checkpoint(folder / "x", {"a": 1}, model, optimizer, progress)
    assert read_checkpoint(folder / "x", {"a": 1}, model, optimizer).epoch == 3
