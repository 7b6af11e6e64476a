"""The one way to write and to read: whole or not at all, checked, and one writer at a time.

An artifact is a folder with a `config.json` whose key `format` names what it holds and the version
of it: `rarec.KIND/VERSION`, for example `rarec.index/1`. Beside it lies `files.json` with the size
and the hash of each file, by which damage is found when the folder is opened.
"""

from rarec.artifacts.contents import Files, content_hash, file_hash, text_hash
from rarec.artifacts.failures import WriteError, readable_size, require_space, writing_to
from rarec.artifacts.locks import LockedError, lock
from rarec.artifacts.places import is_temporary, remove, tidy
from rarec.artifacts.reading import (
    CONFIG_NAME,
    check_folder,
    is_artifact,
    parse,
    read_config,
    read_json,
    read_sealed,
    read_whole,
)
from rarec.artifacts.writing import (
    flush_folder,
    size_of,
    write_config,
    write_file,
    write_folder,
    write_json,
    write_sealed,
    write_text,
)

__all__ = [
    "CONFIG_NAME",
    "Files",
    "LockedError",
    "WriteError",
    "check_folder",
    "content_hash",
    "file_hash",
    "flush_folder",
    "is_artifact",
    "is_temporary",
    "lock",
    "parse",
    "read_config",
    "read_json",
    "read_sealed",
    "read_whole",
    "readable_size",
    "remove",
    "require_space",
    "size_of",
    "text_hash",
    "tidy",
    "write_config",
    "write_file",
    "write_folder",
    "write_json",
    "write_sealed",
    "write_text",
    "writing_to",
]
