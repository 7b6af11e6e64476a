"""A whole training step on one CPU thread: MiniLM, real titles, ID vectors of width 64.

rarec reads texts without padding, and projects the shared prefix and the prefixes of the samples in
one call for each layer. The straightforward step, written from the formulas of the paper, pads the
texts and projects a copy of the shared prefix for each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rarec import assets
from rarec.backbone import Backbone, load_backbone
from rarec.backbone.attention import AttentionContext, Prefix
from rarec.backbone.layers import keys_values, layer_prefix
from rarec.data import Dataset, read_dataset
from rarec.encoding import Entities, encode, plan_batches
from rarec.model import EntityBatch, RARec, Tower
from rarec.prompts import Prompts
from rarec.settings import ModelSettings
from rarec.training import LowerStates, StateCache, lower_states

N_BATCH, ID_DIM, SEED = 64, 64, 0

Encode = Callable[[Tower, EntityBatch], Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> RARec:
    try:
        backbone, _ = load_backbone("all-MiniLM-L6-v2", device="cpu")
    except ValueError as error:
        pytest.skip(f"STEP NOT TIMED: {error}")
    settings = ModelSettings(layers="all")
    return RARec(backbone, user_id_dim=ID_DIM, item_id_dim=ID_DIM, settings=settings)


@pytest.fixture(scope="module")
def movielens() -> tuple[Prompts, Dataset]:
    try:
        dataset = read_dataset(assets.fetch("ml-100k"))
        _, tokenizer = load_backbone("all-MiniLM-L6-v2", device="cpu")
    except (assets.AssetError, ValueError) as error:
        pytest.skip(f"STEP NOT TIMED: {error}")
    return Prompts(tokenizer, dataset.titles), dataset


@pytest.fixture(scope="module")
def entities(movielens: tuple[Prompts, Dataset]) -> tuple[Entities, Entities]:
    """Return users of MovieLens-100K at random points of their histories, and their next items."""
    prompts, dataset = movielens
    random = np.random.default_rng(SEED)
    histories = dataset.histories
    rows = random.integers(0, len(histories), 2000)
    starts, ends = histories.offsets[rows], histories.offsets[rows + 1]
    targets = random.integers(starts, ends)
    before = [
        [dataset.titles[item] for item in histories.items[max(start, target - 5) : target]]
        for start, target in zip(starts, targets, strict=True)
    ]

    def vectors(n_rows: int) -> np.ndarray:
        return random.standard_normal((n_rows, 1, ID_DIM)).astype(np.float32)

    users = Entities(prompts.user_titles(before), vectors(2000))
    items = Entities(prompts.items(histories.items[targets]), vectors(2000))
    return users, items


def batch_rows(entities: tuple[Entities, Entities], lengths: str) -> np.ndarray:
    """Return the samples of a batch: random ones, or ones of similar length as in the trainer."""
    users, _ = entities
    if lengths == "mixed":
        return np.arange(N_BATCH)
    order = np.argsort(users.tokens.lengths, kind="stable")
    middle = len(order) // 2
    return order[middle : middle + N_BATCH]


def straightforward(model: RARec) -> Encode:
    backbone = model.backbone

    def encode(tower: Tower, batch: EntityBatch) -> Tensor:
        assert batch.id_vectors is not None
        own = tower.project(batch.id_vectors)
        shared = tower.shared_prompts()[:, None].expand(-1, len(batch), -1, -1)
        prefixes: dict[int, list[Prefix | None]] = {
            id(layer.module): [Prefix(*keys_values(layer, states))]
            for layer, states in zip(backbone.layers, torch.cat([shared, own], 2), strict=True)
        }
        output = backbone.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            rarec=AttentionContext(prefixes),
        )
        return F.normalize(backbone.pool(output.last_hidden_state, batch.attention_mask), dim=-1)

    return encode


@contextmanager
def padded(backbone: Backbone) -> Iterator[None]:
    """Make the backbone pad its texts inside the context."""
    packing, backbone.packing = backbone.packing, None
    yield
    backbone.packing = packing


def make_step(
    model: RARec, encode: Encode, users: EntityBatch, items: EntityBatch
) -> Callable[[], list[Tensor]]:
    """Return a step: both towers, the softmax over the batch, and all gradients."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step() -> list[Tensor]:
        scores = model.scores(encode(model.user, users), encode(model.item, items))
        loss = F.cross_entropy(scores, torch.arange(len(users)))
        return list(torch.autograd.grad(loss, trained))

    return step


@pytest.mark.parametrize("lengths", ["mixed", "like"])
def test_training_step(
    race: Callable[..., None],
    model: RARec,
    entities: tuple[Entities, Entities],
    lengths: str,
) -> None:
    rows = batch_rows(entities, lengths)
    users, items = (side.batch(rows) for side in entities)
    ours = make_step(model, model.encode, users, items)
    plain = make_step(model, straightforward(model), users, items)
    for one, other in zip(ours(), plain(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)

    def only_padded() -> object:
        with padded(model.backbone):
            return ours()

    def everywhere() -> object:
        # if the embeddings require gradients, the lowest layer computes those of its text too
        embeddings = model.backbone.model.get_submodule("embeddings")
        hook = embeddings.register_forward_hook(lambda *call: call[2].requires_grad_())
        try:
            return ours()
        finally:
            hook.remove()

    fill = users.attention_mask.float().mean()
    peers = {
        "straightforward": plain,
        "padded": only_padded,
        "text_gradients_in_the_lowest_layer": everywhere,
    }
    job = f"training_step MiniLM B{N_BATCH} {lengths} lengths ({fill:.0%} text)"
    race(job, ours, peers, rounds=7)


def test_step_of_the_top_layers(
    race: Callable[..., None],
    model: RARec,
    entities: tuple[Entities, Entities],
    tmp_path: Path,
) -> None:
    """A prefix in half of the layers: a step with stored states of the layers below."""
    rows = batch_rows(entities, "like")
    top = RARec(
        model.backbone, user_id_dim=ID_DIM, item_id_dim=ID_DIM, settings=ModelSettings(layers=3)
    )
    sides = [side.batch(rows) for side in entities]

    folders = (tmp_path / str(number) for number in count())

    def kept() -> list[LowerStates]:
        cache = StateCache(next(folders))
        numbers = np.unique(rows)
        return [lower_states(top, side.tokens, numbers, cache=cache) for side in entities]

    def step_with(states: list[LowerStates]) -> list[Tensor]:
        filled = [one.fill(side, rows) for one, side in zip(states, sides, strict=True)]
        return make_step(top, top.encode, *filled)()

    later = kept()

    def ours() -> list[Tensor]:
        return step_with(later)

    ways = {
        "the first time, states computed and kept": lambda: step_with(kept()),
        "states below computed each time": make_step(top, top.encode, *sides),
    }
    expected = ours()
    for way in ways.values():
        for one, other in zip(way(), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    peers = {**ways, "a prefix in all layers": make_step(model, model.encode, *sides)}
    race(f"training_step MiniLM top 3 of 6 layers B{N_BATCH}", ours, peers, rounds=9)


def test_encoding_of_a_catalogue(
    race: Callable[..., None], model: RARec, movielens: tuple[Prompts, Dataset]
) -> None:
    """All items and users of MovieLens-100K, with prefixes prepared once or made in each batch."""
    prompts, dataset = movielens
    random = np.random.default_rng(SEED)
    texts = [prompts.items(np.arange(dataset.n_items)), prompts.users(dataset.histories)]
    sides = [
        Entities(tokens, random.standard_normal((len(tokens), 1, ID_DIM)).astype(np.float32))
        for tokens in texts
    ]
    towers = (model.item, model.user)

    def ours() -> list[np.ndarray]:
        return [encode(model, tower, side) for tower, side in zip(towers, sides, strict=True)]

    def anew() -> list[np.ndarray]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "prepare", lambda *_: None)
            return ours()

    def prefixes(prepared: bool) -> None:
        with torch.no_grad():
            for tower, side in zip(towers, sides, strict=True):
                made = model.prepare(tower, len(side)) if prepared else None
                for rows in plan_batches(side.tokens.lengths):
                    vectors = side.batch(rows).id_vectors
                    assert vectors is not None
                    if made is not None:
                        made.of(vectors)
                        continue
                    for layer, shared, own in zip(
                        model.backbone.layers,
                        tower.shared_prompts(),
                        tower.project(vectors),
                        strict=True,
                    ):
                        layer_prefix(layer, shared, own)

    for one, other in zip(ours(), anew(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    job = f"{len(sides[0])} items and {len(sides[1])} users of MovieLens MiniLM"
    race(f"encoding {job}", ours, {"prefixes made in each batch": anew}, rounds=3)
    race(
        f"prefixes of {job}",
        lambda: prefixes(True),
        {"prefixes made in each batch": lambda: prefixes(False)},
        rounds=15,
    )


def test_prefix_projections(
    race: Callable[..., None], model: RARec, entities: tuple[Entities, Entities]
) -> None:
    """Keys and values of the prefixes of all layers, and the gradients of the prefixes."""
    layers = model.backbone.layers
    batch = entities[0].batch(np.arange(N_BATCH))
    assert batch.id_vectors is not None
    shared = model.user.prefix.detach().requires_grad_()
    own = model.user.project(batch.id_vectors).detach().requires_grad_()

    def linear(name: str) -> tuple[Tensor, Tensor]:
        parts = [getattr(layer.module, name) for layer in layers]
        weights = torch.stack([part.weight.T for part in parts])
        return weights, torch.stack([part.bias for part in parts])[:, None]

    stacked = [linear("key"), linear("value")]

    def one_call() -> list[Tensor]:
        tensors = []
        for layer, first, second in zip(layers, shared, own, strict=True):
            prefix = layer_prefix(layer, first, second)
            assert prefix.own_key is not None
            assert prefix.own_value is not None
            tensors += [prefix.key, prefix.value, prefix.own_key, prefix.own_value]
        return tensors

    def each_part() -> list[Tensor]:
        return [
            tensor
            for layer, first, second in zip(layers, shared, own, strict=True)
            for states in (first[None], second)
            for tensor in keys_values(layer, states)
        ]

    def each_sample() -> list[Tensor]:
        both = torch.cat([shared[:, None].expand(-1, N_BATCH, -1, -1), own], dim=2)
        return [
            tensor
            for layer, states in zip(layers, both, strict=True)
            for tensor in keys_values(layer, states)
        ]

    def all_layers() -> list[Tensor]:
        rows = torch.cat([shared, own.flatten(1, 2)], dim=1)
        return [torch.baddbmm(bias, rows, weight) for weight, bias in stacked]

    def total(tensors: list[Tensor]) -> Tensor:
        return torch.stack([tensor.sum() for tensor in tensors]).sum()

    def timed(run: Callable[[], list[Tensor]]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(total(run()), [shared, own])

    ways = {
        "one call for each part": each_part,
        "a copy for each sample": each_sample,
        "one product for all layers": all_layers,
    }
    expected = timed(one_call)()
    # `each_sample` computes sums over copies, which are other numbers
    for run in ways.values():
        if run is not each_sample:
            torch.testing.assert_close(timed(run)(), expected, rtol=1e-3, atol=1e-4)
    peers = {name: timed(run) for name, run in ways.items()}
    race(f"prefix_projections MiniLM B{N_BATCH}", timed(one_call), peers, rounds=25)
