"""The content of a language model: a hash of its config, its weights and its tokenizer.

Names and paths change, and one name can mean other weights tomorrow; the content is what a model
was tuned with. Each file is read once: its hash is kept in the cache folder of rarec by its path,
its size and the time of its last change.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import pydantic
from annotated_types import Ge
from pydantic import ConfigDict, StringConstraints, TypeAdapter

from rarec.artifacts import write_json
from rarec.assets import cache_folder
from rarec.assets.asset import sha256

CACHE_FILE = "hashes.json"
CONFIG = "config.json"
#: Names of the files of a language model without those of its weights.
FILES = (
    *(CONFIG, "adapter_config.json", "adapter_model.*"),
    *("special_tokens*", "added_tokens*", "chat_template*"),
    *("tokenizer*", "vocab*", "merges*", "*.model", "*.tiktoken", "tekken*"),
)
# it has the whole vocabulary
_WHOLE_TOKENIZER = "tokenizer.json"
# Files of a vocabulary that are not read beside it. A folder of the hub's cache may have them or
# not.
_VOCABULARY = ("tokenizer.model*", "vocab*", "merges*", "*.model", "*.tiktoken", "tekken*")
# the first of these that is there is read
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_INDEX = ".index.json"
# a GGUF file can have any name
_GGUF_NAME = "*.gguf"
# most files whose hash is kept
_MOST_FILES = 1000
# A file may change again within the same tick of the clock of its disk, which is at most so long.
_TICK_SECONDS = 2

_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class _FileHash:
    """The hash of a file, and what tells whether the file is still the same."""

    size: Annotated[int, Ge(0)]
    mtime_ns: int
    sha256: _Sha256


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="ignore", strict=True))
class _Config:
    transformers_weights: str | None = None


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="ignore", strict=True))
class _WeightsIndex:
    weight_map: Mapping[str, str]


_HASHES = TypeAdapter(dict[str, _FileHash])
_CONFIG = TypeAdapter(_Config)
_WEIGHTS_INDEX = TypeAdapter(_WeightsIndex)


def content_sha256(place: str | os.PathLike[str]) -> str | None:
    """Return the hex sha256 of the names and hashes of all files that a language model is made of.

    None if files are missing or cannot be read.

    Args:
        place: Folder of the model, or its GGUF file.
    """
    try:
        files = model_files(Path(place))
        if files is None:
            return None
        pairs = sorted(_file_hashes(files).items())
    except (OSError, ValueError):
        return None
    return hashlib.sha256(json.dumps(pairs, ensure_ascii=True).encode()).hexdigest()


def model_files(place: Path) -> dict[str, Path] | None:
    """Return the files that a language model is made of by their names; None without weights.

    Of several files with weights those are taken that transformers reads. A folder of the hub's
    cache may have others, which depends on what else has been downloaded.

    Args:
        place: Folder of the model, or its GGUF file.

    Raises:
        OSError: If the folder cannot be read.
        ValueError: If a file in it that names the weights is damaged.
    """
    folder = place if place.is_dir() else place.parent
    names = {entry.name for entry in os.scandir(folder) if entry.is_file()}
    not_read = _VOCABULARY if _WHOLE_TOKENIZER in names else ()
    chosen = {name for name in names if _matches(name, FILES) and not _matches(name, not_read)}
    found = {name: folder / name for name in chosen}
    gguf = gguf_files(place)
    if len(gguf) == 1:
        return {**found, _GGUF_NAME: gguf[0]}
    weights = [] if gguf else _weights(folder, names)
    return {**found, **{name: folder / name for name in weights}} if weights else None


def gguf_files(place: Path) -> list[Path]:
    """Return the GGUF files that a language model can be read from; none if safetensors are there.

    Args:
        place: Folder of the model, or its GGUF file.
    """
    if place.is_dir():
        return [] if any(place.glob("*.safetensors")) else sorted(place.glob("*.gguf"))
    return [place] if place.suffix == ".gguf" and place.is_file() else []


def short_hash(sha: str) -> str:
    """Return the first digits of a hash, for a message."""
    return f"{sha[:12]}…"


def _weights(folder: Path, names: Iterable[str]) -> list[str]:
    """Return the names of the files with weights, with their index if they have one."""
    config = _CONFIG.validate_json((folder / CONFIG).read_bytes())
    named = [] if config.transformers_weights is None else [config.transformers_weights]
    for name in [*named, *_WEIGHTS]:
        if name not in names:
            continue
        if not name.endswith(_INDEX):
            return [name]
        index = _WEIGHTS_INDEX.validate_json((folder / name).read_bytes())
        return [name, *sorted(set(index.weight_map.values()))]
    return []


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _file_hashes(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the hash of each file by its name; a file whose hash is kept is not read."""
    kept, new, found = _read_kept(), {}, {}
    for name, path in files.items():
        real = os.path.realpath(path)
        state = _state(real)
        known = kept.get(real)
        if known is None or (known.size, known.mtime_ns) != state:
            known = _FileHash(*state, sha256(Path(real)))
            if _state(real) == state and abs(time.time() - state[1] / 1e9) > _TICK_SECONDS:
                new[real] = known
        found[name] = known.sha256
    if new:
        _keep(new)
    return found


def _state(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def _read_kept() -> dict[str, _FileHash]:
    """Return the hashes that are kept, the newest last; none if their file is damaged."""
    try:
        return _HASHES.validate_json((cache_folder() / CACHE_FILE).read_bytes())
    except (OSError, ValueError):
        return {}


def _keep(new: Mapping[str, _FileHash]) -> None:
    # read again: another process may have added some
    kept = {path: hash_ for path, hash_ in _read_kept().items() if path not in new}
    newest = list({**kept, **new}.items())[-_MOST_FILES:]
    # where it cannot be written, the files are read again the next time
    with suppress(OSError, ValueError):
        write_json(cache_folder() / CACHE_FILE, {path: asdict(hash_) for path, hash_ in newest})
