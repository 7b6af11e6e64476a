"""What the name of a language model means: a path, an asset, a name on the hub."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from rarec.backbone import content_sha256, load_backbone
from rarec.backbone.names import full_name, is_path, place_of

COMMIT = "0" * 40


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def hub(tmp_path, monkeypatch, offline, tiny_llm):
    """Return a function that puts a model into the cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(name: str, folder: Path = tiny_llm) -> Path:
        place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(COMMIT)
        return shutil.copytree(folder, place / "snapshots" / COMMIT)

    return put


@pytest.fixture
def other_llm(tiny_llm, tmp_path) -> Path:
    """Return a model with one layer less."""
    folder = shutil.copytree(tiny_llm, tmp_path / "other-llm")
    config = (folder / "config.json").read_text()
    one_layer = config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 1')
    assert one_layer != config
    (folder / "config.json").write_text(one_layer)
    return folder


def test_a_path_is_written_as_one(tmp_path):
    for name in (str(tmp_path), "./llm", "../llm", "~/llm", "~", ".", "..", "./a.gguf"):
        assert is_path(name), name
    for name in ("llm", "org/name", "models/llm", "llm.gguf", "", ".llm", "..llm", "C:/llm"):
        assert not is_path(name), name


def test_a_path_is_made_absolute_and_a_name_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert full_name("./llm") == full_name("././llm/") == str(tmp_path / "llm")
    assert full_name("~/llm") == str(tmp_path / "home" / "llm")
    assert full_name("org/name") == "org/name"
    # a user that is not there
    assert full_name("~no-such-user/llm") == str(tmp_path / "~no-such-user" / "llm")


def test_the_place_of_a_name(tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAREC_CACHE", str(tmp_path / "cache"))
    for name in ("./llm", "llm", "org/llm", "a b", "a/b/c", "smollm2-135m-instruct", ""):
        assert place_of(name) is None, name
    for folder in ("llm", "cache/smollm2-135m-instruct"):
        (tmp_path / folder).mkdir(parents=True)
    snapshot = hub("org/llm")
    assert place_of("./llm") == tmp_path / "llm"
    assert place_of("llm") is None
    assert place_of("org/llm") == snapshot
    assert place_of("org/llm", revision="other") is None
    assert place_of("smollm2-135m-instruct") == tmp_path / "cache" / "smollm2-135m-instruct"


def test_a_folder_is_taken_only_by_its_path(tiny_llm, tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_llm, tmp_path / "llm")
    backbone, _ = load_backbone("./llm", device="cpu")
    assert backbone.name == str(tmp_path / "llm")
    with pytest.raises(ValueError, match="no language model 'llm'") as caught:
        load_backbone("llm", device="cpu")
    assert "; a folder of this name is here: write './llm' for it" in str(caught.value)
    assert "\n" not in str(caught.value)
    (tmp_path / "a.gguf").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"; a file of this name is here: write '\./a\.gguf'"):
        load_backbone("a.gguf", device="cpu")
    with pytest.raises(ValueError, match="no language model 'nothing'") as caught:
        load_backbone("nothing", device="cpu")
    assert "is here" not in str(caught.value)


def test_a_path_with_nothing_there_is_no_hub_name(tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    hub("llm")
    with pytest.raises(ValueError, match=r"no language model '\./llm'.*nothing is at '/.*/llm'"):
        load_backbone("./llm", device="cpu")


def test_a_hub_name_is_the_hub_even_where_a_folder_has_it(
    tiny_llm, other_llm, tmp_path, monkeypatch, hub
):
    monkeypatch.chdir(tmp_path)
    snapshot = hub("org/llm", other_llm)
    for _ in range(2):
        backbone, tokenizer = load_backbone("org/llm", device="cpu")
        assert (backbone.name, backbone.n_layers) == ("org/llm", 1)
        assert backbone.sha256 == content_sha256(snapshot)
        assert tokenizer.pad_token == "[PAD]"
        # now a folder of this name is here, too
        shutil.copytree(tiny_llm, tmp_path / "org" / "llm", dirs_exist_ok=True)
    backbone, _ = load_backbone("./org/llm", device="cpu")
    assert backbone.n_layers == 2
    assert backbone.sha256 == content_sha256(tiny_llm)


@pytest.mark.parametrize(
    "name",
    ["[x]", "*?", "with space", 'it\'s "so"', "new\nline", "модель 模型", "-dash", "{0} %s", "~"],
)
def test_a_path_is_literal(tiny_llm, tmp_path, monkeypatch, offline, name):
    folder = shutil.copytree(tiny_llm, tmp_path / "at" / name)
    monkeypatch.chdir(tmp_path / "at")
    expected = content_sha256(tiny_llm)
    for given in (str(folder), f"./{name}"):
        backbone, _ = load_backbone(given, device="cpu")
        assert (backbone.name, backbone.sha256) == (str(folder), expected)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no language model") as caught:
        load_backbone(f"./{name}", device="cpu")
    assert "\n" not in str(caught.value)
