"""The steps of a run, called again: after a change, after a stop, by another way."""

import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from rarec.backbone import LanguageModel, content_sha256
from rarec.data import Dataset, read_dataset
from rarec.ids import GivenIDs
from rarec.pipeline import align as align_step
from rarec.pipeline import fit_ids as fit_step
from rarec.pipeline import weigh as weigh_step
from rarec.pipeline.title_vectors import title_vectors
from rarec.recommender import Recommender
from rarec.run import RunFolder, read_record
from rarec.settings import AlignSettings, IDSettings, SelectionSettings, TrainingSettings, variant

SELECTION = SelectionSettings(fraction=0.5)
IDS = IDSettings(text="", dim=8, max_history=10, batch_size=32, max_epochs=2)


def few_steps(llm, **changes) -> AlignSettings:
    training = TrainingSettings(max_steps=2, per_device_train_batch_size=16, save_steps=1)
    return variant(llm=str(llm), training=training, **changes)


def script(planted, llm, folder) -> Recommender:
    """Do what a script of a user does; it may be called again."""
    recommender = Recommender(planted, folder=folder)
    recommender.select(SELECTION)
    recommender.fit_ids(IDS)
    recommender.align(few_steps(llm))
    recommender.align(few_steps(llm).without_ids())
    recommender.evaluate(n_bootstrap=10)
    return recommender


def contents(folder) -> dict[str, object]:
    """Return each file of a run without what a clock or the memory says."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.startswith("locks/"):
            continue
        if path.suffix != ".json":
            found[name] = path.read_bytes()
            continue
        found[name] = without_times(json.loads(path.read_text()))
    return found


def without_times(values):
    # the size and the hash of a file change with the times that it reports
    reports = ("record.json", "results.json", "protocol.json", "files.json", "sha256", "hash")
    measured = ("seconds", "samples_per_second", "peak_rss_mb", "time", "command", *reports)
    if isinstance(values, dict):
        return {
            k: without_times(v) for k, v in values.items() if k.rpartition("/")[2] not in measured
        }
    return [without_times(v) for v in values] if isinstance(values, list) else values


@pytest.fixture(scope="module")
def made(planted, tiny_llm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "made"
    script(planted, tiny_llm, folder)
    return folder


def test_a_script_run_twice_changes_nothing(made, planted, tiny_llm, tmp_path):
    folder = shutil.copytree(made, tmp_path / "run")
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}
    script(planted, tiny_llm, folder)
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}
    assert after == before


def test_a_run_that_was_stopped_anywhere_ends_as_the_undisturbed_one(
    made, planted, tiny_llm, tmp_path
):
    # the files in the order of their making: a run stopped after each artifact
    for kept in (["samples"], ["samples", "ids"], ["samples", "ids", "models"]):
        folder = tmp_path / "-".join(kept)
        folder.mkdir()
        for name in ("run.json", "dataset", *kept):
            source = made / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
        # opened by `open` and by the constructor
        Recommender.open(folder).select(SELECTION)
        script(planted, tiny_llm, folder)
        assert contents(folder) == contents(made)


def test_other_samples_make_what_was_made_from_them_out_of_date(made, tiny_llm, tmp_path):
    recommender = Recommender.open(shutil.copytree(made, tmp_path / "run"))
    recommender.select(replace(SELECTION, order="random"))
    assert recommender.models == []
    with pytest.raises(ValueError, match="models/rarec is out of date"):
        recommender.recommend("u001", model="rarec")
    with pytest.raises(ValueError, match="ids/id/held-out is out of date"):
        recommender.align(few_steps(tiny_llm, name="other"))
    # the rows say what is there: the ID model of all samples needs none of them
    rows = [row["model"] for row in recommender.evaluate(n_bootstrap=0)["rows"]]
    assert rows == ["popularity", "id"]
    recommender.select(SELECTION)
    assert recommender.models == ["text", "rarec"]


def test_other_settings_are_refused_until_restart(made, tiny_llm, tmp_path):
    recommender = Recommender.open(shutil.copytree(made, tmp_path / "run"))
    with pytest.raises(ValueError, match=r"dim \(8, now 16\); restart"):
        recommender.fit_ids(replace(IDS, dim=16))
    with pytest.raises(ValueError, match=r"model\.prefix_length \(8, now 2\); restart"):
        recommender.align(
            replace(few_steps(tiny_llm), model=replace(AlignSettings().model, prefix_length=2))
        )
    with pytest.raises(ValueError, match="has the part 'held-out', which this call does not"):
        recommender.fit_ids(IDS, hold_out=False)
    vectors = GivenIDs(np.ones((40, 2), np.float32), np.ones(40, bool))
    with pytest.raises(ValueError, match="the same ID vectors as before; restart"):
        recommender.use_ids(vectors)
    assert recommender.models == ["text", "rarec"]
    recommender.use_ids(vectors, restart=True)
    # text reads no ID vectors, so it is as good as before
    assert recommender.models == ["text"]
    recommender.use_ids(vectors)
    with pytest.raises(ValueError, match="the ID vectors were imported; restart"):
        recommender.fit_ids(IDS)
    recommender.fit_ids(IDS, restart=True)
    assert recommender.models == ["text", "rarec"]


def test_a_new_model_has_a_new_weight(made, tiny_llm, tmp_path, monkeypatch):
    recommender = Recommender.open(shutil.copytree(made, tmp_path / "run"))
    before = recommender.weights("rarec")
    chosen = []
    ordinary = weigh_step.choose_weights
    monkeypatch.setattr(
        weigh_step, "choose_weights", lambda *given: chosen.append(1) or ordinary(*given)
    )
    assert recommender.weights("rarec") == before
    assert chosen == []
    recommender.align(few_steps(tiny_llm, seed=1), restart=True)
    assert chosen == [1]


def test_the_row_of_an_id_model_says_which_one_it_is(planted, tmp_path):
    held_out = Recommender(planted, folder=tmp_path / "held-out")
    held_out.fit_ids(IDS, all_samples=False)
    rows = held_out.evaluate(n_bootstrap=0)["rows"]
    assert [row["model"] for row in rows] == ["popularity", "id_held_out"]
    whole = Recommender(planted, folder=tmp_path / "all")
    whole.fit_ids(IDS, hold_out=False)
    rows = whole.evaluate(n_bootstrap=0)["rows"]
    assert [row["model"] for row in rows] == ["popularity", "id"]
    assert rows[1]["epochs"] == 2
    assert rows[1]["steps"] == 2 * 4  # 120 windows in batches of 32


def test_a_stop_between_the_two_parts_keeps_the_first(planted, tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path / "run", planted)
    recommender = Recommender.open(run.path)
    trained, epochs = [], []
    ordinary = fit_step.train_encoders

    def watched(*given, **options):
        (part,) = given[4]
        shown = options["on_epoch"]
        options["on_epoch"] = lambda *values: epochs.append(values) or shown(*values)
        if part == "all" and not trained.count("all"):
            trained.append(part)
            raise KeyboardInterrupt
        found = ordinary(*given, **options)
        trained.append((part, found[part][1].epochs))
        return found

    monkeypatch.setattr(fit_step, "train_encoders", watched)
    with pytest.raises(KeyboardInterrupt):
        recommender.fit_ids(IDS)
    # half an ID model is none
    assert run.id_parts() == []
    recommender.fit_ids(IDS)
    assert run.id_parts() == ["all", "held-out"]
    # the part that was finished is read from its checkpoint and not trained again
    assert trained == [("held-out", 2), "all", ("held-out", 2), ("all", 2)]
    assert len(epochs) == 2 + 2


def test_the_generators_of_the_caller_stay_as_they_were(planted, tiny_llm, tmp_path):
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    script(planted, tiny_llm, tmp_path / "run")
    assert torch.equal(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.rand(3), expected[1])


def with_new_items(planted: Dataset) -> Dataset:
    """Return the planted users and two items that each are the newest event of one user."""
    names = [planted.item_ids[item] for item in planted.histories.items]
    users = [planted.user_ids[user] for user in planted.histories.rows]
    times = np.arange(len(names)) - planted.histories.offsets[:-1][planted.histories.rows]
    rows = list(zip(users, names, times.tolist(), strict=True))
    rows += [("u000", "titled", 99), ("u001", "untitled", 99)]
    titles = [*planted.titles, "red storm", ""]
    return read_dataset(
        pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"),
        pl.DataFrame({"item_id": [*planted.item_ids, "titled", "untitled"], "title": titles}),
    )


def test_an_id_model_that_reads_titles_knows_items_without_events(planted, tiny_llm, tmp_path):
    dataset = with_new_items(planted)
    titled, untitled = (dataset.item_number(name) for name in ("titled", "untitled"))
    recommender = Recommender(dataset, folder=tmp_path / "run")
    recommender.fit_ids(replace(IDS, text=str(tiny_llm)))
    ids = recommender.members.ids("held-out")
    # the item has no training event, but a title
    assert ids.item_known[titled]
    assert ids.item_vectors[titled].any()
    assert not ids.item_known[untitled]
    assert not ids.item_vectors[untitled].any()
    vectors = title_vectors(dataset, str(tiny_llm), recommender.session)
    assert vectors.shape == (42, 32)
    assert sorted(np.flatnonzero(~vectors.any(axis=1))) == sorted(
        [dataset.item_number("i00"), untitled]
    )
    same = [i for i, title in enumerate(dataset.titles) if title == "red storm"]
    np.testing.assert_allclose(vectors[same], vectors[[titled] * len(same)], atol=1e-4)
    again = Recommender.open(tmp_path / "run")
    for part in ("held-out", "all"):
        np.testing.assert_array_equal(
            recommender.members.ids(part).item_vectors, again.members.ids(part).item_vectors
        )


def test_titles_are_asked_for_before_any_work(planted, tiny_llm):
    bare = replace(planted, titles=[""] * planted.n_items)
    with pytest.raises(ValueError, match="expected titles"):
        Recommender(bare).fit_ids(replace(IDS, text=str(tiny_llm)))
    # they are read by default
    with pytest.raises(ValueError, match="expected titles"):
        Recommender(bare).fit_ids()


def other_weights(folder):
    """Change one tensor of a language model a little."""
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] = weights["embeddings.LayerNorm.bias"] + 0.1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def places(tiny_llm, tmp_path):
    """Return two folders, each with a folder `llm`: two language models of one name."""
    found = tmp_path / "here", tmp_path / "there"
    for place in found:
        shutil.copytree(tiny_llm, place / "llm")
    other_weights(found[1] / "llm")
    return found


def test_another_language_model_of_the_same_name_is_refused(planted, places, tmp_path, monkeypatch):
    here, there = places
    reads = replace(IDS, text="./llm")
    monkeypatch.chdir(here)
    first = Recommender(planted, folder=tmp_path / "run")
    first.select(SELECTION)
    first.fit_ids(reads, all_samples=False)
    first.align(few_steps("./llm"))
    contents = [content_sha256(place / "llm") for place in places]
    for address, role in (("ids/id/held-out", "text"), ("models/rarec", "llm")):
        record = read_record(first.run.folder(address))
        assert record is not None
        assert record.language_models == {role: contents[0]}
        assert record.settings[role] == str(here / "llm")
    expected = first.recommend("u001")

    monkeypatch.chdir(there)
    said: list[str] = []
    again = Recommender.open(tmp_path / "run", say=said.append)
    # it finds its own language model
    assert again.recommend("u001") == expected
    message = r"content of {} '.*/there/llm' \({:.12}…, now {:.12}…\); restart \(--restart\)"
    with pytest.raises(ValueError, match=message.format("text", *contents)):
        again.fit_ids(reads, all_samples=False)
    with pytest.raises(ValueError, match=message.format("llm", *contents)):
        again.align(few_steps("./llm"))
    # the same content by any name is the same language model
    for name in (str(here / "llm"), "../here/llm", "./copy"):
        if name == "./copy":
            shutil.copytree(here / "llm", there / "copy")
        said.clear()
        again.fit_ids(replace(IDS, text=name), all_samples=False)
        again.align(few_steps(name))
        assert said == ["ids/id is there already", "models/rarec is there already"]
    again.align(few_steps("./llm"), restart=True)
    record = read_record(again.run.folder("models/rarec"))
    assert record is not None
    assert record.language_models == {"llm": contents[1]}


def test_a_language_model_that_has_changed_is_not_used(planted, places, tmp_path):
    llm = places[0] / "llm"
    recommender = Recommender(planted, folder=tmp_path / "run")
    recommender.select(SELECTION)
    recommender.fit_ids(IDS, all_samples=False)
    recommender.align(few_steps(llm))
    other_weights(llm)
    with pytest.raises(ValueError, match=r"models/rarec: expected the language model '.*/here/llm"):
        Recommender.open(tmp_path / "run").recommend("u001")
    # nor by the process that has the earlier one in memory
    with pytest.raises(ValueError, match="models/rarec was made with other settings: content of"):
        recommender.align(few_steps(llm))
    recommender.align(few_steps(llm), restart=True)
    other, _ = recommender.session.language_model(LanguageModel(str(llm)))
    assert other.sha256 == content_sha256(llm)
    # without the folder the model stands for itself
    shutil.rmtree(llm)
    recommender.align(few_steps(llm))
    with pytest.raises(ValueError, match=r"models/rarec: no language model '.*nothing is at"):
        Recommender.open(tmp_path / "run").recommend("u001")


def test_a_stopped_training_goes_on_with_the_same_language_model_alone(
    planted, places, tmp_path, monkeypatch
):
    here, there = places
    monkeypatch.chdir(here)
    recommender = Recommender(planted, folder=tmp_path / "run")
    recommender.select(SELECTION)
    recommender.fit_ids(IDS, all_samples=False)
    # a name that is not found leaves nothing that is in the way of the right one
    with pytest.raises(ValueError, match=r"write '\./llm' for it"):
        recommender.align(few_steps("llm"))
    with monkeypatch.context() as patch:
        patch.setattr(align_step, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            recommender.align(few_steps("./llm"))
    monkeypatch.chdir(there)
    with pytest.raises(ValueError, match=r"got those of one with other .*content of llm"):
        recommender.align(few_steps("./llm"))
    shutil.copytree(here / "llm", there / "copy")
    recommender.align(few_steps("./copy"))


def test_a_stopped_id_training_goes_on_with_the_same_language_model_alone(
    planted, places, tmp_path, monkeypatch
):
    here, there = places
    monkeypatch.chdir(here)
    recommender = Recommender(planted, folder=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(fit_step, "TrainedIDs", stopped)
        with pytest.raises(KeyboardInterrupt):
            recommender.fit_ids(replace(IDS, text="./llm"), all_samples=False)
    monkeypatch.chdir(there)
    with pytest.raises(ValueError, match=r"checkpoint of another training \(different: text\)"):
        recommender.fit_ids(replace(IDS, text="./llm"), all_samples=False)
    recommender.fit_ids(replace(IDS, text="../here/llm"), all_samples=False)


def stopped(*given, **options):
    raise KeyboardInterrupt
