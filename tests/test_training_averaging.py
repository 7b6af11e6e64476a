"""The average of the weights over the steps."""

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from rarec.backbone import load_backbone
from rarec.encoding import Entities
from rarec.model import ModelConfig, RARec
from rarec.prompts import Prompts
from rarec.recommender.configs import AlignConfig
from rarec.selection import training_samples
from rarec.training import RARecTrainer, TrainingData, WeightAverage, train, training_arguments

E = 6


@pytest.fixture(scope="module")
def llm(tiny_llm):
    return load_backbone(str(tiny_llm), device="cpu")


@pytest.fixture(scope="module")
def data(llm, planted) -> TrainingData:
    prompts = Prompts(llm[1], planted.titles)
    samples = training_samples(planted.histories)
    generator = np.random.default_rng(0)
    users = generator.normal(size=(len(samples), 1, E)).astype(np.float32)
    items = generator.normal(size=(40, 1, E)).astype(np.float32)
    return TrainingData(
        samples,
        Entities(prompts.users(samples.prefixes(5)), users),
        Entities(prompts.items(range(40)), items),
    )


def make_model(backbone, **changes) -> RARec:
    return RARec(
        backbone, user_id_dim=E, item_id_dim=E, config=ModelConfig(prefix_length=2, **changes)
    )


def arguments(folder, **changes):
    small = {"max_steps": 8, "per_device_train_batch_size": 16, "save_steps": 4}
    return training_arguments(folder, **{**small, **changes})


class Weights(TrainerCallback):
    """Notes the weights after each step."""

    def __init__(self, model: RARec) -> None:
        self.model = model
        self.steps = [self.now()]

    def now(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def on_step_end(self, *_, **__) -> None:
        self.steps.append(self.now())


@pytest.mark.parametrize("decay", [0.3, 0.99])
@pytest.mark.parametrize("changes", [{}, {"similarity": "dot"}, {"tune": "lora"}])
def test_the_model_ends_with_the_average(tiny_llm, llm, data, tmp_path, decay, changes):
    backbone = load_backbone(str(tiny_llm), device="cpu")[0] if "tune" in changes else llm[0]
    model = make_model(backbone, **changes)
    weights = Weights(model)
    train(model, data, arguments(tmp_path), callbacks=[weights], average_decay=decay)
    assert len(weights.steps) == 9
    for name, weight in model.named_parameters():
        expected = weights.steps[0][name].double()
        for step in range(1, 9):
            kept = min(decay, (1 + step) / (10 + step))
            expected = kept * expected + (1 - kept) * weights.steps[step][name].double()
        torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-6)
    last = weights.steps[-1]
    assert not torch.equal(model.user.prefix, last["user.prefix"])


def test_the_weights_of_the_steps_stay_as_they_are(llm, data, tmp_path):
    ends = []
    for decay in (None, 0.9):
        model = make_model(llm[0])
        weights = Weights(model)
        folder = tmp_path / str(decay)
        train(model, data, arguments(folder), callbacks=[weights], average_decay=decay)
        ends.append(weights.steps[-1])
    for name, expected in ends[0].items():
        assert torch.equal(ends[1][name], expected), name


def test_a_stopped_and_resumed_training_ends_with_the_same_average(llm, data, tmp_path):
    whole = make_model(llm[0])
    train(whole, data, arguments(tmp_path / "whole"), average_decay=0.9)

    class StoppedError(Exception):
        pass

    ordinary = RARecTrainer.compute_loss

    def interrupted(self, *args, **keywords):
        if self.state.global_step == 5:
            raise StoppedError
        return ordinary(self, *args, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RARecTrainer, "compute_loss", interrupted)
        with pytest.raises(StoppedError):
            train(make_model(llm[0]), data, arguments(tmp_path / "part"), average_decay=0.9)
    resumed = make_model(llm[0])
    train(resumed, data, arguments(tmp_path / "part"), resume=True, average_decay=0.9)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("average_decay", [None, 0.9])
def test_a_training_stopped_after_its_last_step_takes_no_more(llm, data, tmp_path, average_decay):
    whole, args = make_model(llm[0]), arguments(tmp_path)
    first = train(whole, data, args, average_decay=average_decay)
    # its checkpoints are there still: the process ended before it kept the model
    again = make_model(llm[0])
    report = train(again, data, args, resume=True, average_decay=average_decay)
    assert report.steps == first.steps == args.max_steps
    assert report.samples_per_second == 0
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)


def test_checkpoints_without_this_average_are_refused(llm, data, tmp_path):
    train(make_model(llm[0]), data, arguments(tmp_path, max_steps=4))
    with pytest.raises(ValueError, match=r"average\.safetensors: expected the average"):
        train(make_model(llm[0]), data, arguments(tmp_path), resume=True, average_decay=0.9)
    other = WeightAverage(make_model(llm[0], layers=1), 0.9)
    args = arguments(tmp_path)
    state = RARecTrainer(make_model(llm[0]), args, data).state
    other.on_train_begin(args, state, None)
    state.global_step = 4
    other.on_save(args, state, None)
    with pytest.raises(ValueError, match="expected an average of this model's weights"):
        train(make_model(llm[0]), data, arguments(tmp_path), resume=True, average_decay=0.9)


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0, float("nan")])
def test_a_bad_decay_is_refused(llm, decay):
    with pytest.raises(ValueError, match="expected 0 < average_decay < 1, got"):
        WeightAverage(make_model(llm[0]), decay)
    with pytest.raises(ValueError, match="expected 0 < average_decay < 1, got"):
        AlignConfig(average_decay=decay)
