"""The hash of what a language model is made of, and the file that keeps the hashes of its files."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from rarec.backbone import content
from rarec.backbone.content import CACHE_FILE, content_sha256, model_files

HOUR = 3600


def age(path: Path, seconds: float = HOUR) -> None:
    """Make a file, or all files in a folder, look as if they had not changed for long."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            then = file.stat().st_mtime - seconds
            os.utime(file, (then, then))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Return the file of the kept hashes, in an empty cache folder."""
    monkeypatch.setenv("RAREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / CACHE_FILE


@pytest.fixture
def model(tiny_llm, tmp_path, cache) -> Path:
    folder = shutil.copytree(tiny_llm, tmp_path / "model")
    age(folder)
    return folder


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Return the names of the files that are read to compute their hash, filled as they are."""
    found: list[str] = []
    ordinary = content.sha256
    monkeypatch.setattr(content, "sha256", lambda path: found.append(path.name) or ordinary(path))
    return found


def test_the_hash_changes_with_each_file_that_the_model_is_made_of(model):
    before = content_sha256(model)
    assert before is not None
    assert len(before) == 64
    seen = {before}
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        file = model / name
        whole = file.read_bytes()
        file.write_bytes(whole + b" ")
        seen.add(str(content_sha256(model)))
        file.write_bytes(whole)
        assert content_sha256(model) == before
    assert len(seen) == 5
    # a file that was not there
    (model / "added_tokens.json").write_text("{}")
    assert content_sha256(model) not in seen


def test_the_hash_does_not_depend_on_the_place_or_on_other_files(model, tmp_path):
    before = content_sha256(model)
    for name in ("[x] *?", "with 'quotes' \"\n", "модель 模型", "-dash", "a" * 200):
        assert content_sha256(shutil.copytree(model, tmp_path / name)) == before
    (tmp_path / "link").symlink_to(model)
    assert content_sha256(tmp_path / "link") == before
    for name in ("README.md", "generation_config.json", "other.safetensors", "rust_model.bin"):
        (model / name).write_text("x")
    # the vocabulary again, which is not read beside tokenizer.json
    for name in ("vocab.txt", "merges.txt", "tokenizer.model.v3", "spiece.model"):
        (model / name).write_text("x")
    (model / "tokenizer").mkdir()
    assert content_sha256(model) == before


def test_only_the_weights_that_are_read_count(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert model_files(tmp_path) is None
    shards = {f"layer.{n}": f"pytorch_model-{n}.bin" for n in (1, 2)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": shards}))
    expected = {"config.json", "pytorch_model.bin.index.json", *shards.values()}
    found = model_files(tmp_path)
    assert found is not None
    assert found.keys() == expected
    # a shard is missing: the model is not whole
    (tmp_path / "pytorch_model-1.bin").write_text("1")
    assert content_sha256(tmp_path) is None
    (tmp_path / "pytorch_model-2.bin").write_text("2")
    assert content_sha256(tmp_path) is not None
    for first in ("pytorch_model.bin", "model.safetensors.index.json", "model.safetensors"):
        weights = {"weight_map": {"a": "b.safetensors"}, "metadata": {}}
        (tmp_path / first).write_text(json.dumps(weights))
        more = {"b.safetensors"} if first.endswith("json") else set()
        found = model_files(tmp_path)
        assert found is not None
        assert found.keys() == {"config.json", first, *more}
    (tmp_path / "mine.safetensors").write_text("x")
    (tmp_path / "config.json").write_text('{"transformers_weights": "mine.safetensors"}')
    found = model_files(tmp_path)
    assert found is not None
    assert found.keys() == {"config.json", "mine.safetensors"}


def test_without_a_whole_tokenizer_the_files_of_the_vocabulary_count(model):
    (model / "tokenizer.json").unlink()
    before = content_sha256(model)
    for name in ("vocab.txt", "merges.txt", "spiece.model", "qwen.tiktoken"):
        (model / name).write_text("x")
        after = content_sha256(model)
        assert after != before
        before = after


def test_a_gguf_file_counts_by_any_name_with_the_tokenizer_beside_it(tmp_path, cache):
    folder, other = tmp_path / "a", tmp_path / "b"
    for place, name in ((folder, "one.gguf"), (other, "two.gguf")):
        place.mkdir()
        (place / name).write_bytes(b"weights")
    before = content_sha256(folder)
    assert before is not None
    assert before == content_sha256(folder / "one.gguf") == content_sha256(other / "two.gguf")
    (other / "tokenizer_config.json").write_text("{}")
    assert content_sha256(other) != before
    # of two files only a path says which one
    (folder / "more.gguf").write_bytes(b"more")
    assert content_sha256(folder) is None
    assert content_sha256(folder / "one.gguf") == before


def test_what_is_no_model_has_no_hash(tmp_path, cache, model):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "none", tmp_path / "file", tmp_path):
        assert content_sha256(place) is None
    (model / "config.json").write_text("{")
    assert content_sha256(model) is None


def test_a_file_is_read_once(model, cache, read):
    before = content_sha256(model)
    files = model_files(model)
    assert files is not None
    assert sorted(read) == sorted(files)
    assert content_sha256(model) == before
    assert len(read) == len(files)
    # a link to it is the same file
    (model.parent / "link").symlink_to(model)
    assert content_sha256(model.parent / "link") == before
    assert len(read) == len(files)


def test_a_changed_file_is_read_again(model, cache, read):
    before = content_sha256(model)
    read.clear()
    # another time and the same content
    age(model / "model.safetensors", 60)
    assert content_sha256(model) == before
    assert read == ["model.safetensors"]
    # the same size and another content
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert content_sha256(model) != before
    assert read == ["model.safetensors"] * 2


def test_the_hash_of_a_file_that_has_just_changed_is_not_kept(model, cache, read):
    # it may change again without a new time
    (model / "config.json").touch()
    content_sha256(model)
    read.clear()
    content_sha256(model)
    assert read == ["config.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"/x": {}}',
        '{"/x": {"size": "1", "mtime_ns": 1, "sha256": "x"}}',
        "\x00\xff",
    ],
)
def test_a_damaged_file_of_hashes_is_replaced(model, cache, read, text):
    before = content_sha256(model)
    whole = json.loads(cache.read_text())
    cache.write_text(text)
    assert content_sha256(model) == before
    assert json.loads(cache.read_text()) == whole


def test_hashes_that_cannot_be_kept_are_computed(model, cache, monkeypatch):
    before = content_sha256(model)
    # a file is where the cache folder should be
    cache.unlink()
    cache.parent.rmdir()
    cache.parent.write_text("x")
    assert content_sha256(model) == before
    monkeypatch.setenv("RAREC_CACHE", "/proc/none")
    assert content_sha256(model) == before


def test_the_oldest_hashes_are_dropped(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(content, "_MOST_FILES", 4)
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_text("{}")
        age(folder)
        content_sha256(folder)
    kept = {Path(path).parent.name for path in json.loads(cache.read_text())}
    assert kept == {"1", "2"}


def _hash_many(folder: Path) -> list[str | None]:
    return [content_sha256(folder) for _ in range(20)]


def test_two_processes_at_once(model, cache, tmp_path):
    other = shutil.copytree(model, tmp_path / "other")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        one, two = pool.map(_hash_many, [model, other])
    assert set(one) == set(two) == {content_sha256(model)}
    assert json.loads(cache.read_text())
    assert [path.name for path in cache.parent.iterdir()] == [CACHE_FILE]
