"""Fetches assets by name into the cache and checks their files at every call."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

from rarec.assets.asset import Asset, AssetError, find_fault
from rarec.assets.ml_100k import ML_100K
from rarec.assets.models import MINILM, SMOLLM2

_log = logging.getLogger(__name__)

_DATASETS = (ML_100K,)
_ASSETS = {asset.name: asset for asset in (*_DATASETS, MINILM, SMOLLM2)}


def names() -> list[str]:
    """Return the names of the assets that `fetch` knows."""
    return sorted(_ASSETS)


def is_public_dataset(source: str) -> bool:
    """Return whether a text is the name of a public dataset; a path is written `./NAME`."""
    return source in [asset.name for asset in _DATASETS]


def cache_folder() -> Path:
    """Return the cache folder that the environment variables name; it need not exist."""
    if os.environ.get("RAREC_CACHE"):
        return Path(os.environ["RAREC_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rarec"


def fetch(name: str | Asset, *, cache: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of an asset; it is fetched if the cache does not have it.

    The sha256 of every file is checked at each call, even if the file was in the cache. This takes
    0.1 seconds for 100 MB. The folder is renamed into its place when it is complete, so two
    processes may fetch the same asset at the same time.

    Args:
        name: One of `names()`, or an `Asset`.
        cache: The cache folder; None takes `cache_folder()`.

    Raises:
        ValueError: If the name is unknown.
        AssetError: If no source works, or if the asset is not in the cache and `RAREC_OFFLINE` is
            set. The message has the cause for each source, and says where to put the files by
            hand.
    """
    if isinstance(name, str) and name not in _ASSETS:
        raise ValueError(f"expected an asset of {', '.join(names())}, got {name!r}")
    asset = _ASSETS[name] if isinstance(name, str) else name
    target = (cache_folder() if cache is None else Path(cache)) / asset.name
    fault = find_fault(asset, target)
    if fault is None:
        return target
    if os.environ.get("RAREC_OFFLINE", "") not in ("", "0"):
        raise AssetError(
            f"{asset.name} is not in the cache: {fault}; it is not fetched because RAREC_OFFLINE "
            f"is set. {_by_hand(asset, target)}"
        )
    if target.exists():
        _log.warning("%s: the cache is damaged (%s); fetching it again", asset.name, fault)

    causes = []
    for source in asset.sources:
        scratch = _scratch_folder(asset, target.parent)
        try:
            _log.info("%s: fetching from %s", asset.name, source.label)
            source.place(scratch)
            fault = find_fault(asset, scratch)
            if fault is None:
                _move(asset, scratch, target)
                _log.info("%s: fetched from %s into %s", asset.name, source.label, target)
                return target
            causes.append(f"{source.label}: {fault}")
        except (OSError, AssetError) as error:
            causes.append(f"{source.label}: {' '.join(str(error).split())}")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        _log.warning("%s: this source failed: %s", asset.name, causes[-1])
    raise AssetError(
        f"{asset.name} could not be fetched. {'; '.join(causes)}. {_by_hand(asset, target)}"
    )


def _scratch_folder(asset: Asset, cache: Path) -> Path:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{asset.name}.", dir=cache))
    except OSError as error:
        raise AssetError(
            f"expected a cache folder that can be written, got {cache}: {error.strerror}"
        ) from None


def _by_hand(asset: Asset, target: Path) -> str:
    return f"To add it by hand, put {', '.join(asset.files)} into {target}"


def _move(asset: Asset, scratch: Path, target: Path) -> None:
    # not the scratch folder itself: only its owner could read it, and it may hold other files
    with tempfile.TemporaryDirectory(prefix=f".{asset.name}.", dir=target.parent) as parent:
        clean = Path(parent) / asset.name
        clean.mkdir()
        for name in asset.files:
            (scratch / name).replace(clean / name)
        try:
            clean.rename(target)
        except OSError:
            # another process has put the asset there, or the folder in the cache is damaged
            if find_fault(asset, target) is None:
                return
            target.rename(Path(parent) / "damaged")
            clean.rename(target)
