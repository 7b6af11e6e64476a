"""Lower states of texts: computed from one plan, read by a training that reads texts again."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rarec.backbone import Backbone, load_backbone
from rarec.encoding import Entities
from rarec.model import RARec
from rarec.prompts import Prompts
from rarec.selection import NegativeSampler, training_samples
from rarec.settings import LossSettings, ModelSettings, TrainingSettings
from rarec.training import (
    ExtraNegatives,
    HardNegatives,
    RARecTrainer,
    StateCache,
    TrainingData,
    lower_states,
    train,
    training_arguments,
    training_lower_states,
)
from rarec.training import run as run_module

E = 6


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> StateCache:
    """Keep the states of texts out of the cache of whoever runs the tests."""
    monkeypatch.setenv("RAREC_CACHE", str(tmp_path / "cache"))
    return StateCache()


@pytest.fixture(scope="module")
def llm(tiny_llm):
    return load_backbone(str(tiny_llm), device="cpu")


def make_data(llm, planted, **options) -> TrainingData:
    """Return 53 samples: an epoch has three batches of 16, and leaves five samples out."""
    prompts = Prompts(llm[1], planted.titles)
    samples = training_samples(planted.histories).take(np.arange(53))
    random = np.random.default_rng(0)
    users = Entities(
        prompts.users(samples.prefixes(5)),
        random.normal(size=(53, 1, E)).astype(np.float32),
        np.arange(53) % 7 > 0,
    )
    vectors = random.normal(size=(40, 1, E)).astype(np.float32)
    return TrainingData(samples, users, Entities(prompts.items(range(40)), vectors), **options)


@pytest.fixture
def data(llm, planted) -> TrainingData:
    return make_data(llm, planted)


def make_model(llm, **changes) -> RARec:
    settings = ModelSettings(**{"prefix_length": 2, "layers": 1, **changes})
    return RARec(llm[0], user_id_dim=E, item_id_dim=E, settings=settings)


def arguments(folder, **changes):
    small = {"max_steps": 9, "per_device_train_batch_size": 16, "save_steps": 3}
    return training_arguments(folder, TrainingSettings(**{**small, **changes}))


def computed(patch) -> list[np.ndarray]:
    """Return a list that gets the tokens of each text whose lower layers run."""
    texts: list[np.ndarray] = []
    ordinary = Backbone.lower_states

    def counted(self, input_ids, attention_mask, *, below):
        for ids, mask in zip(input_ids, attention_mask.bool(), strict=True):
            texts.append(ids[mask].numpy())
        return ordinary(self, input_ids, attention_mask, below=below)

    patch.setattr(Backbone, "lower_states", counted)
    return texts


def targets(data: TrainingData) -> set[int]:
    return set(data.samples.targets.tolist())


def test_the_states_are_those_of_the_model_and_computed_once(llm, data, cache, monkeypatch):
    model, tokens = make_model(llm), data.items.tokens
    numbers = np.array([0, 3, 7, 21, 39])
    read: list[int] = []
    states = lower_states(model, tokens, numbers, on_rows=read.append)
    assert sum(read) == 5
    rows = np.array([21, 3, 39, 3])
    batch = data.items.batch(rows)
    filled = states.fill(batch, rows).lower
    states.close()
    expected = llm[0].lower_states(batch.input_ids, batch.attention_mask, below=1)
    assert filled is not None
    torch.testing.assert_close(filled, expected)
    texts = computed(monkeypatch)
    again = lower_states(make_model(llm, prefix_length=3), tokens, numbers)
    assert not texts
    assert torch.equal(again.fill(batch, rows).lower, filled)  # type: ignore[arg-type]
    again.close()
    # other texts have states of their own
    lower_states(model, tokens, numbers[1:]).close()
    assert len(texts) == 4
    assert len(list(cache.folder.iterdir())) == 2


def test_loss_and_gradients_are_the_same(llm, data, tmp_path):
    model = make_model(llm)
    lower = training_lower_states(model, data, 1000)
    assert lower.users is not None
    assert lower.items is not None

    def gradients(chunk_size, lower):
        loss = LossSettings(chunk_size=chunk_size)
        trainer = RARecTrainer(model, arguments(tmp_path), data, loss, lower=lower)
        value = trainer.compute_loss(model, {"rows": torch.arange(5, 30)})
        trained = [p for p in model.parameters() if p.requires_grad]
        return [value, *torch.autograd.grad(value, trained)]

    for chunk_size in (None, 4):
        pairs = zip(gradients(chunk_size, None), gradients(chunk_size, lower), strict=True)
        for expected, found in pairs:
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    lower.close()


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_the_lower_layers_of_a_text_run_once(llm, data, tmp_path, monkeypatch, chunk_size):
    texts, tokens = computed(monkeypatch), []
    hook = (
        llm[0]
        .layers[0]
        .module.register_forward_hook(lambda *call: tokens.append(call[1][0].shape[:2].numel()))
    )
    # 144 user texts are read, of 53, and about as many item texts
    train(make_model(llm), data, arguments(tmp_path), LossSettings(chunk_size=chunk_size))
    hook.remove()
    assert len(texts) == 53 + len(targets(data))
    # and no other way leads through the lowest layer
    assert sum(tokens) == sum(map(len, texts))


@pytest.mark.parametrize(
    ("n_samples", "users", "items"), [(20, False, False), (53, False, True), (54, True, True)]
)
def test_states_are_made_of_texts_that_are_read_again(llm, data, cache, n_samples, users, items):
    assert 20 < len(targets(data)) < 53
    lower = training_lower_states(make_model(llm), data, n_samples)
    assert (lower.users is not None, lower.items is not None) == (users, items)
    if lower.items is not None:
        assert set(lower.items.numbers.tolist()) == targets(data)
    lower.close()
    assert len(list(cache.folder.glob("*"))) == users + items


def test_states_are_made_of_all_items_that_can_be_negatives(llm, planted):
    pools = np.full((53, 2), -1, np.int32)
    pools[4] = 1, 3
    for options, expected in (
        ({"hard": HardNegatives(pools, 40, 1)}, targets(make_data(llm, planted)) | {1, 3}),
        ({"extra": ExtraNegatives(NegativeSampler(planted.histories, 40), 2)}, set(range(40))),
    ):
        data = make_data(llm, planted, **options)
        lower = training_lower_states(make_model(llm), data, 1000)
        assert lower.items is not None
        assert set(lower.items.numbers.tolist()) == expected
        batch = lower.fill(data.batch(np.arange(53), step=0))
        assert batch.items.lower is not None
        lower.close()


def test_states_that_would_exceed_the_limit_are_not_made(llm, data, tmp_path):
    item_tokens = data.items.tokens.lengths[sorted(targets(data))].sum()
    user_tokens = data.users.tokens.lengths.sum()
    for n_tokens, users, items in (
        (item_tokens - 1, False, False),
        (item_tokens + user_tokens - 1, False, True),
        (item_tokens + user_tokens, True, True),
    ):
        small = StateCache(tmp_path / str(n_tokens), limit=int(n_tokens) * 32 * 4)
        lower = training_lower_states(make_model(llm), data, 1000, cache=small)
        assert (lower.users is not None, lower.items is not None) == (users, items)
        lower.close()


def test_a_full_disk_leaves_the_training_without_them(llm, data, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(StateCache, "_write", full)
    report = train(make_model(llm), data, arguments(tmp_path, max_steps=5))
    assert report.steps == 5
    assert "lower states of items are not kept: no space left" in caplog.text


@pytest.mark.parametrize("kept", [True, False])
def test_a_resumed_training_has_the_same_bits(llm, data, cache, tmp_path, monkeypatch, kept):
    whole = make_model(llm)
    train(whole, data, arguments(tmp_path / "whole"))

    class StoppedError(Exception):
        pass

    ordinary = RARecTrainer.compute_loss

    def interrupted(self, *args, **keywords):
        if self.state.global_step == 4:
            raise StoppedError
        return ordinary(self, *args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(RARecTrainer, "compute_loss", interrupted)
        with pytest.raises(StoppedError):
            train(make_model(llm), data, arguments(tmp_path / "part"))
    texts = computed(monkeypatch)
    if not kept:
        # another training needed the room
        for path in cache.folder.iterdir():
            path.unlink()
    resumed = make_model(llm)
    train(resumed, data, arguments(tmp_path / "part"), resume=True)
    assert bool(texts) != kept
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0)
    # nothing of them is in the checkpoints
    names = {path.name for path in Path(tmp_path / "part").rglob("*")}
    assert not [name for name in names if "lower" in name]


def test_files_are_removed_while_a_training_reads_them(llm, data, cache, tmp_path, monkeypatch):
    whole = make_model(llm)
    train(whole, data, arguments(tmp_path / "whole"))
    ordinary = run_module.training_lower_states

    def removed(*args, **keywords):
        lower = ordinary(*args, **keywords)
        for path in cache.folder.iterdir():
            path.unlink()
        return lower

    monkeypatch.setattr(run_module, "training_lower_states", removed)
    other = make_model(llm)
    train(other, data, arguments(tmp_path / "other"))
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(
    "changes",
    [{"layers": "all"}, {"layers": 2}, {"placement": "inputs"}, {"tune": "full"}],
)
def test_states_that_change_are_not_kept(tiny_llm, data, cache, changes):
    # its own: the weights of a language model are trained once
    model = make_model(load_backbone(str(tiny_llm), device="cpu"), **changes)
    lower = training_lower_states(model, data, 1000)
    assert lower.users is None
    assert lower.items is None
    assert not cache.folder.exists()


def test_states_have_the_dtype_of_the_model(tiny_llm, data):
    backbone, tokenizer = load_backbone(str(tiny_llm), device="cpu", dtype=torch.bfloat16)
    tokens = data.users.tokens
    states = lower_states(make_model((backbone, tokenizer)), tokens, np.arange(53))
    filled = states.fill(data.users.batch([1, 2]), [1, 2]).lower
    states.close()
    assert filled is not None
    assert filled.dtype == torch.bfloat16
    assert Path(states.file.name).stat().st_size == tokens.lengths.sum() * 64
