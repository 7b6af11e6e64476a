"""A frozen language model with a prefix in the attention of every layer."""

from rarec.backbone.versions import require_transformers

# comes first: with an older transformers the imports below fail without a helpful message
require_transformers()

from rarec.backbone.backbone import POOLINGS, Backbone  # noqa: E402
from rarec.backbone.content import content_sha256, short_hash  # noqa: E402
from rarec.backbone.loading import LanguageModel, load_backbone  # noqa: E402
from rarec.backbone.lora import require_peft  # noqa: E402
from rarec.backbone.names import full_name  # noqa: E402
from rarec.backbone.prepared import PreparedPrefixes  # noqa: E402
from rarec.backbone.quantization import QUANTIZATIONS  # noqa: E402

__all__ = [
    "POOLINGS",
    "QUANTIZATIONS",
    "Backbone",
    "LanguageModel",
    "PreparedPrefixes",
    "content_sha256",
    "full_name",
    "load_backbone",
    "require_peft",
    "short_hash",
]
