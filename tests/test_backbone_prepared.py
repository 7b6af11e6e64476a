"""Prefixes prepared for many batches equal those made for each batch."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rarec.backbone import Backbone
from rarec.encoding import Entities, encode, plan_batches
from rarec.model import EntityBatch, RARec
from rarec.prompts import Tokens
from rarec.settings import ModelSettings
from tests.prefix_reference import in_float64
from tests.tiny_models import ALL, HIDDEN, LAYERS, backbone_of, texts

pytestmark = pytest.mark.filterwarnings("ignore")
AFFINE = ["bert", "llama", "mistral", "gpt2", "qwen2", "albert", "t5"]
OTHERS = ["qwen3", "olmo2", "gemma3_text"]
E, P, MANY = 5, 2, 10**6


def in_dtype(name: str, dtype: torch.dtype) -> Backbone:
    return Backbone(ALL[name].make().to(dtype))


def make_parts(dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the shared prefix, the projectors and their biases of three layers."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "shared": normal(LAYERS, P, HIDDEN),
        "projector": normal(LAYERS, HIDDEN, E),
        "projector_bias": normal(LAYERS, HIDDEN),
    }


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def error(backbone: Backbone, prepared: Any, parts: dict[str, Tensor]) -> float:
    """Return the difference of states with prepared prefixes and with prefixes of the batch."""
    ids, mask = texts("right")
    vectors = torch.randn(len(ids), 2, E, generator=torch.Generator().manual_seed(8))
    vectors = vectors.to(backbone.dtype)
    own = torch.einsum("bke,lhe->lbkh", vectors, parts["projector"])
    own = own + parts["projector_bias"][:, None, None]
    largest = 0.0
    for given, row in ((vectors, own), (None, None)):
        expected = backbone.last_hidden_states(ids, mask, shared=parts["shared"], own=row)
        states = backbone.last_hidden_states(ids, mask, prefixes=prepared.of(given))
        largest = max(largest, relative(states[mask.bool()], expected[mask.bool()]))
    return largest


@pytest.mark.parametrize(("dtype", "exact"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", AFFINE + OTHERS)
def test_prepared_prefixes_equal_those_of_each_batch(
    name: str, dtype: torch.dtype, exact: float
) -> None:
    backbone = in_dtype(name, dtype)
    parts = make_parts(dtype)
    with in_float64() if dtype == torch.float64 else nullcontext():
        for n_vectors in (1, MANY):
            prepared = backbone.prepare(**parts, n_vectors=n_vectors)
            folded = [part.folded is not None for part in prepared.layers]
            assert folded == [n_vectors == MANY and name in AFFINE] * LAYERS
            assert error(backbone, prepared, parts) < exact


def test_folding_is_done_where_it_is_less_work() -> None:
    backbone = backbone_of("bert")

    def folds(width: int, n_vectors: int) -> bool:
        prepared = backbone.prepare(
            torch.zeros(LAYERS, 0, HIDDEN),
            torch.zeros(LAYERS, HIDDEN, width),
            torch.zeros(LAYERS, HIDDEN),
            n_vectors=n_vectors,
        )
        return prepared.layers[0].folded is not None

    # for each vector 2 * 5 * 16 multiplications instead of 5 * 16 + 2 * 16 * 16; folding itself
    # takes 12 * 2 * 16 * 16
    assert [folds(5, n) for n in (14, 15)] == [False, True]
    assert not folds(40, MANY)


def test_a_large_bias_loses_no_digits() -> None:
    backbone = in_dtype("qwen2", torch.float32)
    parts = make_parts(torch.float32)
    layer = backbone.layers[0]
    layer.module.get_submodule("k_proj").bias.add_(1e4)  # type: ignore[operator]
    (part, *_) = backbone.prepare(**parts, n_vectors=MANY).layers
    assert part.folded is not None
    weight = part.folded[0].weight.clone()
    layer.module.get_submodule("k_proj").bias.sub_(1e4)  # type: ignore[operator]
    (part, *_) = backbone.prepare(**parts, n_vectors=MANY).layers
    assert part.folded is not None
    assert relative(weight, part.folded[0].weight) < 1e-6


def test_a_module_that_clamps_is_not_affine() -> None:
    backbone = backbone_of("bert")
    for layer in backbone.layers[1:]:
        value = layer.module.get_submodule("value")
        value.register_forward_hook(lambda *call: call[2].clamp(-40, 40))
    prepared = backbone.prepare(**make_parts(torch.float64), n_vectors=MANY)
    assert [part.folded is not None for part in prepared.layers] == [True, False, False]


def test_a_module_that_cannot_be_copied_is_not_folded() -> None:
    backbone = backbone_of("bert")
    backbone.layers[0].module.stubborn = (number for number in range(3))  # type: ignore[assignment]
    parts = make_parts(torch.float64)
    prepared = backbone.prepare(**parts, n_vectors=MANY)
    assert [part.folded is not None for part in prepared.layers] == [False, True, True]
    assert error(backbone, prepared, parts) < 1e-12


def make_entities(n_rows: int) -> Entities:
    random = np.random.default_rng(3)
    lengths = random.integers(2, 9, n_rows)
    offsets = np.concatenate([[0], lengths.cumsum()])
    tokens = Tokens(offsets, random.integers(4, 50, offsets[-1]).astype(np.int32), 1)
    vectors = (9 * random.normal(size=(n_rows, 2, E))).astype(np.float32)
    return Entities(tokens, vectors, np.arange(n_rows) % 3 > 0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": 1},
        {"projector": "shared"},
        {"projector": "fixed"},
        {"use_ids": False},
        {"prefix_length": 0},
    ],
)
@pytest.mark.parametrize("name", ["bert", "qwen3"])
def test_encoding_equals_the_model(name: str, changes: dict[str, Any]) -> None:
    backbone = in_dtype(name, torch.float32)
    settings = ModelSettings(**{"prefix_length": P, "layers": "all", **changes})
    model = RARec(backbone, user_id_dim=E, item_id_dim=E, settings=settings)
    entities = make_entities(40)
    assert entities.id_vectors is not None
    if settings.use_ids:
        model.user.set_id_scale(torch.from_numpy(entities.id_vectors))
        model.user.projector_bias.data.normal_()
    rows = np.arange(40)
    with torch.no_grad():
        expected = model.encode(model.user, entities.batch(rows))
    table = encode(model, model.user, entities, plan=plan_batches(entities.tokens.lengths, 60))
    assert relative(torch.from_numpy(table), expected) < 1e-5
    if settings.use_ids:
        prepared = model.prepare(model.user, 10**4)
        assert prepared is not None
        assert (prepared.layers[0].folded is not None) == (name == "bert")


def test_vectors_before_the_text_are_not_prepared() -> None:
    model = RARec(
        in_dtype("bert", torch.float32),
        user_id_dim=E,
        item_id_dim=E,
        settings=ModelSettings(placement="inputs"),
    )
    assert model.prepare(model.user, MANY) is None


def test_a_prepared_prefix_does_not_go_through_the_layer_again() -> None:
    backbone = in_dtype("bert", torch.float32)
    settings = ModelSettings(layers="all")
    model = RARec(backbone, user_id_dim=E, item_id_dim=E, settings=settings)
    prepared = model.prepare(model.item, MANY)
    tokens: list[int] = []
    key = backbone.layers[0].module.get_submodule("key")
    key.register_forward_hook(lambda *call: tokens.append(call[1][0].shape[:2].numel()))
    ids, mask = texts("right")
    batch = EntityBatch(ids, mask, torch.randn(3, 1, E))
    assert backbone.packing is not None
    tokens.clear()
    model.encode(model.item, batch, prepared)
    assert tokens == [int(mask.sum())]
