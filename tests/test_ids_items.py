"""Item vectors of ID models: ID embeddings, maps of text vectors, and their sum."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from rarec.artifacts import write_folder
from rarec.data import Cases, Histories
from rarec.ids import (
    IDTable,
    IDTextSum,
    ItemVectors,
    TextAdapter,
    TrainedIDs,
    build_encoder,
    load_ids,
    standardise,
    train_encoder,
)
from rarec.ids.losses import Batch, full_loss, sampled_loss
from rarec.ids.validation import validation_ndcg
from rarec.selection import NegativeSampler
from rarec.settings import IDSettings

N, KINDS, F = 72, 6, 10
MODELS = ("gru4rec", "sasrec", "comirec")
# item i is of kind i % KINDS; the last two of each kind are in no training history
COLD = np.arange(N) >= N - 2 * KINDS
QUICK = IDSettings(
    dim=16, max_history=10, batch_size=50, max_epochs=12, patience=12, learning_rate=1e-2, text="x"
)


def text_of(n_columns: int = F) -> np.ndarray:
    """Return text vectors that name the kind of an item, and some noise."""
    generator = np.random.default_rng(0)
    kinds = generator.normal(size=(KINDS, n_columns))
    vectors = kinds[np.arange(N) % KINDS] + 0.3 * generator.normal(size=(N, n_columns))
    return standardise(vectors.astype(np.float32), np.ones(N, bool))


def planted_kinds(step: int = 1):
    """Return histories in which kind k is followed by k + step, and cases with cold targets."""
    generator = np.random.default_rng(0)
    warm = N // KINDS - 2
    kinds = (generator.integers(KINDS, size=(150, 1)) + step * np.arange(11)) % KINDS
    rows = kinds[:, :10] + KINDS * generator.integers(warm, size=(150, 10))
    targets = kinds[:, 10] + KINDS * generator.integers(warm, warm + 2, size=150)
    train = Histories.from_lists(rows.tolist())
    return train, Cases(np.arange(150, dtype=np.int32), targets.astype(np.int32), train)


def embedding(settings: IDSettings = QUICK) -> IDTextSum:
    torch.manual_seed(0)
    items = build_encoder(settings, N, text_of()).items
    assert isinstance(items, IDTextSum)
    return items


def weight_of(items: IDTextSum) -> torch.Tensor:
    (layer,) = items.text.layers
    assert isinstance(layer, torch.nn.Linear)
    return layer.weight


def test_standardise_gives_mean_zero_and_size_one():
    has_text = np.arange(N) % 7 > 0
    raw = np.random.default_rng(0).normal(3.0, 5.0, size=(N, F)).astype(np.float32)
    found = standardise(raw, has_text)
    np.testing.assert_allclose(found[has_text].mean(axis=0), 0, atol=1e-5)
    assert np.square(found[has_text]).mean() == pytest.approx(1, rel=1e-5)
    # one factor for all columns keeps their relative sizes
    spread = raw[has_text].std(axis=0) / found[has_text].std(axis=0)
    np.testing.assert_allclose(spread, spread[0], rtol=1e-4)
    assert not found[~has_text].any()
    with pytest.raises(ValueError, match="expected items with text, got none"):
        standardise(raw, np.zeros(N, bool))


def test_an_item_vector_is_its_id_part_plus_its_text_part():
    items = embedding()
    text = torch.from_numpy(text_of())
    expected = items.ids.table()[:N] + text @ weight_of(items).T / F**0.5
    torch.testing.assert_close(items.table()[:N], expected)
    assert not items.table()[N].any()
    # few places, and more places than items: the same rows
    for n_places in (3, 2 * N):
        rows = torch.randint(0, N + 1, (2, n_places), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(items(rows), items.table()[rows])
    # both parts have initial values of about the same size
    parts = [part.std().item() for part in (items.ids.table()[:N], text @ weight_of(items).T)]
    assert parts[1] / F**0.5 == pytest.approx(parts[0], rel=0.5)


@pytest.mark.parametrize("negatives", [0, 15])
@pytest.mark.parametrize("model", MODELS)
def test_cold_items_are_scored_by_their_text(model, negatives):
    # a mean of the history does not tell well which item is the newest
    train, cold_cases = planted_kinds(step=0 if model == "comirec" else 1)
    settings = dataclasses.replace(QUICK, model=model, negatives=negatives)
    trained, _ = train_encoder(train, cold_cases, N, settings, text_vectors=text_of())
    items = trained.items
    assert isinstance(items, IDTextSum)
    # not even the softmax over all items has moved their ID part
    cold = torch.from_numpy(COLD)
    assert not items.ids.table()[:N][cold].any()
    assert items.ids.table()[:N][~cold].all(dim=1).all()
    expected = items.text.text_vectors[:-1] @ weight_of(items).T / F**0.5
    torch.testing.assert_close(trained.item_vectors[cold], expected[cold])

    plain, _ = train_encoder(train, cold_cases, N, dataclasses.replace(settings, text=""))
    with_text, without = (validation_ndcg(each, cold_cases) for each in (trained, plain))
    assert with_text > without + 0.15


@pytest.mark.parametrize("sampled", [False, True])
def test_cold_items_are_no_negatives(sampled):
    train, _ = planted_kinds()
    cold = torch.from_numpy(COLD)
    torch.manual_seed(0)
    model = build_encoder(QUICK, N, text_of()).eval()
    inputs = torch.from_numpy(train.padded(10, N))
    counted = torch.ones_like(inputs, dtype=torch.bool)
    sampler = NegativeSampler(train, N)

    def losses(mask):
        made = sampled_loss(sampler, 30, mask) if sampled else full_loss(mask)
        return made(model, Batch(np.arange(150), model(inputs), inputs, counted, 0))

    before = [losses(mask).item() for mask in (cold, None)]
    items = model.items
    assert isinstance(items, IDTextSum)
    with torch.no_grad():
        items.ids.table()[:N][cold] += 1.0
    after = [losses(mask).item() for mask in (cold, None)]
    assert before[0] == after[0]
    assert before[0] < before[1] != after[1]


def test_id_parts_are_dropped_in_training_alone():
    items = embedding(dataclasses.replace(QUICK, id_dropout=0.5))
    whole = items.eval().table()
    torch.testing.assert_close(items.table(), whole, rtol=0, atol=0)
    kept = ((items.train().table() - whole).abs().amax(dim=1) < 1e-6)[:N].float().mean()
    assert 0.3 < kept < 0.7
    text_part = whole - items.ids.table()
    rows = torch.arange(N)[None]
    parts = items(rows)[0]
    dropped = (parts - text_part[:N]).abs().amax(dim=1) < 1e-6
    left = (parts - whole[:N]).abs().amax(dim=1) < 1e-6
    assert (dropped | left).all()
    assert 0.3 < dropped.float().mean() < 0.7


@pytest.mark.parametrize("model", MODELS)
def test_to_disk_and_back_without_the_language_model(tmp_path, model):
    settings = dataclasses.replace(QUICK, model=model)
    torch.manual_seed(0)
    ids = TrainedIDs(build_encoder(settings, N, text_of()), settings, np.arange(N) > 1)
    ids.save(tmp_path / "ids")
    again = load_ids(tmp_path / "ids")
    assert isinstance(again, TrainedIDs)
    assert again.settings == settings
    np.testing.assert_array_equal(ids.item_vectors, again.item_vectors)
    histories = Histories.from_lists([[3, 4], [], [N - 1]])
    for before, after in zip(
        ids.user_vectors(histories), again.user_vectors(histories), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    tensors = load_file(tmp_path / "ids" / "encoder.safetensors")
    assert tensors["text_vectors"].shape == (N, F)
    del tensors["text_vectors"]
    # written so, not damaged later
    with write_folder(tmp_path / "ids") as folder:
        ids.save(folder)
        save_file(tensors, folder / "encoder.safetensors")
    with pytest.raises(ValueError, match="expected saved ID embeddings"):
        load_ids(tmp_path / "ids")


def test_stopped_and_resumed_is_the_same_to_the_bit(tmp_path):
    train, cases = planted_kinds()
    settings = dataclasses.replace(QUICK, max_epochs=4, id_dropout=0.2)
    whole, _ = train_encoder(train, cases, N, settings, text_vectors=text_of())

    class StoppedError(Exception):
        pass

    def stop(epoch, loss, ndcg):
        if epoch == 3:
            raise StoppedError

    file = tmp_path / "checkpoint.safetensors"
    given: dict[str, Any] = {"text_vectors": text_of(), "checkpoint": file}
    with pytest.raises(StoppedError):
        train_encoder(train, cases, N, settings, on_epoch=stop, **given)
    with safe_open(file, framework="pt") as stored:
        # the text vectors do not change, so they are not written after each epoch
        assert not [name for name in stored.keys() if "text_vectors" in name]  # noqa: SIM118
    again, report = train_encoder(train, cases, N, settings, **given)
    assert report.epochs == 4
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
    torch.testing.assert_close(again.item_vectors, whole.item_vectors, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"another training \(different: text\)"):
        train_encoder(train, cases, N, settings, text_vectors=2 * text_of(), checkpoint=file)


def test_what_does_not_fit_is_refused():
    train, cases = planted_kinds()
    with pytest.raises(ValueError, match=r"text_vectors where text is set \('x'\), got none"):
        train_encoder(train, cases, N, QUICK)
    with pytest.raises(ValueError, match=r"text_vectors where text is set \(''\), got \[72, 10\]"):
        train_encoder(train, cases, N, IDSettings(text=""), text_vectors=text_of())
    with pytest.raises(ValueError, match=r"text vectors \[72, F\] .*, got \[71, 10\]"):
        train_encoder(train, cases, N, QUICK, text_vectors=text_of()[1:])
    bad: list[dict[str, Any]] = [
        {"text": None},
        {"id_dropout": 1.0, "text": "x"},
        {"id_dropout": 0.5, "text": ""},
        {"text_layers": 0},
    ]
    for changes in bad:
        with pytest.raises(ValueError, match=next(iter(changes))):
            IDSettings(**changes)


def text_adapter(n_layers: int) -> TextAdapter:
    return TextAdapter(torch.from_numpy(text_of()), 16, n_layers=n_layers)


KINDS_OF_ITEMS = {
    "ids": lambda: IDTable(N, 16),
    "text": lambda: text_adapter(1),
    "deep text": lambda: text_adapter(2),
    "sum": lambda: IDTextSum(IDTable(N, 16), text_adapter(2), id_dropout=0.1),
}


@pytest.mark.parametrize("kind", KINDS_OF_ITEMS)
def test_every_kind_of_item_vectors_is_trained_by_the_same_loop(kind, tmp_path):
    train, _ = planted_kinds()
    targets = (train.items[train.offsets[1:] - 1] + 1) % KINDS
    cases = Cases(np.arange(150, dtype=np.int32), targets.astype(np.int32), train)
    settings = dataclasses.replace(QUICK, max_epochs=4)
    made: list[ItemVectors] = []

    def make_items():
        made.append(KINDS_OF_ITEMS[kind]())
        return made[-1]

    torch.manual_seed(1)
    encoder, report = train_encoder(train, cases, N, settings, make_items=make_items)
    assert encoder.items is made[0]
    # a random order gives about 0.1
    assert report.validation_ndcg > 0.15
    # the initial values come from the seed of the settings, not from the caller's generator
    torch.manual_seed(2)
    file = tmp_path / "checkpoint.safetensors"
    again, _ = train_encoder(train, cases, N, settings, make_items=make_items, checkpoint=file)
    assert torch.equal(encoder.item_vectors, again.item_vectors)
    other = "text" if kind == "ids" else "ids"
    with pytest.raises(ValueError, match=r"another training \(different: .*parameters"):
        train_encoder(train, cases, N, settings, make_items=KINDS_OF_ITEMS[other], checkpoint=file)
    ids = TrainedIDs(encoder, dataclasses.replace(settings, text=""), np.ones(N, bool))
    if kind == "ids":
        ids.save(tmp_path / "ids")
        np.testing.assert_array_equal(load_ids(tmp_path / "ids").item_vectors, ids.item_vectors)
    else:
        with pytest.raises(ValueError, match="expected item vectors of the settings"):
            ids.save(tmp_path / "ids")


@pytest.mark.parametrize("n_layers", [1, 2, 4])
def test_a_map_of_any_depth_begins_with_vectors_of_the_size_of_id_embeddings(n_layers):
    torch.manual_seed(0)
    raw = np.random.default_rng(0).normal(size=(500, 40)).astype(np.float32)
    text = torch.from_numpy(standardise(raw, np.arange(500) > 0))
    items = TextAdapter(text, 64, n_layers=n_layers)
    assert len(items.layers) == n_layers
    table = items.table().detach()
    assert table[1:500].std().item() == pytest.approx(64**-0.5, rel=0.3)
    # an item without text and the padding
    assert not table[0].any()
    assert not table[500].any()
    rows = torch.tensor([[3, 500, 9]])
    torch.testing.assert_close(items(rows)[0], table[rows[0]])


def test_the_settings_say_how_many_layers_the_map_has(tmp_path):
    settings = dataclasses.replace(QUICK, text_layers=3)
    encoder = build_encoder(settings, N, text_of())
    assert isinstance(encoder.items, IDTextSum)
    assert len(encoder.items.text.layers) == 3
    TrainedIDs(encoder, settings, np.ones(N, bool)).save(tmp_path / "ids")
    again = load_ids(tmp_path / "ids")
    np.testing.assert_array_equal(again.item_vectors, encoder.item_vectors.detach().numpy())


def test_item_vectors_that_do_not_fit_are_refused():
    text = torch.from_numpy(text_of())
    with pytest.raises(ValueError, match=r"text vectors \[N, F\], got \[10\]"):
        TextAdapter(text[0], 16)
    with pytest.raises(ValueError, match="n_layers >= 1, got 0"):
        TextAdapter(text, 16, n_layers=0)
    with pytest.raises(ValueError, match=r"text vectors \[5, F\] and a map to width 16"):
        IDTextSum(IDTable(5, 16), TextAdapter(text, 16))
    with pytest.raises(ValueError, match="expected items of 72 x 16 without text_vectors"):
        build_encoder(QUICK, N, items=IDTable(N, 8))
    with pytest.raises(ValueError, match="got 72 x 16 with them"):
        build_encoder(QUICK, N, text_of(), items=IDTable(N, 16))
