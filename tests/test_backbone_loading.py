"""Loading of language models by name: folders, GGUF files, quantization, pooling."""

import importlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoModel, LlamaConfig, LlamaModel

import rarec.backbone
from rarec import assets
from rarec.backbone import (
    LanguageModel,
    content_sha256,
    load_backbone,
    loading,
    quantization,
    versions,
)

HIDDEN, HEADS, KEY_HEADS, LAYERS = 64, 4, 2, 2
WORDS = ["<unk>", "<s>", "</s>", *"abcdefg", "\u0120", "ab", "cd", "\u0120ab"]


def tiny_llama() -> Any:
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=32,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaModel(config).eval()


def texts() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, len(WORDS), (3, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return ids, mask


def interleaved(weight: Tensor, n_heads: int) -> Tensor:
    """Return a projection with the rows of each head in pairs, as GGUF stores them."""
    return weight.unflatten(0, (n_heads, 2, -1)).transpose(1, 2).reshape(weight.shape)


GGUF_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_gguf(model: Any, file: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(file, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3, *[1] * (len(WORDS) - 3)])
    writer.add_token_merges(["a b", "c d", "\u0120 ab"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    weights = model.state_dict()
    tensors = {
        "token_embd.weight": weights["embed_tokens.weight"],
        "output_norm.weight": weights["norm.weight"],
    }
    for layer in range(LAYERS):
        for name, place in GGUF_NAMES.items():
            weight = weights[f"layers.{layer}.{place}.weight"]
            if name in ("attn_q", "attn_k"):
                weight = interleaved(weight, HEADS if name == "attn_q" else KEY_HEADS)
            tensors[f"blk.{layer}.{name}.weight"] = weight
    for name, weight in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(weight.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def require_gguf() -> None:
    pytest.importorskip("gguf")
    if versions.older_than("5.6"):
        pytest.skip("older transformers make a different tokenizer from a GGUF file")


@pytest.fixture(scope="module")
def gguf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_gguf()
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(tiny_llama(), folder / "tiny.gguf")
    return folder


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory, tiny_llm: Path) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    tiny_llama().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_llm / name, folder / name)
    return folder


def test_a_folder_is_loaded(tiny_llm) -> None:
    backbone, tokenizer = load_backbone(str(tiny_llm), device="cpu")
    assert backbone.name == str(tiny_llm)
    assert (backbone.n_layers, backbone.hidden_size) == (2, 32)
    assert backbone.dtype == torch.float32
    assert backbone.quantization is None
    assert backbone.sha256 == content_sha256(tiny_llm)
    assert tokenizer.pad_token == "[PAD]"


def test_damaged_weights_are_an_error_of_one_line(tiny_llm, tmp_path) -> None:
    folder = shutil.copytree(tiny_llm, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="no language model") as caught:
        load_backbone(str(folder), device="cpu")
    assert "\n" not in str(caught.value)


def test_another_content_than_the_expected_one_is_refused(tiny_llm, tmp_path, monkeypatch) -> None:
    folder = shutil.copytree(tiny_llm, tmp_path / "model")
    before = content_sha256(folder)
    assert before is not None
    expected = LanguageModel(str(folder), sha256=before, tuned_as="models/rarec")
    assert expected.load()[0].sha256 == before
    assert expected.resolved() == expected
    (folder / "tokenizer_config.json").write_text("{}")
    after = content_sha256(folder)
    assert after is not None
    # the weights are not loaded first
    monkeypatch.setattr(loading, "load_backbone", None)
    for refuse in (expected.load, expected.resolved):
        with pytest.raises(ValueError, match="models/rarec: ") as caught:
            refuse()
        assert str(caught.value) == (
            f"models/rarec: expected the language model {str(folder)!r} with the content "
            f"{before[:12]}…, with which it was tuned, got other content {after[:12]}… in "
            f"{str(folder)!r}"
        )


def test_a_missing_model_is_named_with_the_folder_that_needs_it(tmp_path) -> None:
    model = LanguageModel(str(tmp_path / "none"), tuned_as="models/rarec")
    with pytest.raises(ValueError, match=r"models/rarec: no language model '.*none'"):
        model.load()


def test_a_missing_model_is_an_error_of_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(ValueError, match="no language model") as caught:
            load_backbone(name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_gguf_file_holds_the_model_and_its_tokenizer(gguf_folder) -> None:
    ids, mask = texts()
    expected = tiny_llama()(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    for name in (gguf_folder, gguf_folder / "tiny.gguf"):
        backbone, tokenizer = load_backbone(str(name), device="cpu")
        assert backbone.name == str(name)
        assert (backbone.n_layers, backbone.pooling) == (LAYERS, "last")
        states = backbone.last_hidden_states(ids, mask)[mask.bool()]
        torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)
        numbers = tokenizer("ab cd abg")["input_ids"]
        assert tokenizer.convert_ids_to_tokens(numbers)[:3] == ["ab", "\u0120", "cd"]
        assert tokenizer.decode(numbers) == "ab cd abg"
        assert tokenizer.pad_token == tokenizer.eos_token == "</s>"


def test_safetensors_come_before_gguf_in_a_folder(gguf_folder, llama_folder, tmp_path) -> None:
    folder = shutil.copytree(llama_folder, tmp_path / "both")
    (folder / "broken.gguf").write_bytes(b"")
    assert load_backbone(str(folder), device="cpu")[1].pad_token == "[PAD]"


def test_several_gguf_files_and_a_missing_package_are_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "a.gguf").write_bytes(b"")
    for available, version in ((False, "5.24.0"), (True, "5.5.4")):
        monkeypatch.setattr(loading, "is_gguf_available", lambda there=available: there)
        monkeypatch.setattr(transformers, "__version__", version)
        with pytest.raises(
            ValueError, match=r"a\.gguf: .* 5\.6 or .*: pip install 'rarec\[gguf\]'"
        ):
            load_backbone(str(tmp_path))
    (tmp_path / "b.gguf").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected one \.gguf file .*, got a\.gguf, b\.gguf"):
        load_backbone(str(tmp_path))


@pytest.fixture(params=quantization.QUANTIZATIONS)
def bits(request: pytest.FixtureRequest) -> str:
    pytest.importorskip({"8bit": "torchao", "4bit": "bitsandbytes"}[request.param])
    return request.param


def plain_states(folder: Path, bits: str | None = None) -> Tensor:
    """Return the states that transformers itself gives for all tokens but the padding."""
    ids, mask = texts()
    options: dict[str, Any] = {}
    if bits is not None:
        options["quantization_config"] = quantization.quantization_config(bits, torch.float32)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, **options)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]


def test_a_quantized_model_takes_a_prefix(llama_folder, bits) -> None:
    ids, mask = texts()
    backbone, _ = load_backbone(str(llama_folder), device="cpu", quantization=bits)
    assert backbone.quantization == bits
    whole, expected = plain_states(llama_folder), plain_states(llama_folder, bits)
    # the rounding has an effect, and it is small
    assert 1e-4 < ((expected - whole).norm() / whole.norm()).item() < 0.5
    shared = torch.randn(LAYERS, 2, HIDDEN, requires_grad=True)
    own = torch.randn(LAYERS, 3, 3, HIDDEN, requires_grad=True)
    empty: dict[str, Any] = {"shared": shared[:, :0], "own": own[:, :, :0]}
    for parts in ({}, empty):
        states = backbone.last_hidden_states(ids, mask, **parts)[mask.bool()]
        torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-4)

    optimizer = torch.optim.Adam([shared, own], lr=0.05)
    target, losses = torch.randn(expected.shape), []
    for _ in range(5):
        states = backbone.last_hidden_states(ids, mask, shared=shared, own=own)[mask.bool()]
        assert (states - expected).abs().max() > 0.01
        losses.append((states - target).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        for part in (shared, own):
            assert part.grad is not None
            assert part.grad.flatten(2).abs().amax(dim=-1).min() > 0
        optimizer.step()
    assert losses[-1] < losses[0]


def test_a_gguf_file_can_be_quantized(gguf_folder, llama_folder, bits) -> None:
    ids, mask = texts()
    backbone, _ = load_backbone(str(gguf_folder), device="cpu", quantization=bits)
    states = backbone.last_hidden_states(ids, mask)[mask.bool()]
    expected = plain_states(llama_folder, bits)
    torch.testing.assert_close(states, expected, rtol=1e-3, atol=1e-3)


def test_wrong_quantizations_are_refused(tiny_llm, monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"one of \['8bit', '4bit'\] or None, got '2bit'"):
        load_backbone(str(tiny_llm), quantization="2bit")
    monkeypatch.setattr(quantization, "find_spec", lambda _: None)
    with pytest.raises(
        ValueError, match=r"8bit weights need torchao: pip install 'rarec\[quant.*\]'"
    ):
        load_backbone(str(tiny_llm), quantization="8bit")
    with pytest.raises(ValueError, match="LlamaModel has no linear layers that can be quantized"):
        quantization.require_quantized(tiny_llama())


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"embedding_dimension": 32, "pooling_mode": "cls"}, "first"),
        ({"pooling_mode": ["lasttoken"]}, "last"),
    ],
)
def test_pooling_comes_from_the_file_of_sentence_transformers(
    tiny_llm, tmp_path, config, pooling
) -> None:
    folder = shutil.copytree(tiny_llm, tmp_path / "model")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert load_backbone(str(folder), device="cpu")[0].pooling == pooling
    assert load_backbone(str(folder), device="cpu", pooling="last")[0].pooling == "last"


@pytest.mark.parametrize(
    "config",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        {"pooling_mode": "weightedmean"},
        {},
    ],
)
def test_other_poolings_are_refused_unless_one_is_given(tiny_llm, tmp_path, config) -> None:
    folder = shutil.copytree(tiny_llm, tmp_path / "model")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"1_Pooling/config\.json: expected one pooling of mean"):
        load_backbone(str(folder), device="cpu")
    assert load_backbone(str(folder), device="cpu", pooling="mean")[0].pooling == "mean"


def test_an_older_transformers_is_refused_on_import(monkeypatch) -> None:
    monkeypatch.setattr(versions.metadata, "requires", lambda _: ["transformers<6,>=5.1"])
    for version in ("5.1.0", "5.1.0.dev0", "5.10.2", "6.0"):
        monkeypatch.setattr(transformers, "__version__", version)
        versions.require_transformers()
    monkeypatch.setattr(transformers, "__version__", "5.0.3")
    with pytest.raises(ImportError, match=r"expected transformers 5\.1 or newer, got 5\.0\.3: pip"):
        importlib.reload(rarec.backbone)


def test_the_oldest_transformers_is_read_from_the_requirements(monkeypatch) -> None:
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    wanted = re.search(r'"transformers>=([\d.]+),', pyproject.read_text())
    assert wanted is not None
    monkeypatch.setattr(versions.metadata, "requires", lambda _: [f"transformers<6,>={wanted[1]}"])
    assert versions.oldest_transformers() == wanted[1]


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france() -> None:
    require_gguf()
    try:
        backbone, tokenizer = load_backbone("smollm2-135m-instruct", device="cpu")
    except assets.AssetError as error:
        pytest.skip(f"cannot be reached: {error}")
    assert (backbone.n_layers, backbone.hidden_size, backbone.pooling) == (30, 576, "last")
    for text in ("The capital of France is", "  Léon:\nThe Professional (1994) 東京"):
        numbers = tokenizer(text, return_tensors="pt")
        assert tokenizer.decode(numbers["input_ids"][0]) == text
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.pad_token == "<|im_end|>"
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") == 1
    assert "<|im_start|>" in str(tokenizer.chat_template)
    numbers = tokenizer("The capital of France is", return_tensors="pt")
    states = backbone.last_hidden_states(numbers["input_ids"], numbers["attention_mask"])
    # the embeddings are tied to the output
    embeddings = backbone.model.get_parameter("embed_tokens.weight")
    scores = states[0, -1] @ embeddings.T
    assert tokenizer.decode([int(scores.argmax())]) == " Paris"
