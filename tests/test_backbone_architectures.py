"""The prefix in every architecture, compared with the model itself over prefix and text.

`tests/tiny_models.py` lists the architectures; `tests/prefix_reference.py` is the reference.
"""

import re

import pytest
import torch

from rarec.backbone import Backbone
from tests import prefix_reference, tiny_models
from tests.prefix_reference import EXACT, in_float64
from tests.tiny_models import ARCHITECTURES, OUTSIDE

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_prefix_is_read_before_the_text(name: str, padding: str) -> None:
    with in_float64():
        error, gradient_error = prefix_reference.errors(name, padding)
    assert error <= EXACT
    assert gradient_error <= EXACT


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_prefix_in_padded_texts_and_a_single_part(name: str) -> None:
    with in_float64():
        assert max(prefix_reference.errors(name, "right", packed=False)) <= EXACT
        assert max(prefix_reference.errors(name, "none", shared=0)) <= EXACT
        assert max(prefix_reference.errors(name, "right", own=0)) <= EXACT


@pytest.mark.parametrize("name", [name for name, kind in ARCHITECTURES.items() if kind.packs])
def test_packed_texts_have_the_states_of_padded_ones(name: str) -> None:
    ids, mask = tiny_models.texts("right")
    packing, padding = tiny_models.backbone_of(name), tiny_models.backbone_of(name)
    assert packing.packing is not None
    padding.packing = None
    with in_float64():
        states = (backbone.text_states(ids, mask) for backbone in (packing, padding))
        torch.testing.assert_close(*states, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("name", [name for name, kind in ARCHITECTURES.items() if not kind.packs])
def test_models_with_other_positions_are_padded(name: str) -> None:
    # their positions are distances within the row, or cannot be passed to the model
    assert tiny_models.backbone_of(name).packing is None


def test_every_transformers_version_has_most_of_them() -> None:
    assert len(ARCHITECTURES) >= 24


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_without_a_prefix_it_is_the_plain_model(name: str) -> None:
    with in_float64():
        for padding in ("none", "right"):
            assert prefix_reference.plain_error(name, padding) <= EXACT


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "albert"])
def test_checkpointing_changes_no_gradient(name: str) -> None:
    assert prefix_reference.checkpointing_error(name) <= EXACT


def test_layers_that_share_a_module_cannot_be_checkpointed() -> None:
    with pytest.raises(ValueError, match=r"gradient checkpointing, got AlbertModel, .*share one"):
        tiny_models.backbone_of("albert").checkpoint_layers()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_half_precision_stays_near(name: str) -> None:
    # rounding to 8 bits alone makes this difference in three layers of random weights
    assert prefix_reference.bfloat16_error(name) < 0.15


@pytest.mark.parametrize("name", OUTSIDE)
def test_other_architectures_are_refused_with_a_reason(name: str) -> None:
    reason = tiny_models.refusal(name)
    if reason is not None:
        assert re.match(r"\w+(Model|Encoder) .*attention|module .* has no attribute", reason)
        return
    # newer versions of transformers move more models to the attention interface
    with in_float64():
        assert max(prefix_reference.errors(name, "right")) <= EXACT


def test_a_batch_of_one_is_a_row_of_a_batch() -> None:
    ids, mask = tiny_models.texts("right")
    for name in {"bert", "llama", "t5"} & set(ARCHITECTURES):
        backbone: Backbone = tiny_models.backbone_of(name)
        shared, own = tiny_models.make_prefixes(len(ids), backbone.n_layers)
        states = backbone.last_hidden_states(ids, mask, shared=shared, own=own)
        for row in range(len(ids)):
            real = mask[row].bool()
            alone = backbone.last_hidden_states(
                ids[[row]][:, real], mask[[row]][:, real], shared=shared, own=own[:, [row]]
            )
            torch.testing.assert_close(states[row, real], alone[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_vectors_before_the_text_stand_where_tokens_would(name: str, padding: str) -> None:
    ids, mask = tiny_models.texts(padding)
    first = torch.tensor([[5, 6], [7, 8], [9, 10]])
    backbone = tiny_models.backbone_of(name)
    with in_float64():
        before = backbone.model.get_input_embeddings()(first)
        states = backbone.last_hidden_states(ids, mask, before=before)
        for row, real in enumerate(mask.bool()):
            whole = torch.cat([first[row], ids[row, real]])[None]
            expected = prefix_reference.plain(name, whole, torch.ones_like(whole))
            torch.testing.assert_close(states[row, real], expected[0, 2:], rtol=EXACT, atol=EXACT)


# olmo2 has norms only after the attention; albert projects its embeddings after their norm
WITHOUT_NORM = {"olmo2": 3, "albert": 1}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_norm_that_an_attention_reads_is_found(name: str) -> None:
    backbone = tiny_models.backbone_of(name)
    prompts = torch.ones(len(backbone.layers), 2, backbone.hidden_size)
    if name in WITHOUT_NORM:
        with pytest.raises(ValueError, match=rf"norm before .*got none for {WITHOUT_NORM[name]} "):
            backbone.normed(prompts)
    else:
        assert backbone.normed(prompts).shape == prompts.shape
