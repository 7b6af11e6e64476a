"""Lower states of texts: computed once, kept in a file, read again over checkpoints."""

import dataclasses
from io import FileIO

import numpy as np
import pytest
import torch

from rarec.backbone import Backbone, load_backbone
from rarec.encoding import Entities
from rarec.model import ModelConfig, RARec
from rarec.prompts import Prompts
from rarec.selection import training_samples
from rarec.training import TrainingData, lower_states, train, training_arguments
from rarec.training.lower_states import LowerStates
from rarec.training.trainer import RARecTrainer

E = 6


@pytest.fixture(scope="module")
def llm(tiny_llm):
    return load_backbone(str(tiny_llm), device="cpu")


@pytest.fixture
def data(llm, planted) -> TrainingData:
    """Return 53 samples: an epoch has three batches of 16, and leaves five samples out."""
    prompts = Prompts(llm[1], planted.titles)
    samples = training_samples(planted.histories).take(np.arange(53))
    random = np.random.default_rng(0)
    return TrainingData(
        samples,
        Entities(
            prompts.users(samples.prefixes(5)),
            random.normal(size=(53, 1, E)).astype(np.float32),
            np.arange(53) % 7 > 0,
        ),
        Entities(prompts.items(range(40)), random.normal(size=(40, 1, E)).astype(np.float32)),
    )


def make_model(llm, **changes) -> RARec:
    config = ModelConfig(**{"prefix_length": 2, "layers": 1, **changes})
    return RARec(llm[0], user_id_dim=E, item_id_dim=E, config=config)


def arguments(folder, **changes):
    small = {"max_steps": 6, "per_device_train_batch_size": 16, "save_steps": 3}
    return training_arguments(folder, **{**small, **changes})


def computed(monkeypatch, backbone) -> list[np.ndarray]:
    """Return a list that gets the tokens of each text whose lower layers run."""
    texts: list[np.ndarray] = []
    ordinary = Backbone.lower_states

    def counted(self, input_ids, attention_mask, *, below):
        for ids, mask in zip(input_ids, attention_mask.bool(), strict=True):
            texts.append(ids[mask].numpy())
        return ordinary(self, input_ids, attention_mask, below=below)

    monkeypatch.setattr(Backbone, "lower_states", counted)
    return texts


def states_of(llm, data, tmp_path, **options) -> LowerStates:
    return LowerStates(llm[0], data.users.tokens, tmp_path / "states", below=1, **options)


def test_loss_and_gradients_are_the_same(llm, data, tmp_path):
    model = make_model(llm)
    trainer = RARecTrainer(model, arguments(tmp_path), data)
    kept = trainer.lower
    assert kept is not None

    def gradients(lower):
        trainer.lower = lower
        loss = trainer.compute_loss(model, {"rows": torch.arange(5, 30)})
        trained = [p for p in model.parameters() if p.requires_grad]
        return [loss, *torch.autograd.grad(loss, trained)]

    expected = gradients(None)
    # computed, and then read from the file
    for _ in range(2):
        for one, other in zip(gradients(kept), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_the_lower_layers_of_a_text_run_once(llm, data, tmp_path, monkeypatch):
    model = make_model(llm)
    trainer = RARecTrainer(model, arguments(tmp_path), data)
    rows, items, tokens = [], [], []
    ordinary = data.batch

    def batch(numbers, *, step):
        made = ordinary(numbers, step=step)
        rows.extend(made.user_rows)
        items.extend(made.item_rows)
        return made

    data.batch = batch  # type: ignore[method-assign]
    texts = computed(monkeypatch, llm[0])
    hook = (
        llm[0]
        .layers[0]
        .module.register_forward_hook(lambda *call: tokens.append(call[1][0].shape[:2].numel()))
    )
    trainer.train()
    hook.remove()
    assert len(rows) == 96
    assert len(texts) == len(set(rows)) + len(set(items)) < 96 + len(items)
    # and no other way leads through the lowest layer
    assert sum(tokens) == sum(map(len, texts))
    assert not (tmp_path / "lower-states").exists()


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_it_stops_at_the_bound(llm, data, tmp_path, monkeypatch, share):
    lengths = data.users.tokens.lengths
    limit = int(share * lengths.sum()) * 32 * 4
    bounded = states_of(llm, data, tmp_path / "bounded", limit=limit)
    free = states_of(llm, data, tmp_path / "free")
    rows = np.arange(53)
    batch = data.users.batch(rows)
    expected = free.fill(batch, rows).lower
    assert expected is not None
    texts = computed(monkeypatch, llm[0])
    for n_computed in (53, None):
        lower = bounded.fill(batch, rows).lower
        torch.testing.assert_close(lower, expected, rtol=1e-5, atol=1e-6)
        assert n_computed is None or len(texts) == n_computed
    n_kept = 106 - len(texts)
    assert (n_kept > 0) == (share > 0)
    assert n_kept < 53
    size = bounded.file.stat().st_size if share else 0
    assert limit - lengths.max() * 32 * 4 <= size <= limit
    assert free.file.stat().st_size == lengths.sum() * 32 * 4


@pytest.mark.parametrize("raises", [True, False])
def test_a_full_disk_ends_the_filling_alone(llm, data, tmp_path, monkeypatch, raises):
    states = states_of(llm, data, tmp_path)
    first = states.fill(data.users.batch([0, 1]), [0, 1]).lower

    class FullDisk(FileIO):
        def write(self, *_):
            if raises:
                raise OSError("no space left")
            return 7

    monkeypatch.setattr(lower_states, "FileIO", FullDisk)
    lower = states.fill(data.users.batch([0, 1, 2, 3]), [0, 1, 2, 3]).lower
    assert first is not None
    assert lower is not None
    assert torch.equal(lower[:2, : first.shape[1]], first)
    assert states.limit == states.file.stat().st_size
    assert states.fill(data.users.batch([3]), [3]).lower is not None


def test_a_checkpoint_says_what_is_kept(llm, data, tmp_path, monkeypatch):
    states = states_of(llm, data, tmp_path)
    batch = data.users.batch([3, 9, 3])
    expected = states.fill(batch, [3, 9, 3]).lower
    states.save(tmp_path / "table")
    # later rows are no part of it
    states.fill(data.users.batch([4]), [4])

    texts = computed(monkeypatch, llm[0])
    again = states_of(llm, data, tmp_path)
    again.load(tmp_path / "table")
    lower = again.fill(batch, [3, 9, 3]).lower
    assert not texts
    assert lower is not None
    assert expected is not None
    assert torch.equal(lower, expected)
    again.fill(data.users.batch([4]), [4])
    assert len(texts) == 1

    # what is not the same any more is computed
    content = bytearray(again.file.read_bytes())
    content[5] ^= 1
    again.file.write_bytes(content)
    again.load(tmp_path / "table")
    again.fill(batch, [3, 9, 3])
    assert len(texts) == 3
    again.file.write_bytes(b"")
    again.load(tmp_path / "table")
    again.fill(batch, [3, 9, 3])
    assert len(texts) == 6


def test_states_of_other_texts_are_not_taken(llm, data, tmp_path, monkeypatch):
    states = states_of(llm, data, tmp_path)
    states.fill(data.users.batch([3]), [3])
    states.save(tmp_path / "table")
    other = LowerStates(llm[0], data.items.tokens, states.file, below=1)
    other.load(tmp_path / "table")
    texts = computed(monkeypatch, llm[0])
    other.fill(data.items.batch([3]), [3])
    assert len(texts) == 1
    (tmp_path / "table").write_bytes(b"not a table")
    with pytest.raises(ValueError, match="expected the table of lower states"):
        states.load(tmp_path / "table")


@pytest.mark.parametrize("start", [3, 6])
def test_a_resumed_training_reads_what_was_kept(llm, data, tmp_path, monkeypatch, start):
    whole = make_model(llm)
    train(whole, data, arguments(tmp_path / "whole", max_steps=9))

    class StoppedError(Exception):
        pass

    ordinary = RARecTrainer.compute_loss

    def interrupted(self, *args, **keywords):
        if self.state.global_step == start + 1:
            raise StoppedError
        return ordinary(self, *args, **keywords)

    texts = computed(monkeypatch, llm[0])
    with monkeypatch.context() as patch:
        patch.setattr(RARecTrainer, "compute_loss", interrupted)
        with pytest.raises(StoppedError):
            train(make_model(llm), data, arguments(tmp_path / "part", max_steps=9))
    n_before = len(texts)
    resumed = make_model(llm)
    train(resumed, data, arguments(tmp_path / "part", max_steps=9), resume=True)
    # all items, and all users but a few, had been read
    assert n_before > 60
    assert len(texts) - n_before < 20
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(
    "changes",
    [{"layers": None}, {"layers": 2}, {"placement": "inputs", "layers": None}, {"tune": "full"}],
)
def test_states_that_change_are_not_kept(tiny_llm, data, tmp_path, changes):
    # its own: the weights of a language model are trained once
    model = make_model(load_backbone(str(tiny_llm), device="cpu"), **changes)
    assert RARecTrainer(model, arguments(tmp_path), data).lower is None


def test_states_have_the_dtype_of_the_model(tiny_llm, data, tmp_path):
    backbone, _ = load_backbone(str(tiny_llm), device="cpu", dtype=torch.bfloat16)
    states = LowerStates(backbone, data.users.tokens, tmp_path / "states", below=1)
    batch = data.users.batch([1, 2])
    for _ in range(2):
        filled = dataclasses.replace(states.fill(batch, [1, 2]), has_id=None)
        assert filled.lower is not None
        assert filled.lower.dtype == torch.bfloat16
    assert states.file.stat().st_size == data.users.tokens.lengths[[1, 2]].sum() * 64
