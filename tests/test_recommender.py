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
from rarec.ids import GivenIDs
from rarec.model import RARec
from rarec.pipeline import align as align_step
from rarec.recommender import Recommender
from rarec.settings import (
    AlignSettings,
    IDSettings,
    LossSettings,
    ModelSettings,
    PromptSettings,
    SelectionSettings,
    SplitSettings,
    TrainingSettings,
    variant,
)

SELECTION = SelectionSettings(fraction=0.5)
IDS = IDSettings(
    text="", dim=16, max_history=10, batch_size=32, max_epochs=40, patience=40, dropout=0.1
)


def small(llm, **changes):
    training = {"max_steps": 30, "per_device_train_batch_size": 32, "learning_rate": 1e-2}
    return AlignSettings(llm=str(llm), training=TrainingSettings(**{**training, **changes}))


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


def results_of(run):
    return json.loads((run / "results" / "test" / "results.json").read_text())


def test_planted_tastes_are_learnt(run):
    results = results_of(run)
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
    protocol = results_of(run)["protocol"]
    assert protocol["data_hash"] == planted.content_hash
    assert "last event of a user: test" in protocol["split"]
    assert protocol["ties"] == "average"
    assert protocol["seeds"] == {"selection": 0, "ids": 0, "rarec": 0, "text": 0}
    assert protocol["settings"]["rarec"]["model"]["similarity"] == "cosine"
    assert set(protocol["versions"]) >= {"python", "rarec", "torch", "transformers"}
    assert protocol["cases"] == 120
    assert 0 <= protocol["id_model_memory"]["tuning_hr@10"] <= 1


def test_an_opened_run_gives_the_same_answers(run):
    first, second = Recommender.open(run), Recommender.open(run)
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
    # other intervals are computed anew on request, and all else is the same
    with pytest.raises(ValueError, match=r"n_bootstrap \(50, now 20\); restart"):
        second.evaluate(n_bootstrap=20)
    again = second.evaluate(n_bootstrap=20, restart=True)
    for before, after in zip(results_of(run)["rows"], again["rows"], strict=True):
        assert before["ndcg@10"] == after["ndcg@10"]
    assert second.evaluate(n_bootstrap=50, restart=True)["rows"][0]["hr@10_ci"]


def test_recommendations_fit_the_taste_and_leave_out_the_seen(run):
    recommender = Recommender.open(run)
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
    recommender = Recommender.open(run)
    known = recommender.recommend(titles=["RED WOLF"], k=40)
    # a title of the catalogue counts as seen, and brings an ID vector along
    numbers = [i for i, title in enumerate(recommender.dataset.titles) if title == "red wolf"]
    first = recommender.dataset.item_ids[numbers[0]]
    assert first not in {item.item_id for item in known}
    unknown = recommender.recommend(titles=["a stone nobody has"], k=40)
    assert len(unknown) == 40


def test_an_answer_is_fused_with_the_id_model_or_from_the_model_alone(run):
    recommender = Recommender.open(run)
    dataset, number = recommender.dataset, 7
    history, users = dataset.histories.take([number]), np.array([number], np.int32)
    model, ids = recommender.model("rarec"), recommender.members.ids("all")
    alone = model.queries(model.user_entities(history, users)) @ recommender.item_vectors("rarec").T
    by_id = ids.user_vectors(history, users)[0][0] @ ids.item_vectors.T
    weights = recommender.weights("rarec")
    assert weights["rarec"] == 1
    assert weights["id"] > 0
    for fused, scores in ((False, alone[0]), (True, alone[0] + weights["id"] * by_id.max(axis=0))):
        found = recommender.recommend("u007", k=40, fused=fused)
        expected = {dataset.item_ids[item]: score for item, score in enumerate(scores)}
        for item in found:
            assert item.score == pytest.approx(expected[item.item_id], rel=1e-4, abs=1e-4)
        assert [item.score for item in found] == sorted((i.score for i in found), reverse=True)
    # the tables say the same
    rows = results_of(run)["rows"]
    assert [row["weights"] for row in rows if row["model"] == "rarec+id"] == [weights]


def test_new_items_are_found_by_their_text(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    Recommender.open(folder).add_items({"new": "blue storm", "other": "red river"})
    recommender = Recommender.open(folder)
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
    with pytest.raises(ValueError, match="ID vectors first"):
        recommender.align(small(tiny_llm))
    with pytest.raises(ValueError, match="fresh ID vectors"):
        recommender.evaluate()
    with pytest.raises(ValueError, match="call align"):
        recommender.recommend("u001")
    fitted = Recommender.open(run)
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
        Recommender(planted, split=SplitSettings(min_history=2), folder=run)
    with pytest.raises(ValueError, match="kind to be 'leave-one-out' or 'time'"):
        SplitSettings(kind="random")  # type: ignore[arg-type]


def test_a_stopped_alignment_goes_on_and_ends_the_same(planted, tiny_llm, tmp_path):
    class StoppedError(Exception):
        pass

    def fitted(folder):
        recommender = Recommender(planted, folder=folder)
        recommender.select(SELECTION)
        recommender.fit_ids(replace(IDS, max_epochs=2), all_samples=False)
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
    with pytest.raises(ValueError, match=r"other training\.max_steps \(6, now 7\)"):
        Recommender.open(tmp_path / "stopped").align(small(tiny_llm, max_steps=7, save_steps=2))
    again = Recommender.open(tmp_path / "stopped")
    report = again.align(config)
    assert report.steps == 6
    np.testing.assert_array_equal(again.item_vectors("rarec"), whole.item_vectors("rarec"))


def test_the_papers_recipe_runs(planted, tiny_llm, tmp_path, monkeypatch):
    monkeypatch.setenv("RAREC_CACHE", str(tmp_path))
    config = variant("paper", llm=str(tiny_llm), training=small(tiny_llm).training)
    assert config.loss.prediction == "bpr"
    assert config.loss.alignment > 0
    assert config.model.similarity == "dot"
    recommender = Recommender(planted)
    recommender.select(SELECTION)
    recommender.fit_ids(IDS, all_samples=False)
    recommender.align(config)
    rows = {row["model"]: row for row in recommender.evaluate(n_bootstrap=0)["rows"]}
    assert rows["paper"]["hr@10"] > 0.5
    assert list((tmp_path / "states").iterdir())
    with pytest.raises(ValueError, match="a variant of"):
        variant("best")


def test_comirec_time_split_and_all_parts_of_the_loss_run_together(planted, tiny_llm, monkeypatch):
    given = []
    ordinary = align_step.train
    monkeypatch.setattr(
        align_step,
        "train",
        lambda *inputs, **options: given.append((inputs, options)) or ordinary(*inputs, **options),
    )
    ids = replace(IDS, model="comirec", options={"n_interests": 3}, negatives=8, max_epochs=3)
    config = replace(
        small(tiny_llm, max_steps=3),
        loss=LossSettings(extra_negatives=2, hard_negatives=2, hard_pool=8, chunk_size=16),
        model=ModelSettings(prefix_length=2, layers="all", id_score="fixed"),
        prompts=PromptSettings(n_titles=2),
    )
    recommender = Recommender(planted, split=SplitSettings(kind="time"))
    recommender.select(SELECTION)
    recommender.fit_ids(ids, all_samples=False)
    recommender.align(config)
    results = recommender.evaluate(n_bootstrap=10)
    assert [row["model"] for row in results["rows"]] == [
        *("popularity", "id_held_out", "rarec", "rarec+id")
    ]
    assert recommender.members.ids("held-out").user_vectors(Histories.from_lists([[1], []]))[
        0
    ].shape == (2, 3, 16)
    (_, data, _, loss), _ = given[0]
    assert loss == config.loss
    assert data.hard.pools.shape == (len(data), 8)
    assert data.hard.n == 2
    assert data.id_scores.queries.shape == (len(data), 3, 16)


@pytest.mark.slow
def test_real_data_from_files_to_recommendations(shared_data, tiny_llm, tmp_path):
    dataset = read_dataset(shared_data / "movietweetings-100k")
    recommender = Recommender(dataset, folder=tmp_path / "run")
    report = recommender.select(SelectionSettings(fraction=0.02))
    assert report.n_selected <= 0.02 * report.n_samples
    recommender.fit_ids(replace(IDS, max_epochs=1, negatives=16), all_samples=False)
    recommender.align(small(tiny_llm, max_steps=3))
    results = recommender.evaluate(n_bootstrap=10)
    rows = {row["model"]: row for row in results["rows"]}
    # one epoch and three steps: nobody should be good, everybody should be there
    assert 0 <= rows["rarec"]["hr@100"] <= 1
    assert results["protocol"]["items"] == 10506
    # ids keep their leading zeros all the way
    assert all(len(item.item_id) == 7 for item in recommender.recommend("1", k=5))


def test_variants_stand_beside_each_other_and_leave_each_other_alone(planted, tiny_llm, tmp_path):
    recommender = Recommender(planted, folder=tmp_path / "run")
    recommender.select(SELECTION)
    recommender.fit_ids(replace(IDS, max_epochs=3), all_samples=False)
    budget = small(tiny_llm, max_steps=4).training
    recommender.align(variant("default", llm=str(tiny_llm), training=budget))
    before = recommender.recommend("u003", k=5)
    for name in ("inputs", "lora", "full"):
        recommender.align(variant(name, llm=str(tiny_llm), training=budget))
    assert recommender.model("rarec").model.backbone is recommender.model("inputs").model.backbone
    assert recommender.recommend("u003", k=5) == before

    again = Recommender.open(tmp_path / "run")
    assert again.models == ["rarec", "inputs", "lora", "full"]
    assert again.recommend("u003", k=5) == before
    for name in again.models:
        found = again.recommend("u003", k=5, model=name)
        assert found == recommender.recommend("u003", k=5, model=name)
    results = again.evaluate(n_bootstrap=0)
    names = [row["model"] for row in results["rows"]]
    assert names == [
        *("popularity", "id_held_out", "rarec", "rarec+id", "inputs", "inputs+id"),
        *("lora", "lora+id", "full", "full+id"),
    ]
    rows = {row["model"]: row for row in results["rows"]}
    assert rows["full"]["adapter_bytes"] > rows["lora"]["adapter_bytes"] > 0
    assert rows["lora"]["samples_per_second"] > 0
    assert rows["lora"]["peak_rss_mb"] > 10
    # ranks are kept: what was written gives the same numbers
    ranks, part = read_ranks(tmp_path / "run" / "results" / "test")
    assert part == "test"
    assert summarise(ranks["lora"], n_bootstrap=0)["hr@10"] == rows["lora"]["hr@10"]
    alone = again.evaluate(n_bootstrap=0, models=["lora"])
    assert [row["model"] for row in alone["rows"]] == [
        *("popularity", "id_held_out", "lora", "lora+id")
    ]
    with pytest.raises(ValueError, match=r"models of .*got \['best'\]"):
        again.evaluate(models=["best"])
    with pytest.raises(ValueError, match="model to be one of"):
        again.recommend("u003", model="best")


@pytest.mark.parametrize(("bits", "package"), [("8bit", "torchao"), ("4bit", "bitsandbytes")])
def test_the_bits_of_the_language_model_are_kept(run, tiny_llm, tmp_path, bits, package):
    pytest.importorskip(package)
    shutil.copytree(run, tmp_path / "run")
    recommender = Recommender.open(tmp_path / "run")
    config = replace(
        small(tiny_llm, max_steps=3), quantization=bits, loss=LossSettings(alignment=0.1)
    )
    recommender.align(config, restart=True)
    before = recommender.recommend("u000", k=3)
    again = Recommender.open(tmp_path / "run")
    assert again.model("rarec").model.backbone.quantization == bits
    assert [found.item_id for found in again.recommend("u000", k=3)] == [
        found.item_id for found in before
    ]
    folder = tmp_path / "run" / "models" / "rarec"
    whole = recommender.session.language_model(LanguageModel(str(tiny_llm)))[0]
    with pytest.raises(ValueError, match=f"a backbone with quantization {bits}, got None"):
        RARec.from_pretrained(folder, backbone=whole)
    assert RARec.from_pretrained(folder).backbone.quantization == bits
    with pytest.raises(
        ValueError, match=f"weights that are not quantized to train them, got {bits}"
    ):
        again.model("rarec").model.backbone.train_weights("full")


def checkpoints_layers(backbone):
    modules = backbone.model.modules()
    return any(getattr(module, "gradient_checkpointing", False) for module in modules)


def test_weights_in_half_precision_and_less_memory_go_all_the_way(
    planted, tiny_llm, tmp_path, monkeypatch
):
    trained_with = []
    ordinary = align_step.train
    monkeypatch.setattr(
        align_step,
        "train",
        lambda model, *inputs, **options: (
            trained_with.append(checkpoints_layers(model.backbone))
            or ordinary(model, *inputs, **options)
        ),
    )
    recommender = Recommender(planted, folder=tmp_path / "run")
    recommender.select(SELECTION)
    recommender.fit_ids(replace(IDS, max_epochs=2), all_samples=False)
    config = replace(small(tiny_llm, max_steps=3), dtype="bfloat16", checkpoint_layers=True)
    recommender.align(config)
    trained = recommender.model("rarec").model
    assert trained.backbone.dtype == torch.bfloat16
    assert trained.user.prefix.dtype == torch.float32
    assert trained_with == [True]
    # the copy that was changed is not the one that others are given
    other = recommender.session.language_model(LanguageModel(str(tiny_llm), dtype="bfloat16"))[0]
    assert not checkpoints_layers(other)
    again = Recommender.open(tmp_path / "run")
    assert again.model("rarec").model.backbone.dtype == torch.bfloat16
    assert len(again.recommend("u000", k=3)) == 3


def test_vectors_before_the_text_take_positions_too(planted, tiny_llm):
    recommender = Recommender(planted)
    recommender.select(SELECTION)
    recommender.use_ids(GivenIDs(np.ones((40, 2), np.float32), np.ones(40, bool)))
    # the tiny model has 64 positions: one for the ID vector, some for the text
    prompts = PromptSettings(item="{title}" + " a" * 50)
    config = replace(small(tiny_llm, max_steps=1), prompts=prompts)
    recommender.align(replace(config, model=ModelSettings(placement="inputs", prefix_length=2)))
    with pytest.raises(ValueError, match=r"at most 64 tokens .* got 75"):
        recommender.align(
            replace(config, model=ModelSettings(placement="inputs", prefix_length=20)), restart=True
        )


def test_without_a_folder_a_run_is_temporary_until_it_is_saved(planted, tmp_path):
    recommender = Recommender(planted)
    temporary = recommender.run.path
    recommender.select(SELECTION)
    recommender.use_ids(GivenIDs(np.ones((40, 2), np.float32), np.ones(40, bool)))
    recommender.save(tmp_path / "kept")
    assert not temporary.exists()
    assert recommender.run.path == tmp_path / "kept"
    assert Recommender.open(tmp_path / "kept").members.ids("all").item_vectors.shape == (40, 2)
    with pytest.raises(ValueError, match="new or empty folder"):
        Recommender(planted).save(tmp_path / "kept")


def test_an_index_that_was_not_finished_is_made_when_it_is_asked_for(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    expected = Recommender.open(folder).recommend("u003", k=5)
    shutil.rmtree(folder / "indexes" / "rarec")
    assert Recommender.open(folder).recommend("u003", k=5) == expected
    assert (folder / "indexes" / "rarec").is_dir()
