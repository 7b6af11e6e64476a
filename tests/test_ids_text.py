"""ID models that read text vectors of the items too."""

import dataclasses
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from rarec.data import Cases, Dataset, Histories, read_dataset
from rarec.ids import IDConfig, TrainedIDs, load_ids, standardised, train_encoder
from rarec.ids.losses import Batch, full_loss, sampled_loss
from rarec.ids.text import TextItemEmbedding
from rarec.ids.training import validation_ndcg
from rarec.recommender import AlignConfig, Recommender
from rarec.recommender.id_models import title_vectors
from rarec.selection import NegativeSampler

N, KINDS, F = 72, 6, 10
MODELS = ("gru4rec", "sasrec", "comirec")
# item i is of kind i % KINDS; the last two of each kind are in no training history
COLD = np.arange(N) >= N - 2 * KINDS
QUICK = IDConfig(
    dim=16, max_history=10, batch_size=50, max_epochs=12, patience=12, learning_rate=1e-2, text="x"
)


def text_of(n_columns: int = F) -> np.ndarray:
    """Return text vectors that name the kind of an item, and some noise."""
    generator = np.random.default_rng(0)
    kinds = generator.normal(size=(KINDS, n_columns))
    vectors = kinds[np.arange(N) % KINDS] + 0.3 * generator.normal(size=(N, n_columns))
    return standardised(vectors.astype(np.float32), np.ones(N, bool))


def planted_kinds(step: int = 1):
    """Return histories in which kind k is followed by k + step, and cases with cold targets."""
    generator = np.random.default_rng(0)
    warm = N // KINDS - 2
    kinds = (generator.integers(KINDS, size=(150, 1)) + step * np.arange(11)) % KINDS
    rows = kinds[:, :10] + KINDS * generator.integers(warm, size=(150, 10))
    targets = kinds[:, 10] + KINDS * generator.integers(warm, warm + 2, size=150)
    train = Histories.from_lists(rows.tolist())
    return train, Cases(np.arange(150, dtype=np.int32), targets.astype(np.int32), train)


def embedding(config: IDConfig = QUICK) -> TextItemEmbedding:
    torch.manual_seed(0)
    items = config.build(N, text_of()).item_embedding
    assert isinstance(items, TextItemEmbedding)
    return items


def test_standardised_vectors_have_mean_zero_and_size_one():
    has_text = np.arange(N) % 7 > 0
    raw = np.random.default_rng(0).normal(3.0, 5.0, size=(N, F)).astype(np.float32)
    found = standardised(raw, has_text)
    np.testing.assert_allclose(found[has_text].mean(axis=0), 0, atol=1e-5)
    assert np.square(found[has_text]).mean() == pytest.approx(1, rel=1e-5)
    # one factor for all columns: which of them say much stays as it was
    spread = raw[has_text].std(axis=0) / found[has_text].std(axis=0)
    np.testing.assert_allclose(spread, spread[0], rtol=1e-4)
    assert not found[~has_text].any()
    with pytest.raises(ValueError, match="expected items with text, got none"):
        standardised(raw, np.zeros(N, bool))


def test_an_item_vector_is_its_id_part_plus_its_text_part():
    items = embedding()
    text = torch.from_numpy(text_of())
    expected = items.ids.weight[:N] + text @ items.project.weight.T / F**0.5
    torch.testing.assert_close(items.weight[:N], expected)
    assert not items.weight[N].any()
    # few places, and more places than items: the same rows
    for n_places in (3, 2 * N):
        rows = torch.randint(0, N + 1, (2, n_places), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(items(rows), items.weight[rows])
    # both parts start alike
    parts = [part.std().item() for part in (items.ids.weight[:N], text @ items.project.weight.T)]
    assert parts[1] / F**0.5 == pytest.approx(parts[0], rel=0.5)


@pytest.mark.parametrize("negatives", [0, 15])
@pytest.mark.parametrize("model", MODELS)
def test_cold_items_are_scored_by_their_text(model, negatives):
    # a mean of the history does not tell well which item is the newest
    train, cold_cases = planted_kinds(step=0 if model == "comirec" else 1)
    config = dataclasses.replace(QUICK, model=model, negatives=negatives)
    trained, _ = train_encoder(train, cold_cases, N, config, text_vectors=text_of())
    items = trained.item_embedding
    assert isinstance(items, TextItemEmbedding)
    # not even the softmax over all items has moved their ID part
    cold = torch.from_numpy(COLD)
    assert not items.ids.weight[:N][cold].any()
    assert items.ids.weight[:N][~cold].all(dim=1).all()
    expected = items.text_vectors @ items.project.weight.T / F**0.5
    torch.testing.assert_close(trained.item_vectors[cold], expected[cold])

    plain, _ = train_encoder(train, cold_cases, N, dataclasses.replace(config, text=""))
    with_text, without = (validation_ndcg(each, cold_cases) for each in (trained, plain))
    assert with_text > without + 0.15


@pytest.mark.parametrize("sampled", [False, True])
def test_cold_items_are_no_negatives(sampled):
    train, _ = planted_kinds()
    cold = torch.from_numpy(COLD)
    torch.manual_seed(0)
    model = QUICK.build(N, text_of()).eval()
    inputs = torch.from_numpy(train.padded(10, N))
    counted = torch.ones_like(inputs, dtype=torch.bool)
    sampler = NegativeSampler(train, N)

    def losses(mask):
        made = sampled_loss(sampler, 30, mask) if sampled else full_loss(mask)
        return made(model, Batch(np.arange(150), model(inputs), inputs, counted, 0))

    before = [losses(mask).item() for mask in (cold, None)]
    items = model.item_embedding
    assert isinstance(items, TextItemEmbedding)
    with torch.no_grad():
        items.ids.weight[:N][cold] += 1.0
    after = [losses(mask).item() for mask in (cold, None)]
    assert before[0] == after[0]
    assert before[0] < before[1] != after[1]


def test_id_parts_are_dropped_in_training_alone():
    items = embedding(dataclasses.replace(QUICK, id_dropout=0.5))
    whole = items.eval().weight
    torch.testing.assert_close(items.weight, whole, rtol=0, atol=0)
    kept = ((items.train().weight - whole).abs().amax(dim=1) < 1e-6)[:N].float().mean()
    assert 0.3 < kept < 0.7
    text_part = whole - items.ids.weight
    rows = torch.arange(N)[None]
    parts = items(rows)[0]
    dropped = (parts - text_part[:N]).abs().amax(dim=1) < 1e-6
    left = (parts - whole[:N]).abs().amax(dim=1) < 1e-6
    assert (dropped | left).all()
    assert 0.3 < dropped.float().mean() < 0.7


@pytest.mark.parametrize("model", MODELS)
def test_to_disk_and_back_without_the_language_model(tmp_path, model):
    config = dataclasses.replace(QUICK, model=model)
    torch.manual_seed(0)
    ids = TrainedIDs(config.build(N, text_of()), config, np.arange(N) > 1)
    ids.save(tmp_path / "ids")
    again = load_ids(tmp_path / "ids")
    assert isinstance(again, TrainedIDs)
    assert again.config == config
    np.testing.assert_array_equal(ids.item_vectors, again.item_vectors)
    histories = Histories.from_lists([[3, 4], [], [N - 1]])
    for before, after in zip(
        ids.user_vectors(histories), again.user_vectors(histories), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    file = tmp_path / "ids" / "encoder.safetensors"
    tensors = load_file(file)
    assert tensors["text_vectors"].shape == (N, F)
    del tensors["text_vectors"]
    save_file(tensors, file)
    with pytest.raises(ValueError, match="expected saved ID embeddings"):
        load_ids(tmp_path / "ids")


def test_stopped_and_resumed_is_the_same_to_the_bit(tmp_path):
    train, cases = planted_kinds()
    config = dataclasses.replace(QUICK, max_epochs=4, id_dropout=0.2)
    whole, _ = train_encoder(train, cases, N, config, text_vectors=text_of())

    class StoppedError(Exception):
        pass

    def stop(epoch, loss, ndcg):
        if epoch == 3:
            raise StoppedError

    file = tmp_path / "checkpoint.safetensors"
    given: dict[str, Any] = {"text_vectors": text_of(), "checkpoint": file}
    with pytest.raises(StoppedError):
        train_encoder(train, cases, N, config, on_epoch=stop, **given)
    with safe_open(file, framework="pt") as stored:
        # frozen, and there anyway: not written after each epoch
        assert not [name for name in stored.keys() if "text" in name]  # noqa: SIM118
    again, report = train_encoder(train, cases, N, config, **given)
    assert report.epochs == 4
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
    torch.testing.assert_close(again.item_vectors, whole.item_vectors, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"another training \(different: text\)"):
        train_encoder(train, cases, N, config, text_vectors=2 * text_of(), checkpoint=file)


def test_what_does_not_fit_is_refused():
    train, cases = planted_kinds()
    with pytest.raises(ValueError, match=r"text_vectors where text is set \('x'\), got none"):
        train_encoder(train, cases, N, QUICK)
    with pytest.raises(ValueError, match=r"text_vectors where text is set \(''\), got \[72, 10\]"):
        train_encoder(train, cases, N, IDConfig(), text_vectors=text_of())
    with pytest.raises(ValueError, match=r"text vectors \[72, F\], got \[71, 10\]"):
        train_encoder(train, cases, N, QUICK, text_vectors=text_of()[1:])
    settings: list[dict[str, Any]] = [
        {"text": None},
        {"id_dropout": 1.0, "text": "x"},
        {"id_dropout": 0.5},
    ]
    for changes in settings:
        with pytest.raises(ValueError, match=next(iter(changes))):
            IDConfig(**changes)


def with_new_items(planted: Dataset) -> Dataset:
    """Return the planted users and two items that each come up as one user's newest event."""
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


def test_a_recommender_reads_the_titles(planted, tiny_llm, tmp_path):
    dataset = with_new_items(planted)
    titled, untitled = (dataset.item_number(name) for name in ("titled", "untitled"))
    recommender = Recommender(dataset, folder=tmp_path / "run")
    recommender.fit_ids(dataclasses.replace(QUICK, max_epochs=2, text=str(tiny_llm)))
    ids = recommender.ids
    assert isinstance(ids, TrainedIDs)
    # the item has no training event, but a title
    assert ids.item_known[titled]
    assert ids.item_vectors[titled].any()
    assert not ids.item_known[untitled]
    assert not ids.item_vectors[untitled].any()
    vectors = title_vectors(recommender, str(tiny_llm))
    assert vectors.shape == (42, 32)
    assert sorted(np.flatnonzero(~vectors.any(axis=1))) == sorted(
        [dataset.item_number("i00"), untitled]
    )
    same = [i for i, title in enumerate(dataset.titles) if title == "red storm"]
    np.testing.assert_allclose(vectors[same], vectors[[titled] * len(same)], atol=1e-4)

    training = {"max_steps": 2, "per_device_train_batch_size": 8}
    recommender.align(AlignConfig(llm=str(tiny_llm), training=training))
    expected = recommender.recommend("u003", k=5)
    again = Recommender.load(tmp_path / "run")
    for before, after in ((recommender.ids, again.ids), (recommender.baseline, again.baseline)):
        assert before is not None
        assert after is not None
        np.testing.assert_array_equal(before.item_vectors, after.item_vectors)
    assert again.recommend("u003", k=5) == expected
    assert again.configs()["ids"]["text"] == str(tiny_llm)
    rows = {row["model"]: row for row in recommender.evaluate(n_bootstrap=10)["rows"]}
    assert rows["id"]["trainable_parameters"] > 42 * 16


def test_titles_are_asked_for_before_any_work(planted, tiny_llm):
    bare = dataclasses.replace(planted, titles=[""] * planted.n_items)
    with pytest.raises(ValueError, match="expected titles"):
        Recommender(bare).fit_ids(dataclasses.replace(QUICK, text=str(tiny_llm)))
    # and by default they are read
    with pytest.raises(ValueError, match="expected titles"):
        Recommender(bare).fit_ids()
