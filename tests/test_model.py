"""The towers: shapes, cold entities, scores, and the way to disk and back."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from rarec.backbone import Backbone, LanguageModel, content_sha256, load_backbone
from rarec.ids import GivenIDs
from rarec.model import EntityBatch, RARec
from rarec.settings import ModelSettings, PromptSettings

USER_DIM, ITEM_DIM = 6, 5


@pytest.fixture(scope="module")
def backbone(tiny_llm):
    return load_backbone(str(tiny_llm), device="cpu")[0]


def model(backbone, *, seed=0, **changes) -> RARec:
    settings = ModelSettings(prefix_length=3, **changes)
    return RARec(backbone, user_id_dim=USER_DIM, item_id_dim=ITEM_DIM, settings=settings, seed=seed)


def entities(n: int, dim: int, n_vectors: int = 1) -> EntityBatch:
    generator = torch.Generator().manual_seed(n)
    ids = torch.randint(4, 12, (n, 6), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 3:] = 0
    return EntityBatch(ids, mask, torch.randn(n, n_vectors, dim, generator=generator))


def test_representations_have_one_row_per_entity(backbone):
    towers = model(backbone)
    users, items = towers(entities(4, USER_DIM, n_vectors=2), entities(3, ITEM_DIM))
    assert users.shape == (4, 32)
    assert items.shape == (3, 32)
    assert users.dtype == torch.float32
    torch.testing.assert_close(users.norm(dim=1), torch.ones(4))
    scores = towers.scores(users, items)
    torch.testing.assert_close(scores, users @ items.T / 0.07)


def test_dot_product_keeps_lengths_and_its_temperature_fixed(backbone):
    towers = model(backbone, similarity="dot", temperature=2.0)
    users, items = towers(entities(4, USER_DIM), entities(3, ITEM_DIM))
    assert not torch.allclose(users.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(towers.scores(users, items), users @ items.T / 2)
    assert not towers.log_temperature.requires_grad
    assert model(backbone).log_temperature.requires_grad
    assert not model(backbone, learn_temperature=False).log_temperature.requires_grad


def test_the_id_vector_matters_and_can_be_left_out(backbone):
    towers = model(backbone)
    batch = entities(4, USER_DIM)
    other = dataclasses.replace(batch, id_vectors=torch.randn(4, 1, USER_DIM))
    assert not torch.allclose(towers.encode(towers.user, batch), towers.encode(towers.user, other))
    text = model(backbone, use_ids=False)
    torch.testing.assert_close(
        text.encode(text.user, batch), text.encode(text.user, other), rtol=0, atol=0
    )
    assert not hasattr(text.user, "projector")


@pytest.mark.parametrize("known", [[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
def test_cold_entities_are_read_with_the_layer_prefix_alone(backbone, known):
    towers = model(backbone)
    batch = entities(4, USER_DIM)
    assert batch.id_vectors is not None
    has_id = torch.tensor(known, dtype=torch.bool)
    together = towers.encode(towers.user, dataclasses.replace(batch, has_id=has_id))
    warm = towers.encode(towers.user, batch)
    cold = towers.encode(towers.user, EntityBatch(batch.input_ids, batch.attention_mask))
    expected = torch.where(has_id[:, None], warm, cold)
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-6)
    # what stands in the row of a cold entity must not matter, not even NaN
    batch.id_vectors[~has_id] = torch.nan
    again = towers.encode(towers.user, dataclasses.replace(batch, has_id=has_id))
    torch.testing.assert_close(again, together)


def test_id_vectors_of_any_size_give_the_same_prompts(backbone):
    vectors = torch.randn(50, 1, USER_DIM)
    towers = model(backbone)
    towers.user.set_id_scale(vectors)
    small = towers.user.project(vectors)
    towers.user.set_id_scale(vectors * 1000)
    torch.testing.assert_close(towers.user.project(vectors * 1000), small)


def test_soft_prompts_are_the_mean_of_prefix_and_projection(backbone):
    towers = model(backbone)
    vectors = torch.randn(4, 2, USER_DIM)
    own = towers.user.project(vectors)  # [L, B, K, H]
    for layer in range(2):
        for row in range(4):
            d = torch.cat([towers.user.shared_prompts()[layer], own[layer, row]])
            torch.testing.assert_close(towers.user.soft_prompts(vectors)[row, layer], d.mean(dim=0))


def test_only_the_towers_are_trained_and_kept(backbone):
    towers = model(backbone)
    names = set(towers.state_dict())
    assert all(name.split(".")[0] in ("user", "item", "log_temperature") for name in names)
    layers, hidden = 2, 32
    expected = sum(layers * hidden * (3 + dim + 1) for dim in (USER_DIM, ITEM_DIM))
    assert towers.n_trainable() == expected + 1
    loss = towers(entities(4, USER_DIM), entities(3, ITEM_DIM))[0].sum()
    loss.backward()
    assert towers.user.prefix.grad is not None
    assert towers.user.projector.grad is not None


def test_a_seed_fixes_the_initial_values(backbone):
    first, second, third = (model(backbone, seed=seed) for seed in (0, 0, 1))
    torch.testing.assert_close(first.user.prefix, second.user.prefix, rtol=0, atol=0)
    assert not torch.equal(first.user.prefix, third.user.prefix)


def test_to_disk_and_back(backbone, tmp_path):
    towers = RARec(
        backbone,
        user_id_dim=USER_DIM,
        item_id_dim=ITEM_DIM,
        settings=ModelSettings(prefix_length=3),
        prompts=PromptSettings(n_titles=2, user="{titles}"),
        seed=5,
    ).eval()
    towers.user.set_id_scale(torch.randn(9, 1, USER_DIM))
    folder = tmp_path / "model"
    towers.save_pretrained(folder)
    assert RARec.settings_of(folder) == towers.settings
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "adapter.safetensors",
        "files.json",
    }
    users, items = entities(4, USER_DIM), entities(3, ITEM_DIM)
    same = RARec.from_pretrained(folder, backbone=backbone)
    # its language model is loaded again, to a GPU where there is one
    other = RARec.from_pretrained(folder)
    for again, tolerance in (
        (same, 0.0),
        (other, 1e-5 if other.backbone.device.type == "cuda" else 0.0),
    ):
        assert again.settings == towers.settings
        assert again.prompts == towers.prompts
        assert again.seed == 5
        with torch.no_grad():
            for before, after in zip(towers(users, items), again(users, items), strict=True):
                torch.testing.assert_close(after.cpu(), before, rtol=tolerance, atol=tolerance)


def test_a_backbone_that_does_not_fit_is_refused(backbone, tmp_path):
    model(backbone).save_pretrained(tmp_path / "model")
    pooled = Backbone(backbone.model, pooling="first")
    with pytest.raises(ValueError, match="expected a backbone with mean pooling, got first"):
        RARec.from_pretrained(tmp_path / "model", backbone=pooled)
    narrow = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    with pytest.raises(ValueError, match=r"adapter\.safetensors"):
        RARec.from_pretrained(tmp_path / "model", backbone=Backbone(BertModel(narrow)))


def test_id_vectors_are_kept_inside_or_by_reference(backbone, tmp_path):
    towers = model(backbone)
    table = np.random.default_rng(0).normal(size=(9, ITEM_DIM)).astype(np.float32)
    ids = GivenIDs(table, np.ones(9, bool))
    towers.save_pretrained(tmp_path / "alone")
    assert RARec.ids_of(tmp_path / "alone") is None
    towers.save_pretrained(tmp_path / "inside", ids=ids)
    ids.save(tmp_path / "elsewhere")
    towers.save_pretrained(tmp_path / "beside", ids="../elsewhere")
    for name in ("inside", "beside"):
        found = RARec.ids_of(tmp_path / name)
        assert found is not None
        np.testing.assert_array_equal(found.item_vectors, table)
        assert RARec.from_pretrained(tmp_path / name, backbone=backbone).user.id_dim == USER_DIM
    shutil.rmtree(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="elsewhere"):
        RARec.ids_of(tmp_path / "beside")


def test_folders_of_something_else_are_refused(backbone, tmp_path):
    with pytest.raises(ValueError, match="nothing"):
        RARec.from_pretrained(tmp_path / "nothing", backbone=backbone)
    towers = model(backbone)
    towers.save_pretrained(tmp_path / "model")
    other = RARec(backbone, user_id_dim=2, item_id_dim=2)
    other.save_pretrained(tmp_path / "other")
    adapter = "adapter.safetensors"
    shutil.copy(tmp_path / "other" / adapter, tmp_path / "model" / adapter)
    with pytest.raises(ValueError, match=adapter):
        RARec.from_pretrained(tmp_path / "model", backbone=backbone)
    (tmp_path / "model" / adapter).write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=adapter):
        RARec.from_pretrained(tmp_path / "model", backbone=backbone)
    assert load_file(tmp_path / "other" / adapter)


PLACEMENTS = [
    {"layers": 1},
    {"projector": "shared"},
    {"projector": "fixed"},
    {"placement": "inputs"},
    {"placement": "inputs", "projector": "fixed"},
]


@pytest.mark.parametrize("changes", PLACEMENTS)
def test_placements_train_and_survive_the_disk(backbone, tmp_path, changes):
    towers = model(backbone, **changes)
    users, items = entities(4, USER_DIM), entities(3, ITEM_DIM)
    scores = towers.scores(*towers(users, items))
    scores.sum().backward()
    assert all(p.grad is not None for p in towers.parameters() if p.requires_grad)
    assert towers.n_trainable() < model(backbone).n_trainable()
    towers.save_pretrained(tmp_path / "model")
    back = RARec.from_pretrained(tmp_path / "model", backbone=backbone)
    assert back.settings == towers.settings
    with torch.no_grad():
        torch.testing.assert_close(back.scores(*back(users, items)), scores.detach())


def test_more_layers_than_there_are_means_all(backbone):
    assert model(backbone, layers=9).prompted_layers == slice(0, None)
    assert model(backbone, layers="all").prompted_layers == slice(0, None)
    assert model(backbone, layers=9).n_trainable() == model(backbone).n_trainable()


def test_one_projector_gives_every_layer_the_same(backbone):
    tower = model(backbone, projector="shared").user
    projected = tower.project(torch.randn(4, 1, USER_DIM))
    assert projected.shape == (2, 4, 1, 32)
    assert torch.equal(projected[0], projected[1])
    assert tower.prefix.shape == (2, 3, 32)


def test_raw_id_vectors_keep_their_angles(backbone):
    tower = model(backbone, projector="fixed", placement="inputs").user
    vectors = torch.randn(5, 1, USER_DIM)
    placed = tower.project(vectors)[0, :, 0]
    assert placed.shape == (5, 32)
    cosines = [torch.nn.functional.normalize(rows, dim=1) for rows in (vectors[:, 0], placed)]
    torch.testing.assert_close(*(rows @ rows.T for rows in cosines))
    assert not isinstance(tower.projector, torch.nn.Parameter)


def test_soft_prompts_before_the_text_are_read_as_its_first_tokens(backbone):
    towers = model(backbone, placement="inputs")
    batch = entities(4, USER_DIM, n_vectors=2)
    assert batch.id_vectors is not None
    tower = towers.user
    own = tower.project(batch.id_vectors)[0]
    before = torch.cat([tower.shared_prompts().expand(4, -1, -1), own], dim=1)
    assert before.shape == (4, 5, 32)
    tokens = backbone.model.get_input_embeddings()(batch.input_ids)
    mask = torch.cat([torch.ones(4, 5, dtype=torch.int64), batch.attention_mask], dim=1)
    states = backbone.model(
        inputs_embeds=torch.cat([before, tokens], dim=1), attention_mask=mask
    ).last_hidden_state[:, 5:]
    expected = torch.nn.functional.normalize(backbone.pool(states, batch.attention_mask), dim=1)
    torch.testing.assert_close(towers.encode(tower, batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_tuned_language_model_survives_the_disk(backbone, tiny_llm, tmp_path, tune):
    own = load_backbone(str(tiny_llm), device="cpu")[0]
    towers = model(own, placement="inputs", tune=tune)
    assert towers.n_trainable() > model(backbone, placement="inputs").n_trainable()
    users, items = entities(4, USER_DIM), entities(3, ITEM_DIM)
    towers(users, items)[0].sum().backward()
    with torch.no_grad():
        for weight in towers.llm.values():
            weight += 0.1 * torch.randn_like(weight)
    towers.save_pretrained(tmp_path / "model")
    with torch.no_grad():
        expected = towers.scores(*towers(users, items))
        for fresh in (None, load_backbone(str(tiny_llm), device="cpu")[0]):
            back = RARec.from_pretrained(tmp_path / "model", backbone=fresh)
            # without one given, the language model is loaded again, to a GPU where there is one
            torch.testing.assert_close(
                back.scores(*back(users, items)).cpu(), expected, rtol=1e-4, atol=1e-5
            )
    with pytest.raises(ValueError, match="load it again"):
        RARec.from_pretrained(tmp_path / "model", backbone=own)


def other_weights(folder):
    """Change the weights of a model a little, in the same number of bytes."""
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] = weights["embeddings.LayerNorm.bias"] + 0.1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_the_language_model_is_known_by_its_content(tiny_llm, tmp_path, monkeypatch):
    for place in ("here", "there"):
        shutil.copytree(tiny_llm, tmp_path / place / "llm")
    other_weights(tmp_path / "there" / "llm")
    monkeypatch.chdir(tmp_path / "here")
    towers = model(load_backbone("./llm", device="cpu")[0])
    towers.save_pretrained(tmp_path / "model")
    expected = content_sha256(tmp_path / "here" / "llm")
    found = RARec.language_model_of(tmp_path / "model")
    assert (found.name, found.sha256) == (str(tmp_path / "here" / "llm"), expected)
    # from another working directory, in which another folder has that name
    monkeypatch.chdir(tmp_path / "there")
    assert RARec.from_pretrained(tmp_path / "model").backbone.sha256 == expected
    other, _ = load_backbone("./llm", device="cpu")
    with pytest.raises(ValueError, match=r"model: expected the language model .*/here/llm.* got "):
        RARec.from_pretrained(tmp_path / "model", backbone=other)
    same, _ = load_backbone(str(tiny_llm), device="cpu")
    RARec.from_pretrained(tmp_path / "model", backbone=same)
    other_weights(tmp_path / "here" / "llm")
    with pytest.raises(ValueError, match=r"with which it was tuned, got other content .* in "):
        RARec.from_pretrained(tmp_path / "model")


def test_a_language_model_without_files_is_taken_as_it_is(tmp_path):
    config = BertConfig(
        vocab_size=20, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=32,
    )  # fmt: skip
    backbone = Backbone(BertModel(config))
    assert backbone.sha256 is None
    model(backbone).save_pretrained(tmp_path / "model")
    assert RARec.language_model_of(tmp_path / "model") == LanguageModel("", pooling="mean")
    RARec.from_pretrained(tmp_path / "model", backbone=Backbone(BertModel(config)))
