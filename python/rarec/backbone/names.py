"""What the name of a language model means: a path, an asset, or a name on the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import snapshot_download, try_to_load_from_cache

from rarec import assets
from rarec.backbone.content import CONFIG, FILES

#: File of sentence-transformers that names the pooling of a model.
POOLING_FILE = "1_Pooling/config.json"
# the same weights again, in the format of another program
_NOT_NEEDED = ("*/*.safetensors", "consolidated*")


def is_path(name: str) -> bool:
    """Return whether a name is written as a path.

    It is if it is absolute or begins with `./`, `../` or `~`. Any other name is one of an asset or
    of the hub, even if a folder here has the same name.

    Example:
        >>> [is_path(name) for name in ("./llm", "~/llm", "llm", "org/name")]
        [True, True, False, False]
    """
    if os.name == "nt":
        name = name.replace("\\", "/")
    if name in (".", "..") or name.startswith(("/", "./", "../", "~")):
        return True
    # a drive, which only Windows has
    return bool(os.path.splitdrive(name)[0])


def full_name(name: str) -> str:
    """Return a name that means the same in any working directory: a path is made absolute."""
    return str(_path(name)) if is_path(name) else name


def place_of(name: str, revision: str | None = None) -> Path | None:
    """Return where the files of a language model are on this machine; None if they are not.

    Args:
        name: Name of the language model.
        revision: Hub revision of the language model.
    """
    if name in assets.names():
        place = assets.cache_folder() / name
    elif is_path(name):
        place = _path(name)
    else:
        try:
            config = try_to_load_from_cache(name, CONFIG, revision=revision)
        except ValueError:
            # no name that the hub can have
            return None
        return Path(config).parent if isinstance(config, str) else None
    return place if place.exists() else None


def fetched(name: str) -> Path | None:
    """Return the folder or the file that a path or an asset name means; None for a hub name.

    Raises:
        FileNotFoundError: If nothing is at the path.
        AssetError: If the asset cannot be fetched.
    """
    if name in assets.names():
        return assets.fetch(name)
    if not is_path(name):
        return None
    if not _path(name).exists():
        raise FileNotFoundError(f"nothing is at {str(_path(name))!r}")
    return _path(name)


def hub_source(name: str, revision: str | None = None) -> str:
    """Return what transformers loads a hub name from.

    This is the name itself, unless a folder or a file here has the same name: transformers would
    take that one. Then it is the folder of the model in the cache of the hub.

    Args:
        name: Name on the hub.
        revision: Hub revision of the language model.
    """
    if not _is_here(name):
        return name
    folder = snapshot_download(
        name,
        revision=revision,
        allow_patterns=[*FILES, "*.safetensors", "*.safetensors.index.json", POOLING_FILE],
        ignore_patterns=list(_NOT_NEEDED),
    )
    if not any(Path(folder).glob("*.safetensors")):
        folder = snapshot_download(
            name, revision=revision, allow_patterns=["pytorch_model*.bin", "pytorch_model*.json"]
        )
    return folder


def path_hint(name: str) -> str:
    """Return how to write the path of what is here under a hub name; empty if nothing is here."""
    if is_path(name) or not _is_here(name):
        return ""
    kind = "folder" if Path(name).is_dir() else "file"
    return f"; a {kind} of this name is here: write {'./' + name!r} for it"


def _path(name: str) -> Path:
    # not `resolve`: a link may lead elsewhere tomorrow
    return Path(os.path.expanduser(name)).absolute()  # noqa: PTH111 (no error for unknown users)


def _is_here(name: str) -> bool:
    return bool(name) and Path(name).exists()
