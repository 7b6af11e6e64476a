"""The whole path on a planted catalogue, and on real data where it is there."""

import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rarec.backbone import LanguageModel
from rarec.data import Histories, read_dataset
from rarec.evaluation import read_ranks, summarise
from rarec.ids import GivenIDs, IDConfig
from rarec.model import ModelConfig, RARec
from rarec.prompts import PromptConfig
from rarec.recommender import (
    AlignConfig,
    Recommender,
    SplitConfig,
    alignment,
    fusion,
    recipe,
    storage,
)
from rarec.recommender.shelf import Shelf
from rarec.selection import SelectionConfig
from rarec.training import LossConfig

SELECTION = SelectionConfig(fraction=0.5)
IDS = IDConfig(dim=16, max_history=10, batch_size=32, max_epochs=40, patience=40, dropout=0.1)


def small(llm, **changes):
    training = {"max_steps": 30, "per_device_train_batch_size": 32, "learning_rate": 1e-2}
    return AlignConfig(llm=str(llm), training={**training, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory, planted, tiny_llm):
    """Return a run folder with everything fitted."""
    folder = tmp_path_factory.mktemp("runs") / "planted"
    recommender = Recommender(planted, folder=folder)
    recommender.select(SELECTION)
    recommender.fit_ids(IDS)
    recommender.align(small(tiny_llm))
    recommender.align(small(tiny_llm).without_ids())
    recommender.evaluate(n_bootstrap=50)
    return folder


def test_planted_tastes_are_learnt(run):
    results = json.loads((run / "results.json").read_text())
    rows = {row["model"]: row for row in results["rows"]}
    assert list(rows) == [
        "popularity",
        "id",
        "id_held_out",
        "text",
        "late_fusion",
        "rarec",
        "rarec+id",
    ]
    # 40 items, half of them of the right taste, 9 seen: 11 of 31 are left, chance is about 0.32
    assert rows["popularity"]["hr@10"] < 0.6
    for name in ("id", "id_held_out", "rarec"):
        assert rows[name]["hr@10"] > 0.75, name
    low, high = rows["rarec"]["hr@10_ci"]
    assert low <= rows["rarec"]["hr@10"] <= high
    assert rows["rarec"]["samples"] == 420  # half of 120 users x 7 samples
    assert rows["rarec"]["trainable_parameters"] > rows["text"]["trainable_parameters"]
    assert rows["rarec"]["seconds"] > 0
    assert rows["rarec"]["peak_rss_mb"] > 10
    pairs = [(pair["a"], pair["b"], pair["metric"]) for pair in results["paired"]]
    assert len(set(pairs)) == len(pairs) == 3 * (6 + 5)
    assert ("rarec", "text", "hr@100") in pairs
    assert ("rarec+id", "id", "ndcg@10") in pairs
    assert ("rarec+id", "late_fusion", "hr@100") in pairs


def test_protocol_says_how_the_numbers_were_made(run, planted):
    protocol = json.loads((run / "protocol.json").read_text())
    assert protocol["data_hash"] == planted.content_hash
    assert "last event of a user: test" in protocol["split"]
    assert protocol["ties"] == "average"
    assert protocol["seeds"] == {"selection": 0, "ids": 0, "rarec": 0, "text": 0}
    assert protocol["configs"]["rarec"]["model"]["similarity"] == "cosine"
    assert set(protocol["versions"]) >= {"python", "rarec", "torch", "transformers"}
    assert protocol["cases"] == 120
    assert 0 <= protocol["id_model_memory"]["tuning_hr@10"] <= 1


def test_a_loaded_run_gives_the_same_answers(run):
    first, second = Recommender.load(run), Recommender.load(run)
    questions: list[dict[str, Any]] = [
        {"user": "u003"},
        {"items": ["i02", "i04"]},
        {"titles": ["Red Wolf"]},
        {},
    ]
    for question in questions:
        found = first.recommend(**question, k=5)
        assert len(found) == 5
        assert found == second.recommend(**question, k=5)
    stored = json.loads((run / "results.json").read_text())
    again = second.evaluate(n_bootstrap=50)
    for before, after in zip(stored["rows"], again["rows"], strict=True):
        assert {k: v for k, v in before.items() if k != "peak_rss_mb"} == {
            k: v for k, v in after.items() if k != "peak_rss_mb"
        }


def test_recommendations_fit_the_taste_and_leave_out_the_seen(run):
    recommender = Recommender.load(run)
    dataset = recommender.dataset
    right = 0
    for number in range(20):
        user = dataset.user_ids[number]
        found = recommender.recommend(user, k=5)
        seen = {dataset.item_ids[item] for item in dataset.histories[number]}
        assert not seen & {item.item_id for item in found}
        right += sum(int(item.item_id[1:]) % 2 == number % 2 for item in found)
    assert right > 75
    seen = dataset.item_ids[dataset.histories[0][0]]
    everything = recommender.recommend("u000", k=40, exclude_seen=False)
    assert seen in {item.item_id for item in everything}


def test_histories_may_be_titles_known_or_not(run):
    recommender = Recommender.load(run)
    known = recommender.recommend(titles=["RED WOLF"], k=40)
    # a title of the catalogue counts as seen, and brings an ID vector along
    numbers = [i for i, title in enumerate(recommender.dataset.titles) if title == "red wolf"]
    first = recommender.dataset.item_ids[numbers[0]]
    assert first not in {item.item_id for item in known}
    unknown = recommender.recommend(titles=["a stone nobody has"], k=40)
    assert len(unknown) == 40


def test_an_answer_is_fused_with_the_id_model_or_the_models_own(run):
    recommender = Recommender.load(run)
    dataset, number = recommender.dataset, 7
    history, users = dataset.histories.take([number]), np.array([number], np.int32)
    model, ids = recommender.models["rarec"], recommender.baseline
    assert ids is not None
    own = model.queries(model.user_entities(history, users)) @ recommender.item_vectors("rarec").T
    by_id = ids.user_vectors(history, users)[0][0] @ ids.item_vectors.T
    weight = recommender.fusion_weight("rarec")
    assert weight > 0
    for fused, scores in ((False, own[0]), (True, own[0] + weight * by_id.max(axis=0))):
        found = recommender.recommend("u007", k=40, fused=fused)
        expected = {dataset.item_ids[item]: score for item, score in enumerate(scores)}
        for item in found:
            assert item.score == pytest.approx(expected[item.item_id], rel=1e-4, abs=1e-4)
        assert [item.score for item in found] == sorted((i.score for i in found), reverse=True)
    # chosen once, and what the tables say
    assert json.loads((run / "config.json").read_text())["weights"]["rarec"] == weight
    rows = json.loads((run / "results.json").read_text())["rows"]
    assert [row["weight"] for row in rows if row["model"] == "rarec+id"] == [weight]


def test_a_weight_is_chosen_on_few_of_many_cases(run, monkeypatch):
    recommender = Recommender.load(run)
    monkeypatch.setattr(fusion, "MOST_CASES", 9)
    some = fusion.late_fusion(recommender).validation
    assert len(some) == 9
    assert (np.diff(some.users) > 0).all()
    ids = recommender.ids
    assert ids is not None
    # nothing to choose on
    none = fusion.LateFusion(ids, some.take(np.array([], np.int64)))
    assert none.weight(lambda _: pytest.fail("asked for scores")) == 0


def test_new_items_are_found_by_their_text(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    Recommender.load(folder).add_items({"new": "blue storm", "other": "red river"})
    recommender = Recommender.load(folder)
    found = {item.item_id: item for item in recommender.recommend("u001", k=42)}
    assert found["new"].title == "blue storm"
    with pytest.raises(ValueError, match="new"):
        recommender.add_items({"new": "again"})


def test_items_without_interactions_have_no_id_vector_and_are_ranked(planted, tiny_llm):
    titles = {f"i{item:02}": title for item, title in enumerate(planted.titles)}
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    known = np.ones(40, dtype=bool)
    known[[3, 5]] = False
    recommender = Recommender(planted)
    recommender.select(SELECTION)
    recommender.use_ids(GivenIDs(vectors, known))
    recommender.align(small(tiny_llm, max_steps=3))
    everything = recommender.recommend("u001", k=40, exclude_seen=False)
    assert {item.item_id for item in everything} == set(titles)
    assert all(np.isfinite(item.score) for item in everything)


def test_steps_out_of_order_and_bad_questions_say_so(planted, tiny_llm, run):
    recommender = Recommender(planted)
    with pytest.raises(ValueError, match="ID embeddings first"):
        recommender.align(small(tiny_llm))
    with pytest.raises(ValueError, match="fitted ID embeddings"):
        recommender.evaluate()
    with pytest.raises(ValueError, match="call align"):
        recommender.recommend("u001")
    fitted = Recommender.load(run)
    with pytest.raises(ValueError, match="'nobody'"):
        fitted.recommend("nobody")
    with pytest.raises(ValueError, match="'i99'"):
        fitted.recommend(items=["i99"])
    with pytest.raises(ValueError, match="expected one of user, items and titles"):
        fitted.recommend("u001", items=["i01"])
    with pytest.raises(ValueError, match="part"):
        fitted.evaluate("train")
    with pytest.raises(ValueError, match="vectors of 40 items"):
        fitted.use_ids(GivenIDs(np.zeros((3, 2), np.float32), np.ones(3, bool)))


def test_what_is_out_of_date_is_removed_and_said(planted, tiny_llm, tmp_path, caplog):
    folder = tmp_path / "run"
    recommender = Recommender(planted, folder=folder)
    recommender.select(SELECTION)
    recommender.fit_ids(replace(IDS, max_epochs=1))
    recommender.align(small(tiny_llm, max_steps=2))
    recommender.select(SELECTION)  # the same samples: nothing changes
    assert (folder / "models" / "rarec" / "index").is_dir()
    recommender.fit_ids(replace(IDS, max_epochs=1, seed=3), baseline=False)
    assert "out of date: baseline, rarec" in caplog.text
    assert not any((folder / part).exists() for part in ("baseline", "models"))
    assert not recommender.models
    assert not recommender.indexes
    with pytest.raises(ValueError, match="call align"):
        Recommender.load(folder).recommend("u001")
    recommender.select(replace(SELECTION, seed=4))
    assert recommender.ids is None
    assert not (folder / "ids").exists()


def test_without_titles_alignment_is_refused(planted, tiny_llm):
    bare = replace(planted, titles=[""] * planted.n_items)
    recommender = Recommender(bare)
    recommender.use_ids(GivenIDs(np.ones((40, 2), np.float32), np.ones(40, bool)))
    with pytest.raises(ValueError, match="expected titles"):
        recommender.align(small(tiny_llm))


def test_a_folder_of_something_else_is_not_touched(planted, run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="new folder or a run"):
        Recommender(planted, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match="same split"):
        Recommender(planted, split=SplitConfig(min_history=2), folder=run)
    with pytest.raises(ValueError, match="split to be one of"):
        SplitConfig(kind="random")


def test_a_stopped_alignment_goes_on_and_ends_the_same(planted, tiny_llm, tmp_path):
    class StoppedError(Exception):
        pass

    def fitted(folder):
        recommender = Recommender(planted, folder=folder)
        recommender.select(SELECTION)
        recommender.fit_ids(replace(IDS, max_epochs=2), baseline=False)
        return recommender

    config = small(tiny_llm, max_steps=6, save_steps=2)
    whole = fitted(tmp_path / "whole")
    whole.align(config)

    stopped = fitted(tmp_path / "stopped")
    from rarec.training import trainer

    ordinary = trainer.RARecTrainer.compute_loss

    def interrupted(self, *args, **keywords):
        if self.state.global_step == 4:
            raise StoppedError
        return ordinary(self, *args, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.RARecTrainer, "compute_loss", interrupted)
        with pytest.raises(StoppedError):
            stopped.align(config)
    with pytest.raises(ValueError, match="other config"):
        Recommender.load(tmp_path / "stopped").align(small(tiny_llm, max_steps=7, save_steps=2))
    again = Recommender.load(tmp_path / "stopped")
    report = again.align(config)
    assert report.steps == 6
    np.testing.assert_array_equal(again.item_vectors("rarec"), whole.item_vectors("rarec"))


def test_the_papers_recipe_runs(planted, tiny_llm, tmp_path, monkeypatch):
    monkeypatch.setenv("RAREC_CACHE", str(tmp_path))
    config = recipe("paper", llm=str(tiny_llm), training=small(tiny_llm).training)
    assert config.loss.prediction == "bpr"
    assert config.loss.alignment > 0
    assert config.model.similarity == "dot"
    recommender = Recommender(planted)
    recommender.select(SELECTION)
    recommender.fit_ids(IDS, baseline=False)
    recommender.align(config)
    rows = {row["model"]: row for row in recommender.evaluate(n_bootstrap=0)["rows"]}
    assert rows["paper"]["hr@10"] > 0.5
    assert list((tmp_path / "text-states").iterdir())
    with pytest.raises(ValueError, match="preset"):
        recipe("best")


def test_comirec_time_split_and_all_parts_of_the_loss_run_together(planted, tiny_llm, monkeypatch):
    given = []
    ordinary = alignment.train
    monkeypatch.setattr(
        alignment,
        "train",
        lambda *inputs, **options: given.append((inputs, options)) or ordinary(*inputs, **options),
    )
    ids = replace(IDS, model="comirec", options={"n_interests": 3}, negatives=8, max_epochs=3)
    config = replace(
        small(tiny_llm, max_steps=3),
        loss=LossConfig(
            extra_negatives=2, hard_negatives=2, hard_pool=8, distillation=0.5, chunk_size=16
        ),
        model=ModelConfig(prefix_length=2),
        prompts=PromptConfig(n_titles=2),
        average_decay=0.9,
    )
    recommender = Recommender(planted, split=SplitConfig(kind="time"))
    recommender.select(SELECTION)
    recommender.fit_ids(ids, baseline=False)
    recommender.align(config)
    results = recommender.evaluate(n_bootstrap=10)
    assert [row["model"] for row in results["rows"]] == ["popularity", "id", "rarec", "rarec+id"]
    assert recommender.ids is not None
    assert recommender.ids.user_vectors(Histories.from_lists([[1], []]))[0].shape == (2, 3, 16)
    (_, data, _, loss), options = given[0]
    assert options["average_decay"] == 0.9
    assert loss == config.loss
    assert data.hard.pools.shape == (len(data), 8)
    assert data.hard.n == 2
    assert data.id_scores.queries.shape == (len(data), 3, 16)


@pytest.mark.slow
def test_real_data_from_files_to_recommendations(shared_data, tiny_llm, tmp_path):
    dataset = read_dataset(shared_data / "movietweetings-100k")
    recommender = Recommender(dataset, folder=tmp_path / "run")
    report = recommender.select(SelectionConfig(fraction=0.02))
    assert report.n_selected <= 0.02 * report.n_samples
    recommender.fit_ids(replace(IDS, max_epochs=1, negatives=16), baseline=False)
    recommender.align(small(tiny_llm, max_steps=3))
    results = recommender.evaluate(n_bootstrap=10)
    rows = {row["model"]: row for row in results["rows"]}
    # one epoch and three steps: nobody should be good, everybody should be there
    assert 0 <= rows["rarec"]["hr@100"] <= 1
    assert results["protocol"]["items"] == 10506
    # ids keep their leading zeros all the way
    assert all(len(item.item_id) == 7 for item in recommender.recommend("1", k=5))


def test_rivals_stand_beside_each_other_and_leave_each_other_alone(planted, tiny_llm, tmp_path):
    recommender = Recommender(planted, folder=tmp_path / "run")
    recommender.select(SELECTION)
    recommender.fit_ids(replace(IDS, max_epochs=3), baseline=False)
    budget = small(tiny_llm, max_steps=4).training
    recommender.align(recipe("default", llm=str(tiny_llm), training=budget))
    before = recommender.recommend("u003", k=5)
    for name in ("inputs", "lora", "full"):
        recommender.align(recipe(name, llm=str(tiny_llm), training=budget))
    assert recommender.models["rarec"].model.backbone is recommender.models["inputs"].model.backbone
    assert recommender.recommend("u003", k=5) == before

    again = Recommender.load(tmp_path / "run")
    assert list(again.models) == ["full", "inputs", "lora", "rarec"]
    assert again.recommend("u003", k=5) == before
    for name in again.models:
        found = again.recommend("u003", k=5, model=name)
        assert found == recommender.recommend("u003", k=5, model=name)
    results = again.evaluate(n_bootstrap=0)
    names = [row["model"] for row in results["rows"]]
    assert names == [
        *("popularity", "id", "rarec", "rarec+id", "inputs", "inputs+id"),
        *("lora", "lora+id", "full", "full+id"),
    ]
    rows = {row["model"]: row for row in results["rows"]}
    assert rows["full"]["adapter_bytes"] > rows["lora"]["adapter_bytes"] > 0
    assert rows["lora"]["samples_per_second"] > 0
    assert rows["lora"]["peak_rss_mb"] > 10
    # ranks are kept: what was written gives the same numbers
    ranks, part = read_ranks(tmp_path / "run")
    assert part == "test"
    assert summarise(ranks["lora"], n_bootstrap=0)["hr@10"] == rows["lora"]["hr@10"]
    alone = again.evaluate(n_bootstrap=0, models=["lora"])
    assert [row["model"] for row in alone["rows"]] == ["popularity", "id", "lora", "lora+id"]
    with pytest.raises(ValueError, match=r"models of .*got \['best'\]"):
        again.evaluate(models=["best"])
    with pytest.raises(ValueError, match="model to be one of"):
        again.recommend("u003", model="best")


def test_recipes_that_cannot_be_are_refused(tiny_llm):
    with pytest.raises(ValueError, match="label of small letters"):
        AlignConfig(label="../elsewhere")
    with pytest.raises(ValueError, match="no other row's name, got 'id'"):
        AlignConfig(label="id")
    with pytest.raises(ValueError, match=r"no alignment loss with tune='lora'.*0\.1"):
        replace(recipe("lora"), loss=LossConfig(alignment=0.1))
    assert {one.name for one in (recipe(), recipe("text"), recipe("paper"))} == {
        "rarec",
        "text",
        "paper",
    }


@pytest.mark.parametrize(("bits", "package"), [("8bit", "torchao"), ("4bit", "bitsandbytes")])
def test_the_bits_of_the_language_model_are_kept(run, tiny_llm, tmp_path, bits, package):
    pytest.importorskip(package)
    shutil.copytree(run, tmp_path / "run")
    recommender = Recommender.load(tmp_path / "run")
    config = replace(
        small(tiny_llm, max_steps=3), quantization=bits, loss=LossConfig(alignment=0.1)
    )
    recommender.align(config)
    before = recommender.recommend("u000", k=3)
    again = Recommender.load(tmp_path / "run")
    assert again.models["rarec"].model.backbone.quantization == bits
    assert [found.item_id for found in again.recommend("u000", k=3)] == [
        found.item_id for found in before
    ]
    folder = next((tmp_path / "run").rglob("adapter.safetensors")).parents[1] / "rarec"
    whole = recommender.language_model(LanguageModel(str(tiny_llm)))[0]
    with pytest.raises(ValueError, match=f"a backbone with quantization {bits}, got None"):
        RARec.from_pretrained(folder, backbone=whole)
    assert RARec.from_pretrained(folder).backbone.quantization == bits
    with pytest.raises(ValueError, match=f"weights as they are to train some, got {bits}"):
        again.models["rarec"].model.backbone.train_weights("full")


def test_weights_in_few_bits_are_not_tuned():
    with pytest.raises(ValueError, match=r"one of .* or None, got '2bit'"):
        AlignConfig(quantization="2bit")
    pytest.importorskip("torchao")
    with pytest.raises(ValueError, match="no quantization with tune='full', got '8bit'"):
        AlignConfig(quantization="8bit", model=ModelConfig(tune="full"))


def checkpoints_layers(backbone):
    modules = backbone.model.modules()
    return any(getattr(module, "gradient_checkpointing", False) for module in modules)


def test_weights_in_half_precision_and_less_memory_go_all_the_way(planted, tiny_llm, tmp_path):
    recommender = Recommender(planted, folder=tmp_path / "run")
    recommender.select(SELECTION)
    recommender.fit_ids(replace(IDS, max_epochs=2), baseline=False)
    config = replace(small(tiny_llm, max_steps=3), dtype="bfloat16", checkpoint_layers=True)
    recommender.align(config)
    trained = recommender.models["rarec"].model
    assert trained.backbone.dtype == torch.bfloat16
    assert trained.user.prefix.dtype == torch.float32
    assert checkpoints_layers(trained.backbone)
    # one that is changed is nobody else's
    other = recommender.language_model(LanguageModel(str(tiny_llm), dtype="bfloat16"))[0]
    assert not checkpoints_layers(other)
    again = Recommender.load(tmp_path / "run")
    assert again.models["rarec"].model.backbone.dtype == torch.bfloat16
    assert len(again.recommend("u000", k=3)) == 3
    with pytest.raises(ValueError, match=r"dtype to be one of .*'int8'"):
        AlignConfig(dtype="int8")
    with pytest.raises(ValueError, match="'float32' with tune='full'"):
        AlignConfig(dtype="bfloat16", model=ModelConfig(tune="full"))


def test_vectors_before_the_text_take_positions_too(planted, tiny_llm):
    recommender = Recommender(planted)
    recommender.select(SELECTION)
    recommender.use_ids(GivenIDs(np.ones((40, 2), np.float32), np.ones(40, bool)))
    # the tiny model has 64 positions: one for the ID vector, some for the text
    prompts = PromptConfig(item="{title}" + " a" * 50)
    config = replace(small(tiny_llm, max_steps=1), prompts=prompts)
    recommender.align(replace(config, model=ModelConfig(placement="inputs", prefix_length=2)))
    with pytest.raises(ValueError, match=r"at most 64 tokens .* got 75"):
        recommender.align(replace(config, model=ModelConfig(placement="inputs", prefix_length=20)))


def test_what_lies_on_disk_is_read_when_asked_for_and_not_before():
    read: list[str] = []
    shelf: Shelf[int] = Shelf(lambda name: len(read.append(name) or name))
    shelf.announce("one")
    shelf.announce("three")
    shelf["own"] = 7
    assert "one" in shelf
    assert "two" not in shelf
    assert list(shelf) == ["one", "three", "own"]
    del shelf["one"]
    assert read == []
    assert (shelf["three"], shelf["three"], shelf["own"]) == (5, 5, 7)
    assert read == ["three"]
    with pytest.raises(KeyError):
        shelf["one"]


def test_models_are_forgotten_without_being_read(run, tmp_path, monkeypatch):
    recommender = Recommender.load(shutil.copytree(run, tmp_path / "run"))
    monkeypatch.setattr(storage, "read_model", lambda *_: pytest.fail("a model was read"))
    recommender.use_ids(GivenIDs(np.ones((40, 2), np.float32), np.ones(40, bool)))
    assert not recommender.models
    assert not (tmp_path / "run" / "models").exists()


def test_an_index_that_was_not_finished_is_made_when_it_is_asked_for(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    expected = Recommender.load(folder).recommend("u003", k=5)
    shutil.rmtree(folder / "models" / "rarec" / "index")
    assert Recommender.load(folder).recommend("u003", k=5) == expected
    assert (folder / "models" / "rarec" / "index").is_dir()
