"""The losses of a training, which are kept over a stop."""

import json
import math

import pytest
import torch

from rarec.training.loss_record import LossRecord


def record_of(losses, start=1) -> LossRecord:
    record = LossRecord()
    for step, loss in enumerate(losses, start=start):
        record.add(step, torch.tensor(loss))
    return record


def logs(*steps):
    return [{"step": step, "loss": 0.0} for step in steps] + [{"step": 9, "train_loss": 0.0}]


@pytest.mark.parametrize(
    ("history", "expected"),
    [(logs(), 3.5), (logs(2), 1.5), (logs(2, 4), 3.5), (logs(1, 2, 6), 4.5)],
)
def test_the_mean_is_that_between_the_newest_logs(history, expected):
    assert record_of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).mean(history) == expected


def test_batches_of_a_step_are_added_and_losses_that_are_not_finite_left_out():
    record = record_of([1.0, math.inf, 3.0, math.nan])
    record.add(3, torch.tensor(2.0))
    assert record.mean([]) == 3.0
    assert math.isnan(record_of([math.nan]).mean([]))
    assert math.isnan(LossRecord().mean([]))


def test_losses_are_kept_in_every_digit(tmp_path):
    losses = torch.rand(9, generator=torch.Generator().manual_seed(0)).tolist()
    losses[5] = math.inf
    expected = record_of(losses).mean(logs(2, 4, 9))
    before = record_of(losses[:7])
    before.collect(logs(2, 4))
    before.write(tmp_path)
    # those before the second newest log are needed no more
    assert json.loads((tmp_path / "losses.json").read_text())["first"] == 3
    after = LossRecord()
    after.read(tmp_path)
    for step in (8, 9):
        after.add(step, torch.tensor(losses[step - 1]))
    assert after.mean(logs(2, 4, 9)) == expected


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "losses.json"
    good = {"format": "rarec.losses/1", "first": 1, "losses": [0.5, None]}
    for changes in (
        {"format": "other"},
        {"first": 0},
        {"first": "1"},
        {"losses": [True]},
        {"losses": {"1": 2.0}},
        {"losses": None},
        {"more": 1},
    ):
        file.write_text(json.dumps({**good, **changes}))
        with pytest.raises(ValueError, match=str(file)) as raised:
            LossRecord().read(tmp_path)
        assert next(iter(changes)) in str(raised.value)
        assert "\n" not in str(raised.value)
    file.unlink()
    with pytest.raises(ValueError, match=r"losses\.json"):
        LossRecord().read(tmp_path)
    file.write_text(json.dumps(good))
    record = LossRecord()
    record.read(tmp_path)
    assert record.mean([]) == 0.5
