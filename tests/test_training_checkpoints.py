"""Checkpoints: whole or not there, complete, and the end of a training that is stopped."""

import json
import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from transformers import TrainerCallback, TrainerState

from rarec.backbone import load_backbone
from rarec.encoding import Entities
from rarec.model import RARec
from rarec.prompts import Prompts
from rarec.selection import NegativeSampler, training_samples
from rarec.settings import ModelSettings, TrainingSettings
from rarec.training import (
    ExtraNegatives,
    RARecTrainer,
    TrainingData,
    newest_checkpoint,
    train,
    trainer,
    training_arguments,
)
from rarec.training.checkpoints import checkpoint_folder, mark_whole, remove_older

E = 6


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep the states of texts out of the cache of whoever runs the tests."""
    monkeypatch.setenv("RAREC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def llm(tiny_llm):
    return load_backbone(str(tiny_llm), device="cpu")


@pytest.fixture(scope="module")
def data(llm, planted) -> TrainingData:
    """Return 53 samples: an epoch has three batches of 16."""
    prompts = Prompts(llm[1], planted.titles)
    samples = training_samples(planted.histories).take(np.arange(53))
    generator = np.random.default_rng(0)
    users, items = (generator.normal(size=(n, 1, E)).astype(np.float32) for n in (len(samples), 40))
    return TrainingData(
        samples,
        Entities(prompts.users(samples.prefixes(5)), users),
        Entities(prompts.items(range(40)), items),
        extra=ExtraNegatives(NegativeSampler(planted.histories, 40, seed=1), 2),
    )


def make_model(llm) -> RARec:
    # random numbers are drawn in each step, too
    settings = ModelSettings(prefix_length=2, layers=1, id_dropout=0.3)
    return RARec(llm[0], user_id_dim=E, item_id_dim=E, settings=settings)


def arguments(folder, *, other=None, **changes):
    small = {"max_steps": 8, "per_device_train_batch_size": 16, "save_steps": 4}
    return training_arguments(folder, TrainingSettings(**{**small, **changes}, other=other or {}))


def assert_equal(model: RARec, other: RARec) -> None:
    for name, tensor in model.state_dict().items():
        assert tensor.equal(other.state_dict()[name]), name


@pytest.fixture
def interrupted_in(monkeypatch):
    """Return a function that sends Ctrl-C in a batch of a step, and again after some seconds."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    ordinary = RARecTrainer.compute_loss

    def install(step: int, *again: float) -> None:
        waits = [0.0, *again]

        def interrupted(self, *given, **options):
            if self.state.global_step == step - 1:
                while waits:
                    time.sleep(waits.pop(0))
                    signal.raise_signal(signal.SIGINT)
            return ordinary(self, *given, **options)

        monkeypatch.setattr(RARecTrainer, "compute_loss", interrupted)

    yield install
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def undisturbed(llm, data, tmp_path_factory):
    """Return a function that trains without a stop, once for each kind of arguments."""
    known = {}

    def trained(**changes):
        key = repr(sorted(changes.items()))
        if key not in known:
            model = make_model(llm)
            folder = tmp_path_factory.mktemp("undisturbed")
            known[key] = model, train(model, data, arguments(folder, **changes))
        return known[key]

    return trained


@pytest.mark.parametrize(("logging_steps", "accumulated"), [(3, 1), (50, 2)])
@pytest.mark.parametrize("step", range(1, 9))
def test_a_stop_in_any_step_changes_no_digit(
    llm, data, tmp_path, undisturbed, interrupted_in, step, logging_steps, accumulated
):
    changes = {
        "logging_steps": logging_steps,
        "other": {"gradient_accumulation_steps": accumulated},
    }
    whole, expected = undisturbed(**changes)
    args = arguments(tmp_path / "part", **changes)
    interrupted_in(step)
    with pytest.raises(KeyboardInterrupt):
        train(make_model(llm), data, args)
    saved = newest_checkpoint(tmp_path / "part")
    # how long a step takes is not known in the first one
    assert saved == (None if step == 1 else checkpoint_folder(tmp_path / "part", step))
    interrupted_in(100)
    resumed = make_model(llm)
    report = train(resumed, data, args, resume=True)
    assert report.steps == 8
    assert math.isfinite(report.loss)
    assert report.loss == expected.loss
    assert_equal(whole, resumed)


@pytest.mark.parametrize("logging_steps", [3, 50])
def test_the_loss_is_that_of_transformers_between_two_logs(llm, data, tmp_path, logging_steps):
    noted: list[dict[str, float]] = []

    class Noted(TrainerCallback):
        def on_log(self, *_, logs=None, **__):
            noted.append(logs or {})

    args = arguments(tmp_path, logging_steps=logging_steps)
    report = train(make_model(llm), data, args, callbacks=[Noted()])
    losses = [entry["loss"] for entry in noted if "loss" in entry]
    expected = losses[-1] if losses else noted[-1]["train_loss"]
    assert report.loss == pytest.approx(expected, rel=1e-6)


def test_a_second_signal_does_not_wait(llm, data, tmp_path, interrupted_in):
    interrupted_in(6, 0.6)
    with pytest.raises(KeyboardInterrupt):
        train(make_model(llm), data, arguments(tmp_path))
    # the one before the stop
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-4"


def test_a_state_that_takes_long_to_save_is_not_waited_for(
    llm, data, tmp_path, interrupted_in, monkeypatch
):
    monkeypatch.setattr(trainer, "_save_seconds", lambda _: 2.0)
    interrupted_in(3)
    with pytest.raises(KeyboardInterrupt):
        train(make_model(llm), data, arguments(tmp_path))
    assert newest_checkpoint(tmp_path) is None


def test_the_handler_is_as_before(llm, data, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    train(make_model(llm), data, arguments(tmp_path, max_steps=1))
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("where", ["model.safetensors", "optimizer.pt", "losses.json", "whole"])
def test_an_error_leaves_the_checkpoint_before_it(llm, data, tmp_path, monkeypatch, where):
    """The disk is full when a file of the second checkpoint is written."""
    full = OSError(28, "No space left on device")

    def fail(*_, **__):
        raise full

    places = {
        "model.safetensors": (RARecTrainer, "save_model"),
        "optimizer.pt": (RARecTrainer, "_save_optimizer_and_scheduler"),
        "losses.json": (trainer.LossRecord, "write"),
        "whole": (trainer, "mark_whole"),
    }
    ordinary = RARecTrainer._save_checkpoint

    def failing(self, *given):
        with pytest.MonkeyPatch.context() as patch:
            if self.state.global_step == 8:
                owner, name = places[where]
                patch.setattr(owner, name, fail)
            ordinary(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(RARecTrainer, "_save_checkpoint", failing)
        with pytest.raises(OSError, match="no space left on the disk") as raised:
            train(make_model(llm), data, arguments(tmp_path / "run", max_steps=9))
    assert raised.value.__cause__ is full
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-4"]
    whole, resumed = make_model(llm), make_model(llm)
    train(whole, data, arguments(tmp_path / "whole", max_steps=9))
    train(resumed, data, arguments(tmp_path / "run", max_steps=9), resume=True)
    assert_equal(whole, resumed)


@pytest.fixture(scope="module")
def trained(llm, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(make_model(llm), data, arguments(folder, max_steps=2))
    return folder


@pytest.fixture
def checkpoint(trained, tmp_path):
    """Return a copy of a whole checkpoint."""
    copy = tmp_path / "run" / "checkpoint-2"
    copy.mkdir(parents=True)
    for file in (trained / "checkpoint-2").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert newest_checkpoint(copy.parent) == copy
    return copy


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError, match=r"--restart") as raised:
        newest_checkpoint(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_damaged_file_is_named(checkpoint):
    names = {file.name for file in checkpoint.iterdir()} - {"whole"}
    assert {"model.safetensors", "optimizer.pt", "losses.json", "trainer_state.json"} <= names
    for name in names:
        content = (checkpoint / name).read_bytes()
        changed = bytearray(content)
        changed[len(content) // 2] ^= 1
        for wrong, message in (
            (bytes(changed), "the content as it was written"),
            (content[:-1], f"expected {len(content)} bytes, got {len(content) - 1}"),
        ):
            (checkpoint / name).write_bytes(wrong)
            told = refusal(checkpoint.parent)
            assert told.startswith(f"{checkpoint / name}: ")
            assert message in told
        (checkpoint / name).unlink()
        assert "expected a file of the checkpoint, got none" in refusal(checkpoint.parent)
        (checkpoint / name).write_bytes(content)
    assert newest_checkpoint(checkpoint.parent) == checkpoint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: "", "expected a JSON object"),
        (lambda _: "[]", "expected a JSON object, got list"),
        (lambda _: {}, "expected format to be given, got nothing"),
        (lambda whole: {**whole, "format": "rarec.checkpoint/9"}, "rarec.checkpoint/9"),
        (lambda whole: {**whole, "files": None}, "expected files to be a valid dictionary"),
        (lambda whole: {**whole, "files": {"a": {"size": -1, "sha256": ""}}}, "expected size"),
        (lambda whole: {**whole, "files": {"a": 1}}, "expected files to be"),
        (lambda whole: {**whole, "more": 1}, "'more'"),
    ],
)
def test_a_damaged_list_of_files_is_named(checkpoint, change, message):
    whole = checkpoint / "whole"
    changed = change(json.loads(whole.read_text()))
    whole.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    told = refusal(checkpoint.parent)
    assert told.startswith(f"{whole}: ")
    assert message in told


def test_of_a_large_file_the_beginning_is_read(tmp_path):
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    large = folder / "large"
    with large.open("wb") as file:
        file.truncate(64 * 2**20 + 1)
    mark_whole(folder)
    assert newest_checkpoint(tmp_path) == folder
    for offset, is_seen in ((2**20, False), (100, True)):
        with large.open("r+b") as file:
            os.lseek(file.fileno(), offset, os.SEEK_SET)
            file.write(b"x")
        if is_seen:
            assert "large: expected the content" in refusal(tmp_path)
        else:
            assert newest_checkpoint(tmp_path) == folder


class StoppedError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("where", ["save_to_json", "mark_whole"])
def test_a_half_written_checkpoint_is_not_taken(llm, data, tmp_path, monkeypatch, where):
    whole = make_model(llm)
    train(whole, data, arguments(tmp_path / "whole", max_steps=9))
    folder = tmp_path / "part"

    with monkeypatch.context() as patch:
        # the second checkpoint is not finished, and a killed process removes nothing
        patch.setattr(trainer, "remove_checkpoint", lambda _: None)
        if where == "mark_whole":
            ordinary = trainer.mark_whole

            def stop(path):
                if path.name == "checkpoint-8":
                    raise StoppedError
                ordinary(path)

            patch.setattr(trainer, "mark_whole", stop)
        else:
            keep = TrainerState.save_to_json

            def stop_in_json(self, path):
                if self.global_step == 8:
                    Path(path).write_text('{"half":')
                    raise StoppedError
                keep(self, path)

            patch.setattr(TrainerState, "save_to_json", stop_in_json)
        with pytest.raises(StoppedError):
            train(make_model(llm), data, arguments(folder, max_steps=9))
    # the older one is still there
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-8"}
    assert newest_checkpoint(folder) == folder / "checkpoint-4"
    assert not (folder / "checkpoint-8").exists()
    resumed = make_model(llm)
    train(resumed, data, arguments(folder, max_steps=9), resume=True)
    assert_equal(whole, resumed)
    assert newest_checkpoint(folder) is not None


def test_without_a_whole_checkpoint_a_training_starts_anew(llm, data, tmp_path):
    whole = make_model(llm)
    train(whole, data, arguments(tmp_path / "whole"))
    (tmp_path / "part" / "checkpoint-4").mkdir(parents=True)
    (tmp_path / "part" / "checkpoint-4" / "model.safetensors").write_bytes(b"half")
    assert newest_checkpoint(tmp_path / "nothing") is None
    resumed = make_model(llm)
    train(resumed, data, arguments(tmp_path / "part"), resume=True)
    assert_equal(whole, resumed)


@pytest.mark.parametrize(
    ("most", "keep", "left"),
    [
        (None, None, [2, 9, 10]),
        (1, None, [10]),
        (2, None, [9, 10]),
        (2, 2, [2, 10]),
        (1, 2, [2, 10]),
    ],
)
def test_the_oldest_checkpoints_are_removed(tmp_path, most, keep, left):
    for step in (2, 9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "whole").touch()
    (tmp_path / "checkpoint-of-mine").mkdir()
    remove_older(tmp_path, most, None if keep is None else str(tmp_path / f"checkpoint-{keep}"))
    names = {path.name for path in tmp_path.glob("checkpoint-*")}
    assert names == {f"checkpoint-{step}" for step in left} | {"checkpoint-of-mine"}
