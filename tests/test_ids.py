"""ID models: causal, padded, trained, stopped and resumed; and vectors brought along."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from rarec.data import Cases, Histories, leave_one_out
from rarec.ids import GivenIDs, IDConfig, TrainedIDs, load_ids, read_vectors, train_encoder
from rarec.ids import training as id_training
from rarec.ids.comirec import ComiRec
from rarec.ids.training import _Windows, validation_ndcg
from rarec.selection import training_samples

N = 30
MODELS = ("gru4rec", "sasrec", "comirec")


def encoder(model: str, **changes):
    torch.manual_seed(0)
    return IDConfig(model=model, dim=8, max_history=6, **changes).build(N).eval()


@pytest.mark.parametrize("model", MODELS)
def test_a_place_knows_nothing_of_later_items(model):
    history = torch.randint(0, N, (4, 6), generator=torch.Generator().manual_seed(0))
    changed = history.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % N
    with torch.no_grad():
        before, after = encoder(model)(history), encoder(model)(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("model", ["sasrec", "comirec"])
def test_padding_on_the_left_changes_nothing(model):
    # the recurrent model reads the zero vectors of the padding, always as many: next test
    history = torch.randint(0, N, (4, 3), generator=torch.Generator().manual_seed(0))
    padded = torch.cat([torch.full((4, 3), N), history], dim=1)
    with torch.no_grad():
        short, long = (encoder(model).user_vectors(table) for table in (history, padded))
    torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_user_vectors_do_not_depend_on_the_batch(model):
    ids = TrainedIDs(encoder(model), IDConfig(model=model, dim=8, max_history=6), np.ones(N, bool))
    histories = Histories.from_lists([[1, 2, 3], [4], [], [5, 6, 7, 8, 9, 10, 11, 12]])
    together, known = ids.user_vectors(histories)
    assert known.tolist() == [True, True, False, True]
    for row in range(4):
        alone, _ = ids.user_vectors(histories.take([row]))
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-5, atol=1e-6)
    newest, _ = ids.user_vectors(histories.last(6))
    np.testing.assert_allclose(newest, together, rtol=1e-5, atol=1e-6)


def test_running_sums_are_the_attention_over_each_prefix():
    model = encoder("comirec")
    assert isinstance(model, ComiRec)
    history = torch.tensor([[N, N, 3, 7, 3, 9]])
    items = model.item_embedding(history[0, 2:])
    positions = model.position_embedding(torch.arange(1, 5))
    logits = model.attention(items + positions)
    for place in range(4):
        weights = logits[: place + 1].softmax(dim=0)  # [places, K]
        interests = weights.T @ items[: place + 1]
        expected = interests + model.output(interests)
        torch.testing.assert_close(model(history)[0, 2 + place], expected)


def planted_split():
    """Return histories in which item i is always followed by i + 1 (modulo N)."""
    generator = np.random.default_rng(0)
    rows = [(generator.integers(N) + np.arange(12)) % N for _ in range(150)]
    train = Histories.from_lists([row[:10].tolist() for row in rows])
    validation = Cases(
        np.arange(150, dtype=np.int32),
        np.array([row[10] for row in rows], dtype=np.int32),
        train,
    )
    return train, validation


QUICK = IDConfig(
    dim=16, max_history=10, batch_size=50, max_epochs=25, patience=25, learning_rate=1e-2
)


@pytest.mark.parametrize("negatives", [0, 15])
@pytest.mark.parametrize("model", MODELS)
def test_a_rule_is_learnt(model, negatives):
    train, validation = planted_split()
    options = {"n_interests": 2} if model == "comirec" else {}
    epochs = 60 if model == "comirec" else 25
    config = dataclasses.replace(
        QUICK, model=model, negatives=negatives, options=options, max_epochs=epochs
    )
    trained, report = train_encoder(train, validation, N, config)
    # a random order gives about 0.23
    assert report.validation_ndcg > 0.75
    assert report.validation_ndcg == pytest.approx(validation_ndcg(trained, validation), abs=1e-6)


def test_validation_ndcg_equals_a_plain_ranking():
    model = encoder("comirec", options={"n_interests": 2})
    generator = np.random.default_rng(1)
    histories = Histories.from_lists([generator.permutation(N)[:5].tolist() for _ in range(40)])
    targets = generator.integers(0, N, 40).astype(np.int32)
    cases = Cases(np.arange(40, dtype=np.int32), targets, histories)
    expected = []
    with torch.no_grad():
        users = model.user_vectors(torch.from_numpy(histories.padded(6, N)))
        scores = (users @ model.item_vectors.T).amax(dim=1).numpy()
    for row, target in enumerate(targets):
        others = [i for i in range(N) if i != target and i not in set(histories[row].tolist())]
        rank = 1 + sum(scores[row, i] > scores[row, target] for i in others)
        expected.append(1 / np.log2(1 + rank) if rank <= 10 else 0.0)
    assert validation_ndcg(model, cases, block=7) == pytest.approx(np.mean(expected), abs=1e-6)


def test_a_training_that_diverged_is_not_the_best():
    model = encoder("gru4rec")
    _, validation = planted_split()
    with torch.no_grad():
        model.item_embedding.weight[:] = torch.nan
    with pytest.raises(ValueError, match="diverged"):
        validation_ndcg(model, validation)


def test_each_event_but_the_first_is_a_target_once():
    generator = np.random.default_rng(0)
    lengths = [0, 1, 2, 5, 6, 7, 13, 30]
    rows, number = [], 0
    for length in lengths:
        rows.append(list(range(number, number + length)))
        number += length
    train = Histories.from_lists(rows)
    held_out = generator.random(number) < 0.3
    windows = _Windows(train, 5, number, held_out)
    _, targets, counted = windows.batch(np.arange(len(windows)))
    firsts = {row[0] for row in rows if row}
    expected = [event for event in range(number) if event not in firsts and not held_out[event]]
    assert sorted(targets[counted].tolist()) == expected
    assert windows.n_targets == len(expected)
    assert windows.n_held_out == sum(held_out[event] for event in range(number)) - sum(
        held_out[event] for event in firsts
    )


def test_held_out_targets_are_not_counted():
    train, validation = planted_split()
    samples = training_samples(train)
    mask = np.zeros(len(train.items), dtype=bool)
    mask[samples.positions[samples.users == 0]] = True
    windows = _Windows(train, 10, N, mask)
    only_first = windows.batch(np.flatnonzero(windows.users == 0))
    assert not only_first[2].any()
    config = dataclasses.replace(QUICK, max_epochs=2, dropout=0.0)
    _, report = train_encoder(train, validation, N, config, held_out=mask)
    assert report.held_out == 9
    assert report.samples == 149 * 9
    # the events stay in the histories: they are still read as inputs
    assert (only_first[0] != N).sum() == 9


def test_another_held_out_target_gives_the_same_weights():
    """The newest event is a target alone, never an input: held out, it must not matter."""
    train, validation = planted_split()
    newest = train.offsets[1:5] - 1
    mask = np.zeros(len(train.items), dtype=bool)
    mask[newest] = True
    items = train.items.copy()
    items[newest] = (items[newest] + 7) % N
    changed = Histories(train.offsets, items)
    # the cases keep the true histories: only what is trained on differs
    config = dataclasses.replace(QUICK, max_epochs=2)
    weights = [
        train_encoder(histories, validation, N, config, held_out=held_out)[0].item_vectors
        for held_out in (mask, None)
        for histories in (train, changed)
    ]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    assert not torch.equal(weights[2], weights[3])


def test_the_best_epoch_is_kept_and_patience_ends_it(monkeypatch):
    train, validation = planted_split()
    scores = iter([0.1, 0.5, 0.3, 0.2, 0.4, 0.9])
    states = []

    def scripted(model, cases):
        states.append({name: t.clone() for name, t in model.state_dict().items()})
        return next(scores)

    monkeypatch.setattr(id_training, "validation_ndcg", scripted)
    config = dataclasses.replace(QUICK, patience=3)
    model, report = train_encoder(train, validation, N, config)
    assert (report.epochs, report.best_epoch, report.validation_ndcg) == (5, 2, 0.5)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, states[1][name], rtol=0, atol=0)


@pytest.mark.parametrize("changes", [{}, {"negatives": 5}, {"shared_negatives": 5}])
def test_stopped_and_resumed_is_the_same_to_the_bit(tmp_path, changes):
    train, validation = planted_split()
    config = dataclasses.replace(QUICK, max_epochs=5, **changes)
    whole, _ = train_encoder(train, validation, N, config)

    class StoppedError(Exception):
        pass

    def stop(epoch, loss, ndcg):
        if epoch == 3:
            raise StoppedError

    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(StoppedError):
        train_encoder(train, validation, N, config, checkpoint=file, on_epoch=stop)
    seen = []
    again, report = train_encoder(
        train, validation, N, config, checkpoint=file, on_epoch=lambda *a: seen.append(a[0])
    )
    assert seen == [3, 4, 5]
    assert report.epochs == 5
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)

    with pytest.raises(ValueError, match=r"another training \(different: config\)"):
        train_encoder(train, validation, N, dataclasses.replace(config, seed=9), checkpoint=file)
    mask = np.zeros(len(train.items), dtype=bool)
    mask[5] = True
    with pytest.raises(ValueError, match=r"another training \(different: data\)"):
        train_encoder(train, validation, N, config, held_out=mask, checkpoint=file)
    file.write_bytes(b"something else")
    with pytest.raises(ValueError, match="expected a checkpoint"):
        train_encoder(train, validation, N, config, checkpoint=file)


def test_a_seed_fixes_the_result():
    train, validation = planted_split()
    config = dataclasses.replace(QUICK, max_epochs=2)
    first, _ = train_encoder(train, validation, N, config)
    second, _ = train_encoder(train, validation, N, config)
    other, _ = train_encoder(train, validation, N, dataclasses.replace(config, seed=1))
    torch.testing.assert_close(first.item_vectors, second.item_vectors, rtol=0, atol=0)
    assert not torch.equal(first.item_vectors, other.item_vectors)


def test_bad_arguments_are_refused():
    train, validation = planted_split()
    nothing = Cases(np.empty(0, np.int32), np.empty(0, np.int32), Histories.from_lists([]))
    with pytest.raises(ValueError, match="validation cases"):
        train_encoder(train, nothing, N, QUICK)
    with pytest.raises(ValueError, match="two training events"):
        train_encoder(Histories.from_lists([[1], []]), validation, N, QUICK)
    with pytest.raises(ValueError, match="item numbers < 3"):
        train_encoder(train, validation, 3, QUICK)
    with pytest.raises(ValueError, match="held_out"):
        train_encoder(train, validation, N, QUICK, held_out=np.zeros(3, bool))
    settings: list[dict[str, Any]] = [
        {"model": "bert"},
        {"dim": 0},
        {"dropout": 1.0},
        {"negatives": -1},
        {"shared_negatives": -1},
        {"negatives": 3, "shared_negatives": 3},
        {"learning_rate": 0.0},
        {"alpha": -1.0},
        {"max_validation": 0},
        {"options": {"n_interests": 2}},
    ]
    for changes in settings:
        with pytest.raises(ValueError, match=next(iter(changes))):
            IDConfig(**changes)
    with pytest.raises(ValueError, match="n_heads"):
        IDConfig(model="sasrec", dim=7).build(N)


def test_items_never_trained_are_no_part_of_a_history():
    known = np.ones(N, dtype=bool)
    known[[2, 5]] = False
    ids = TrainedIDs(encoder("gru4rec"), IDConfig(dim=8, max_history=6), known)
    vectors, has_any = ids.user_vectors(Histories.from_lists([[1, 2, 3, 5], [1, 3], [2, 5]]))
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert has_any.tolist() == [True, True, False]


@pytest.mark.parametrize("model", MODELS)
def test_trained_ids_to_disk_and_back(tmp_path, model):
    config = IDConfig(model=model, dim=8, max_history=6)
    torch.manual_seed(0)
    ids = TrainedIDs(config.build(N), config, np.arange(N) > 1)
    ids.save(tmp_path / "ids")
    again = load_ids(tmp_path / "ids")
    histories = Histories.from_lists([[3, 4], [], [0, 9]])
    for before, after in zip(
        ids.user_vectors(histories), again.user_vectors(histories), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(ids.item_vectors, again.item_vectors)
    np.testing.assert_array_equal(ids.item_known, again.item_known)
    (tmp_path / "ids" / "encoder.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="expected saved ID embeddings"):
        load_ids(tmp_path / "ids")


def test_given_vectors_are_averaged_over_the_known_items(tmp_path):
    table = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    known = np.ones(N, dtype=bool)
    known[7] = False
    ids = GivenIDs(table, known)
    ids.save(tmp_path / "ids")
    for source in (ids, load_ids(tmp_path / "ids")):
        vectors, has_any = source.user_vectors(Histories.from_lists([[1, 7, 3, 1], [7], []]))
        np.testing.assert_allclose(vectors[0, 0], (2 * table[1] + table[3]) / 3, rtol=1e-5)
        assert has_any.tolist() == [True, False, False]
        assert vectors.shape == (3, 1, 4)


def test_a_user_table_comes_first(tmp_path):
    table = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    users = np.random.default_rng(1).normal(size=(5, 2, 4)).astype(np.float32)
    ids = GivenIDs(table, np.ones(N, bool), users, np.array([1, 1, 0, 1, 1], bool))
    ids.save(tmp_path / "ids")
    histories = Histories.from_lists([[1], [2]])
    for source in (ids, load_ids(tmp_path / "ids")):
        assert source.n_user_vectors == 2
        vectors, has_any = source.user_vectors(histories, np.array([3, 2], np.int32))
        np.testing.assert_array_equal(vectors[0], users[3])
        assert has_any.tolist() == [True, False]
        # somebody who is not of the dataset has no row in the table
        assert not source.user_vectors(histories)[1].any()
    with pytest.raises(ValueError, match="user_known"):
        GivenIDs(table, np.ones(N, bool), users)
    with pytest.raises(ValueError, match="item_known"):
        GivenIDs(table, np.ones(3, bool))


def test_vectors_are_read_in_the_order_wanted(tmp_path):
    from safetensors.numpy import save_file

    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "v.npy", table)
    save_file({"anything": table}, tmp_path / "v.safetensors")
    (tmp_path / "ids.txt").write_text("a\n007\nc\n")
    for name in ("v.npy", "v.safetensors"):
        found, known = read_vectors(tmp_path / name, tmp_path / "ids.txt", ["007", "7", "a"])
        assert known.tolist() == [True, False, True]
        assert found.tolist() == [[2, 3], [0, 0], [0, 1]]
    (tmp_path / "ids.txt").write_text("a\n007\nc\n", encoding="utf-8-sig")
    assert read_vectors(tmp_path / "v.npy", tmp_path / "ids.txt", ["a"])[1].tolist() == [True]


def test_bad_vectors_are_refused_with_their_place(tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("a\nb\nc\n")
    good = np.ones((3, 2), np.float32)

    def message(table, names=None, wanted=("a",), file="v.npy", **options):
        path = tmp_path / file
        if table is not None:
            with path.open("wb") as stream:
                np.save(stream, table, **options)
        if names is not None:
            ids.write_text(names)
        with pytest.raises(ValueError, match=r".") as caught:
            read_vectors(path, ids, list(wanted))
        return str(caught.value)

    bad = good.copy()
    bad[1, 0] = np.nan
    assert "'b'" in message(bad)
    assert "pickle" in message(np.array([{}], dtype=object), allow_pickle=True).lower()
    assert "got float32 [3]" in message(good[:, 0])
    assert "'.csv'" in message(good, file="v.csv")
    assert "no such file" in message(None, file="absent.npy")
    assert "none of its 3 ids" in message(good, wanted=("x",))
    assert "expected 3 ids" in message(good, "a\nb\n")
    assert "ids.txt:3: id 'a' stands on line 1 too" in message(good, "a\nb\na\n")


@pytest.mark.slow
def test_real_histories_are_learnt(shared_data):
    """A few epochs on MovieLens-100K pass popularity (validation NDCG@10 about 0.04)."""
    from rarec.data import read_dataset

    dataset = read_dataset(shared_data / "ml-100k")
    split = leave_one_out(dataset)
    config = IDConfig(max_epochs=6, dim=32, learning_rate=5e-3)
    _, report = train_encoder(split.train, split.validation, dataset.n_items, config)
    assert report.validation_ndcg > 0.05
