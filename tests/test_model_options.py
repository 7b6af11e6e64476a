"""What a model's settings change in training and in reading: values and gradients."""

import dataclasses

import pytest
import torch

from rarec.backbone import load_backbone
from rarec.encoding import Entities, encode
from rarec.model import EntityBatch, ModelConfig, RARec, Tower
from rarec.prompts import Tokens

USER_DIM, ITEM_DIM = 6, 5


@pytest.fixture(scope="module")
def backbone(tiny_llm):
    return load_backbone(str(tiny_llm), device="cpu")[0]


def model(backbone, **changes) -> RARec:
    config = ModelConfig(prefix_length=3, **changes)
    return RARec(backbone, user_id_dim=USER_DIM, item_id_dim=ITEM_DIM, config=config)


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


def test_noise_of_training_goes_by_the_size_of_the_vectors(backbone):
    batch = users(400)
    assert batch.id_vectors is not None
    vectors = 30 * batch.id_vectors
    batch = dataclasses.replace(batch, id_vectors=vectors)
    towers = model(backbone, id_noise=0.2)
    towers.user.set_id_scale(vectors)
    read = []
    project = towers.user.project
    towers.user.project = lambda given: read.append(given) or project(given)  # type: ignore[method-assign]
    torch.manual_seed(0)
    states = towers.encode(towers.user, batch)
    (noisy,) = read
    noise = noisy - vectors
    torch.testing.assert_close(
        noise.std() / vectors.square().mean().sqrt(), torch.tensor(0.2), rtol=0.05, atol=0
    )
    assert abs(float(noise.mean())) < 0.3
    # and what is read is what a model without noise makes of the noisy vectors
    plain = model(backbone)
    plain.user.set_id_scale(vectors)
    expected = plain.encode(plain.user, dataclasses.replace(batch, id_vectors=noisy))
    torch.testing.assert_close(states, expected)
    for found in (states, expected):
        found.mul(torch.arange(32)).sum().backward()
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(towers.user.get_parameter(name).grad, gradient)


@pytest.mark.parametrize("changes", [{"id_dropout": 0.9}, {"id_noise": 1.0}])
def test_nothing_is_drawn_outside_of_training(backbone, changes):
    batch = users()
    towers, plain = model(backbone, **changes), model(backbone)
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


GATED = {"gate": True}
LOW = {"projector_rank": 2}


@pytest.mark.parametrize("placement", ["layers", "inputs"])
@pytest.mark.parametrize("projector", ["layers", "fixed"])
def test_soft_prompts_have_the_size_that_is_asked_for(backbone, placement, projector):
    options = {"placement": placement, "projector": projector}
    plain, large = (model(backbone, **options, prompt_size=size).user for size in (0.5, 2.0))
    vectors = users().id_vectors
    assert vectors is not None
    torch.testing.assert_close(large.project(vectors), 4 * plain.project(vectors))
    torch.testing.assert_close(large.shared_prompts(), 4 * plain.shared_prompts())
    torch.testing.assert_close(large.prompt_sizes, 4 * plain.prompt_sizes)
    many = model(backbone, placement=placement, prompt_size=2.0).user
    size = many.shared_prompts().square().mean(dim=(1, 2)).sqrt()
    torch.testing.assert_close(size, many.prompt_sizes, rtol=0.3, atol=0)


@pytest.mark.parametrize("projector", ["layers", "shared", "fixed"])
def test_a_gate_multiplies_what_a_layer_has_of_ids(backbone, projector):
    plain = model(backbone, projector=projector).user
    tower = model(backbone, projector=projector, gate=True).user
    vectors = users().id_vectors
    assert vectors is not None
    expected = plain.project(vectors)
    assert torch.equal(tower.project(vectors), expected)
    gate = torch.tensor([0.5, -3.0])
    with torch.no_grad():
        tower.gate.copy_(gate)
    torch.testing.assert_close(tower.project(vectors), expected * gate[:, None, None, None])
    both = plain.soft_prompts(vectors) * 5  # 3 learnable vectors, 2 of IDs
    ungated = plain.shared_prompts().sum(dim=1)
    torch.testing.assert_close(
        tower.soft_prompts(vectors) * 5,
        ungated + (both - ungated) * gate[:, None],
        rtol=1e-4,
        atol=1e-5,
    )
    weight = torch.randn(expected.shape)
    (tower.project(vectors) * weight).sum().backward()
    torch.testing.assert_close(tower.gate.grad, (expected * weight).sum(dim=(1, 2, 3)))


@pytest.mark.parametrize("projector", ["layers", "shared"])
def test_projectors_of_low_rank_are_products(backbone, projector):
    tower = model(backbone, projector=projector, projector_rank=2).user
    vectors = users().id_vectors
    assert vectors is not None
    assert not hasattr(tower, "projector")
    product = torch.einsum("lhr,lre->lhe", tower.projector_out, tower.projector_in)
    assert product.shape == (2 if projector == "layers" else 1, 32, USER_DIM)
    assert torch.linalg.matrix_rank(product).tolist() == [2] * len(product)
    full = model(backbone, projector=projector).user
    with torch.no_grad():
        full.projector.copy_(product)
    projected, expected = tower.project(vectors), full.project(vectors)
    torch.testing.assert_close(projected, expected)
    weight = torch.randn(expected.shape)
    for found in (projected, expected):
        (found * weight).sum().backward()
    assert full.projector.grad is not None
    through = torch.einsum("lhe,lre->lhr", full.projector.grad, tower.projector_in)
    torch.testing.assert_close(tower.projector_out.grad, through, rtol=1e-4, atol=1e-5)
    through = torch.einsum("lhe,lhr->lre", full.projector.grad, tower.projector_out)
    torch.testing.assert_close(tower.projector_in.grad, through, rtol=1e-4, atol=1e-5)


def test_projectors_of_any_rank_start_alike():
    sizes = []
    for rank in (None, 1, 8, 32):
        config = ModelConfig(projector_rank=rank)
        tower = Tower(torch.ones(40), 48, 32, config, torch.Generator().manual_seed(0))
        matrices, _ = tower.projections() or (torch.zeros(()), None)
        sizes.append(matrices.square().mean())
    torch.testing.assert_close(torch.stack(sizes), sizes[0].expand(4), rtol=0.1, atol=0)


@pytest.mark.parametrize("rank", [6, 7])
def test_a_rank_no_matrix_can_have_is_refused(backbone, rank):
    # the users' vectors have 6 numbers, the items' 5
    with pytest.raises(ValueError, match=f"projector_rank <= {rank - 1} .* got {rank}"):
        model(backbone, projector_rank=rank)


@pytest.mark.parametrize(
    "changes",
    [
        {"pool": "attention"},
        LOW,
        {**LOW, "projector": "shared", "gate": True},
        GATED,
        {**GATED, "layers": 1},
        {**GATED, "projector": "shared"},
        {**GATED, "projector": "fixed"},
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


@pytest.mark.parametrize("placement", ["layers", "inputs"])
def test_a_learned_query_pools_the_states_of_each_text(backbone, placement):
    towers = model(backbone, pool="attention", placement=placement, similarity="dot")
    plain = model(backbone, placement=placement, similarity="dot")
    assert towers.n_trainable() == plain.n_trainable() + 2 * 32
    batch = users()
    # no weights at the start: the mean of the text, in the padding nothing
    torch.testing.assert_close(towers.encode(towers.user, batch), plain.encode(plain.user, batch))
    kept = []
    read = backbone.last_hidden_states
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            backbone,
            "last_hidden_states",
            lambda *given, **keywords: kept.append(read(*given, **keywords)) or kept[-1],
        )
        with torch.no_grad():
            towers.user.query.copy_(torch.linspace(-3, 3, 32))
        pooled = towers.encode(towers.user, batch)
    states = kept[-1]
    expected = []
    for text, mask in zip(states, batch.attention_mask, strict=True):
        tokens = text[mask.bool()]
        weights = torch.softmax(tokens @ towers.user.query / 32**0.5, dim=0)
        expected.append((weights[:, None] * tokens).sum(dim=0))
    torch.testing.assert_close(pooled, torch.stack(expected))
    weight = torch.randn(pooled.shape)
    (given,) = torch.autograd.grad((pooled * weight).sum(), towers.user.query, retain_graph=True)
    (wanted,) = torch.autograd.grad((torch.stack(expected) * weight).sum(), towers.user.query)
    torch.testing.assert_close(given, wanted)
    assert given.abs().max() > 0


def test_a_query_alone_can_be_trained(backbone):
    config = ModelConfig(prefix_length=0, use_ids=False, pool="attention")
    towers = RARec(backbone, user_id_dim=USER_DIM, item_id_dim=ITEM_DIM, config=config)
    towers.encode(towers.user, users())[:, 0].sum().backward()
    assert towers.user.query.grad is not None
    assert towers.user.query.grad.abs().max() > 0


def test_a_text_without_tokens_pools_to_numbers():
    config = ModelConfig(pool="attention")
    tower = Tower(torch.ones(2), 4, 0, config, torch.Generator())
    assert tower.pool(torch.ones(1, 3, 4), torch.zeros(1, 3)).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id_dropout": 1.0}, "0 <= id_dropout < 1, got 1.0"),
        ({"id_dropout": -0.1}, "0 <= id_dropout < 1, got -0.1"),
        ({"projector_rank": 0}, "projector_rank >= 1, got 0"),
        ({"projector_rank": 2, "projector": "fixed"}, "trained projector alone, got 2"),
        ({"pool": "mean"}, "pool to be one of"),
        ({"gate": 1}, "gate to be True or False, got 1"),
        ({"id_noise": -0.1}, "id_noise >= 0, got -0.1"),
        ({"id_noise": float("nan")}, "id_noise >= 0, got nan"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**changes)


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
    large = model(backbone, prefix_norm=True, prompt_size=5.0)
    torch.testing.assert_close(large.encode(large.user, batch), found, rtol=1e-3, atol=1e-4)
    # many at once, whose prefixes are prepared where they can be
    lengths = batch.attention_mask.sum(dim=1)
    flat = batch.input_ids[batch.attention_mask.bool()].int().numpy()
    offsets = torch.nn.functional.pad(lengths.cumsum(dim=0), (1, 0)).numpy()
    entities = Entities(Tokens(offsets, flat, padding_id=0), batch.id_vectors.numpy())
    encoded = torch.from_numpy(encode(towers, tower, entities))
    torch.testing.assert_close(encoded, expected.detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="prefix_norm"):
        ModelConfig(prefix_norm=True, placement="inputs")
