"""The training of ID models: targets, early stopping, several parts, and resuming."""

import dataclasses
import json
import random
import signal
import sys
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rarec.data import Cases, Histories, leave_one_out
from rarec.ids import build_encoder, checkpoint, train_encoder, train_encoders
from rarec.ids import encoder as id_encoder
from rarec.ids import training as id_training
from rarec.ids import validation as id_validation
from rarec.ids.checkpoint import Progress, read_checkpoint, write_checkpoint
from rarec.ids.validation import validation_ndcg
from rarec.ids.windows import HistoryWindows
from rarec.selection import training_samples
from rarec.settings import IDSettings

N = 30
MODELS = ("gru4rec", "sasrec", "comirec")


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


QUICK = IDSettings(
    dim=16,
    max_history=10,
    batch_size=50,
    max_epochs=25,
    patience=25,
    learning_rate=1e-2,
    text="",
)


@pytest.mark.parametrize("negatives", [0, 15])
@pytest.mark.parametrize("model", MODELS)
def test_a_rule_is_learnt(model, negatives):
    train, validation = planted_split()
    options = {"n_interests": 2} if model == "comirec" else {}
    epochs = 60 if model == "comirec" else 25
    settings = dataclasses.replace(
        QUICK, model=model, negatives=negatives, options=options, max_epochs=epochs
    )
    trained, report = train_encoder(train, validation, N, settings)
    # a random order gives about 0.23
    assert report.validation_ndcg > 0.75
    assert report.validation_ndcg == pytest.approx(validation_ndcg(trained, validation), abs=1e-6)


def test_validation_ndcg_equals_a_plain_ranking(monkeypatch):
    monkeypatch.setattr(id_validation, "_BLOCK", 7)
    monkeypatch.setattr(id_encoder, "_BLOCK", 3)
    torch.manual_seed(0)
    settings = IDSettings(
        model="comirec", dim=8, max_history=6, text="", options={"n_interests": 2}
    )
    model = build_encoder(settings, N).eval()
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
    assert validation_ndcg(model, cases) == pytest.approx(np.mean(expected), abs=1e-6)


def test_a_training_that_diverges_is_refused():
    train, validation = planted_split()
    settings = dataclasses.replace(QUICK, learning_rate=1e30)
    with pytest.raises(ValueError, match="the training diverged, a lower learning_rate helps"):
        train_encoder(train, validation, N, settings)


def test_each_event_but_the_first_is_a_target_once():
    generator = np.random.default_rng(0)
    lengths = [0, 1, 2, 5, 6, 7, 13, 30]
    rows, number = [], 0
    for length in lengths:
        rows.append(list(range(number, number + length)))
        number += length
    train = Histories.from_lists(rows)
    held_out = generator.random(number) < 0.3
    windows = HistoryWindows(train, 5, number, held_out)
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
    windows = HistoryWindows(train, 10, N, mask)
    only_first = windows.batch(np.flatnonzero(windows.users == 0))
    assert not only_first[2].any()
    settings = dataclasses.replace(QUICK, max_epochs=2, dropout=0.0)
    _, report = train_encoder(train, validation, N, settings, held_out=mask)
    assert report.held_out_samples == 9
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
    settings = dataclasses.replace(QUICK, max_epochs=2)
    weights = [
        train_encoder(histories, validation, N, settings, held_out=held_out)[0].item_vectors
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
    settings = dataclasses.replace(QUICK, patience=3)
    model, report = train_encoder(train, validation, N, settings)
    assert (report.epochs, report.best_epoch, report.validation_ndcg) == (5, 2, 0.5)
    # 150 windows in batches of 50
    assert report.steps == 15
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, states[1][name], rtol=0, atol=0)


@pytest.mark.parametrize("changes", [{}, {"negatives": 5}, {"shared_negatives": 5}])
def test_stopped_and_resumed_is_the_same_to_the_bit(tmp_path, changes):
    train, validation = planted_split()
    settings = dataclasses.replace(QUICK, max_epochs=5, **changes)
    whole, _ = train_encoder(train, validation, N, settings)

    class StoppedError(Exception):
        pass

    def stop(epoch, loss, ndcg):
        if epoch == 3:
            raise StoppedError

    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(StoppedError):
        train_encoder(train, validation, N, settings, checkpoint=file, on_epoch=stop)
    seen = []
    again, report = train_encoder(
        train, validation, N, settings, checkpoint=file, on_epoch=lambda *a: seen.append(a[0])
    )
    assert seen == [3, 4, 5]
    assert (report.epochs, report.steps) == (5, 15)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)

    with pytest.raises(ValueError, match=r"another training \(different: settings\)"):
        train_encoder(train, validation, N, dataclasses.replace(settings, seed=9), checkpoint=file)
    mask = np.zeros(len(train.items), dtype=bool)
    mask[5] = True
    with pytest.raises(ValueError, match=r"another training \(different: data\)"):
        train_encoder(train, validation, N, settings, held_out=mask, checkpoint=file)
    file.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"expected a checkpoint.* \(--restart\)"):
        train_encoder(train, validation, N, settings, checkpoint=file)


@pytest.mark.skipif(sys.platform == "win32", reason="a signal ends the process there")
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_ctrl_c_waits_for_the_end_of_a_short_epoch(tmp_path, monkeypatch, epoch):
    train, validation = planted_split()
    settings = dataclasses.replace(QUICK, max_epochs=4)
    seen: list[tuple[float, ...]] = []
    whole, _ = train_encoder(
        train, validation, N, settings, on_epoch=lambda *values: seen.append(values)
    )
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    ordinary = HistoryWindows.batch

    def interrupted(self, rows):
        monkeypatch.setattr(HistoryWindows, "batch", ordinary)
        signal.raise_signal(signal.SIGINT)
        return ordinary(self, rows)

    def noted(*values):
        done.append(values)
        if values[0] == epoch - 1:
            monkeypatch.setattr(HistoryWindows, "batch", interrupted)

    file = tmp_path / "checkpoint.safetensors"
    done: list[tuple[float, ...]] = []
    if epoch == 1:
        monkeypatch.setattr(HistoryWindows, "batch", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_encoder(train, validation, N, settings, checkpoint=file, on_epoch=noted)
    finally:
        signal.signal(signal.SIGINT, handler)
    # how long an epoch takes is not known in the first one
    assert len(done) == (0 if epoch == 1 else epoch)
    assert file.exists() == (epoch > 1)
    again, _ = train_encoder(train, validation, N, settings, checkpoint=file, on_epoch=noted)
    assert done == seen
    assert torch.equal(whole.item_vectors, again.item_vectors)


@pytest.fixture
def saved(tmp_path):
    """Return a checkpoint, and a function that reads it."""
    model, optimizer = make_state()
    progress = Progress()
    progress.record(0.5, model, 1.5)
    file = tmp_path / "checkpoint.safetensors"
    write_checkpoint(file, {"settings": 1}, model, optimizer, progress)
    return file, lambda: read_checkpoint(file, {"settings": 1}, *make_state())


def make_state():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def rewritten(file, change):
    """Change the tensors and texts of a file in place; the file is a sound one otherwise."""
    with safe_open(file, framework="pt") as opened:
        metadata = dict(opened.metadata())
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, file, metadata=metadata)


@pytest.mark.parametrize(
    "change",
    [
        lambda t, _: t["model/weight"].add_(1),
        lambda t, _: t.update({"best/bias": t["best/bias"].double()}),
        lambda t, _: t.update({"best/bias": t["best/bias"][:, None]}),
        lambda t, _: t.update({"more": torch.ones(1)}),
        lambda t, _: t.pop("optimizer/0/exp_avg"),
        lambda t, _: t.update({"random": t["random"].flip(0)}),
        lambda _, m: m.update(progress=m["progress"].replace("0.5", "0.6")),
        lambda _, m: m.update(identity="[]"),
        lambda _, m: m.pop("progress"),
        lambda _, m: m.pop("sha256"),
        lambda _, m: m.update(sha256="0"),
    ],
)
def test_a_change_of_a_checkpoint_is_found(saved, change):
    file, read = saved
    assert read().best_ndcg == 0.5
    rewritten(file, change)
    with pytest.raises(ValueError, match=r"expected a checkpoint.* \(--restart\)") as raised:
        read()
    assert str(raised.value).startswith(f"{file}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": -1}, "expected epoch to be"),
        ({"epoch": "1"}, "expected epoch to be a valid integer, got '1'"),
        ({"best_ndcg": 7.0}, "expected best_ndcg"),
        ({"seconds": None}, "expected seconds"),
        ({"other": 1}, "'other'"),
    ],
)
def test_progress_of_a_wrong_type_is_named(saved, values, message):
    file, read = saved

    def change(tensors, metadata):
        metadata["progress"] = json.dumps({**json.loads(metadata["progress"]), **values})
        metadata["sha256"] = checkpoint._hash(metadata, tensors)

    rewritten(file, change)
    with pytest.raises(ValueError, match=message):
        read()


def test_a_seed_fixes_the_result():
    train, validation = planted_split()
    settings = dataclasses.replace(QUICK, max_epochs=2)
    first, _ = train_encoder(train, validation, N, settings)
    second, _ = train_encoder(train, validation, N, settings)
    other, _ = train_encoder(train, validation, N, dataclasses.replace(settings, seed=1))
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
    bad: list[dict[str, Any]] = [
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
    for changes in bad:
        with pytest.raises(ValueError, match=next(iter(changes))):
            IDSettings(**changes)


@pytest.mark.slow
def test_real_histories_are_learnt(shared_data):
    """A few epochs on MovieLens-100K pass popularity (validation NDCG@10 about 0.04)."""
    from rarec.data import read_dataset

    dataset = read_dataset(shared_data / "ml-100k")
    split = leave_one_out(dataset)
    settings = IDSettings(max_epochs=6, dim=32, learning_rate=5e-3, text="")
    _, report = train_encoder(split.train, split.validation, dataset.n_items, settings)
    assert report.validation_ndcg > 0.05


def test_the_global_generators_are_as_before():
    train, validation = planted_split()
    settings = dataclasses.replace(QUICK, max_epochs=1)

    def drawn():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    expected = drawn()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    train_encoder(train, validation, N, settings)
    assert drawn() == expected


def test_parts_have_the_same_initial_values_and_batches(monkeypatch):
    train, validation = planted_split()
    settings = dataclasses.replace(QUICK, max_epochs=2)
    mask = np.random.default_rng(0).random(len(train.items)) < 0.2
    initial, batches = [], []
    build, batch = id_training.build_encoder, HistoryWindows.batch

    def built(*arguments, **options):
        encoder = build(*arguments, **options)
        initial.append({name: t.clone() for name, t in encoder.state_dict().items()})
        batches.append([])
        return encoder

    def noted(self, rows):
        batches[-1].append(rows.tolist())
        return batch(self, rows)

    monkeypatch.setattr(id_training, "build_encoder", built)
    monkeypatch.setattr(HistoryWindows, "batch", noted)
    epochs = []
    parts = train_encoders(
        train,
        validation,
        N,
        settings,
        {"all": None, "held-out": mask},
        on_epoch=lambda *done: epochs.append(done[:2]),
    )
    assert epochs == [("all", 1), ("all", 2), ("held-out", 1), ("held-out", 2)]
    for name, tensor in initial[0].items():
        assert torch.equal(tensor, initial[1][name])
    assert batches[0] == batches[1]
    assert len(batches[0]) == 6
    assert parts["held-out"][1].held_out_samples > parts["all"][1].held_out_samples == 0
    # a part does not depend on the others
    alone, _ = train_encoder(train, validation, N, settings, held_out=mask)
    assert torch.equal(alone.item_vectors, parts["held-out"][0].item_vectors)
    assert not torch.equal(alone.item_vectors, parts["all"][0].item_vectors)


def test_a_finished_part_is_read_and_not_trained_again(tmp_path):
    train, validation = planted_split()
    settings = dataclasses.replace(QUICK, max_epochs=2)
    mask = np.random.default_rng(0).random(len(train.items)) < 0.2
    masks = {"all": None, "held-out": mask}
    whole = train_encoders(train, validation, N, settings, masks)

    class StoppedError(Exception):
        pass

    def stop(part, epoch, loss, ndcg):
        if part == "held-out" and epoch == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_encoders(train, validation, N, settings, masks, folder=tmp_path, on_epoch=stop)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "all.safetensors",
        "held-out.safetensors",
    ]
    seen = []
    again = train_encoders(
        train,
        validation,
        N,
        settings,
        masks,
        folder=tmp_path,
        on_epoch=lambda *done: seen.append(done[:2]),
    )
    assert seen == [("held-out", 2)]
    for name, (encoder, report) in whole.items():
        assert torch.equal(encoder.item_vectors, again[name][0].item_vectors)
        expected = dataclasses.replace(report, seconds=again[name][1].seconds)
        assert again[name][1] == expected


def test_parts_that_cannot_be_trained_are_refused_before_any_work(tmp_path):
    train, validation = planted_split()
    mask = np.zeros(3, bool)
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "expected at least one part"),
        ({"a/b": None}, "name that can name a file, got 'a/b'"),
        ({"": None}, "name that can name a file, got ''"),
        ({"all": None, "fold-0": mask}, r"expected held_out \[1500\] for 'fold-0', got \[3\]"),
    ]
    for parts, message in cases:
        with pytest.raises(ValueError, match=message):
            train_encoders(train, validation, N, QUICK, parts, folder=tmp_path)
    assert not list(tmp_path.iterdir())
