"""What a model's settings change in training and in reading: values and gradients."""

import dataclasses

import pytest
import torch

from rarec.backbone import load_backbone
from rarec.encoding import Entities, encode
from rarec.model import EntityBatch, RARec
from rarec.prompts import Tokens
from rarec.settings import ModelSettings

USER_DIM, ITEM_DIM = 6, 5


@pytest.fixture(scope="module")
def backbone(tiny_llm):
    return load_backbone(str(tiny_llm), device="cpu")[0]


def model(backbone, **changes) -> RARec:
    settings = ModelSettings(prefix_length=3, **changes)
    return RARec(backbone, user_id_dim=USER_DIM, item_id_dim=ITEM_DIM, settings=settings)


def users(n: int = 8, n_vectors: int = 2) -> EntityBatch:
    generator = torch.Generator().manual_seed(n)
    ids = torch.randint(4, 12, (n, 6), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 3:] = 0
    return EntityBatch(ids, mask, torch.randn(n, n_vectors, USER_DIM, generator=generator))


def gradients(towers: RARec) -> dict[str, torch.Tensor]:
    """Return the gradients of the users' tower, which are taken away from it."""
    found = {}
    for name, weight in towers.user.named_parameters():
        assert weight.grad is not None, name
        found[name], weight.grad = weight.grad, None
    return found


@pytest.mark.parametrize("cold", [False, True])
def test_ids_left_out_in_training_are_read_as_cold(backbone, cold):
    towers = model(backbone, id_dropout=0.5)
    batch = users()
    if cold:
        batch = dataclasses.replace(batch, has_id=torch.arange(8) != 3)
    torch.manual_seed(1)
    kept = torch.rand(8) >= 0.5
    assert 0 < kept.sum() < 8
    if cold:
        kept[3] = False
    torch.manual_seed(1)
    states = towers.encode(towers.user, batch)
    states.square().mul(torch.arange(32)).sum().backward()
    found = gradients(towers)
    plain = model(backbone)
    expected = plain.encode(plain.user, dataclasses.replace(batch, has_id=kept))
    expected.square().mul(torch.arange(32)).sum().backward()
    torch.testing.assert_close(states, expected)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(found[name], gradient)


def test_ids_are_left_out_as_often_as_asked_and_anew_each_time(backbone):
    towers = model(backbone, id_dropout=0.3)
    batch = users(500)
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = [towers.encode(towers.user, batch) for _ in range(2)]
        cold = model(backbone).encode(
            towers.user, EntityBatch(batch.input_ids, batch.attention_mask)
        )
    left_out = [torch.isclose(states, cold, atol=1e-6).all(dim=1) for states in drawn]
    assert not torch.equal(*left_out)
    for mask in left_out:
        assert 0.24 < mask.float().mean() < 0.36


def test_nothing_is_drawn_outside_of_training(backbone):
    batch = users()
    towers, plain = model(backbone, id_dropout=0.9), model(backbone)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    # a model in training is put into evaluation to encode a table
    ids, _ = batch.input_ids, batch.attention_mask
    tokens = Tokens(torch.arange(9).numpy() * 6, ids.flatten().int().numpy(), padding_id=0)
    assert batch.id_vectors is not None
    entities = Entities(tokens, batch.id_vectors.numpy())
    table = encode(towers, towers.user, entities)
    torch.testing.assert_close(
        torch.from_numpy(table),
        torch.from_numpy(encode(plain, plain.user, entities)),
        rtol=0,
        atol=0,
    )
    plain.train()
    plain.encode(plain.user, batch)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("placement", ["layers", "inputs"])
def test_soft_prompts_have_half_the_size_of_the_states_beside_them(backbone, placement):
    towers = model(backbone, placement=placement)
    size = towers.user.shared_prompts().square().mean(dim=(1, 2)).sqrt()
    expected = 0.5 * backbone.state_sizes[towers.prompted_layers]
    torch.testing.assert_close(size, expected, rtol=0.3, atol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": 1},
        {"projector": "shared"},
        {"projector": "fixed"},
    ],
)
def test_prepared_and_plain_reading_agree_and_survive_the_disk(backbone, tmp_path, changes):
    towers = model(backbone, **changes)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in towers.user.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    towers.eval().save_pretrained(tmp_path / "model")
    back = RARec.from_pretrained(tmp_path / "model", backbone=backbone)
    batch = dataclasses.replace(users(), has_id=torch.arange(8) != 3)
    with torch.no_grad():
        expected = towers.encode(towers.user, batch)
        assert torch.equal(back.encode(back.user, batch), expected)
        for n_vectors in (1, 10**6):
            prepared = towers.prepare(towers.user, n_vectors)
            assert prepared is not None
            assert (prepared.layers[0].folded is None) == (n_vectors == 1)
            read = towers.encode(towers.user, batch, prepared)
            torch.testing.assert_close(read, expected, rtol=1e-4, atol=1e-5)


def test_prefixes_pass_through_norms(backbone):
    towers = model(backbone, prefix_norm=True)
    batch = users()
    assert batch.id_vectors is not None
    tower = towers.user
    states = backbone.last_hidden_states(
        batch.input_ids,
        batch.attention_mask,
        shared=backbone.normed(tower.shared_prompts()),
        own=backbone.normed(tower.project(batch.id_vectors)),
    )
    expected = torch.nn.functional.normalize(backbone.pool(states, batch.attention_mask), dim=-1)
    found = towers.encode(tower, batch)
    torch.testing.assert_close(found, expected)
    found.mul(torch.arange(found.shape[1])).sum().backward()
    assert all(gradient.abs().max() > 0 for gradient in gradients(towers).values())
    plain = model(backbone)
    assert not torch.allclose(plain.encode(plain.user, batch), found)
    # of their size hardly anything is left, but for the part that keeps a norm from dividing by 0
    large = model(backbone, prefix_norm=True)
    large.user.scale *= 10
    torch.testing.assert_close(large.encode(large.user, batch), found, rtol=1e-3, atol=1e-4)
    # many at once, whose prefixes are prepared where they can be
    lengths = batch.attention_mask.sum(dim=1)
    flat = batch.input_ids[batch.attention_mask.bool()].int().numpy()
    offsets = torch.nn.functional.pad(lengths.cumsum(dim=0), (1, 0)).numpy()
    entities = Entities(Tokens(offsets, flat, padding_id=0), batch.id_vectors.numpy())
    encoded = torch.from_numpy(encode(towers, tower, entities))
    torch.testing.assert_close(encoded, expected.detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="prefix_norm"):
        ModelSettings(prefix_norm=True, placement="inputs")
