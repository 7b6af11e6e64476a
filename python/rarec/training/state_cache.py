"""A folder of states that a frozen language model gives to texts, limited in size.

The states of a text never change while the model is frozen. They are computed once, written to a
file that is named by a hash of the model and the texts, and read from there.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rarec.assets import cache_folder
from rarec.backbone import Backbone
from rarec.prompts import Tokens

#: Most bytes of the folder.
LIMIT = 8 * 2**30
# A temporary file that nobody has written to for so long was left by a process that was killed.
_ABANDONED_SECONDS = 24 * 3600
_NAME = re.compile(r"[0-9a-f]{32}")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.[0-9a-f]{32}")

#: Bytes, and their place in the file.
Part = tuple[int, NDArray[np.uint8]]


class StateCache:
    """Files of states by name. The least recently used ones are removed when the folder is full.

    Each file is written whole or not at all. Several processes may use the folder at once.

    Args:
        folder: The folder. By default it is `states` in the cache folder of rarec.
        limit: Most bytes of the folder. A single larger file is kept alone.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, *, limit: int = LIMIT) -> None:
        self.folder = cache_folder() / "states" if folder is None else Path(folder)
        self.limit = limit

    def open(self, name: str, n_bytes: int, compute: Callable[[], Iterable[Part]]) -> FileIO:
        """Return the open file of a name, which is written now if it is not there.

        It stays readable while it is open, also if another process removes it from the folder.

        Args:
            name: Name of the file: 32 digits of a hash, see `texts_hash`.
            n_bytes: Size of the file.
            compute: Called if the file is not there. It returns all parts of the content.

        Raises:
            ValueError: If the name is not one of a hash, or the parts have another size.
            OSError: If the file cannot be written.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"expected a name of 32 hexadecimal digits, got {name!r}")
        path = self.folder / name
        while True:
            try:
                file = FileIO(path)
            except FileNotFoundError:
                # again in a loop: another process may remove the file before it is opened
                self._write(path, n_bytes, compute())
                continue
            if os.fstat(file.fileno()).st_size == n_bytes:
                # the time of the last change stands for the last use
                with suppress(OSError):
                    os.utime(path)
                return file
            file.close()
            path.unlink(missing_ok=True)

    def _write(self, path: Path, n_bytes: int, parts: Iterable[Part]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_room(path, n_bytes)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with temporary.open("xb") as file:
                for place, data in parts:
                    file.seek(place)
                    file.write(data.data)
                file.flush()
                os.fsync(file.fileno())
                n_written = os.fstat(file.fileno()).st_size
            if n_written != n_bytes:
                raise ValueError(f"expected {n_bytes} bytes of states, got {n_written}")
            try:
                temporary.replace(path)
            except PermissionError:
                # on Windows: another process has written the same file, and has it open
                if not path.exists():
                    raise
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, path: Path, n_bytes: int) -> None:
        """Remove the least recently used files until another one fits."""
        files = []
        for entry in self.folder.iterdir():
            # another process may have removed it since
            with suppress(FileNotFoundError):
                status = entry.stat()
                if _TEMPORARY.fullmatch(entry.name):
                    if time.time() - status.st_mtime > _ABANDONED_SECONDS:
                        entry.unlink()
                elif _NAME.fullmatch(entry.name) and entry != path:
                    files.append((status.st_mtime_ns, status.st_size, entry))
        total = n_bytes + sum(size for _, size, _ in files)
        for _, size, entry in sorted(files):
            if total <= self.limit:
                return
            # where an open file cannot be removed, it stays
            with suppress(OSError):
                entry.unlink(missing_ok=True)
                total -= size


def texts_hash(kind: str, backbone: Backbone, tokens: Tokens) -> str:
    """Return the name of the states of one kind that a model gives to texts.

    Args:
        kind: Which states they are.
        backbone: The frozen model.
        tokens: R texts.
    """
    digest = hashlib.sha256(kind.encode())
    for name, weight in backbone.model.state_dict().items():
        digest.update(name.encode())
        if backbone.quantization == "8bit" and type(weight) is not Tensor:
            # a tensor of torchao, which has no sum
            weight = weight.dequantize()
        # sums tell one model from another, and hashing gigabytes of weights would take long
        digest.update(repr((list(weight.shape), str(weight.dtype), _sum_of_bits(weight))).encode())
    for array in (tokens.offsets, tokens.ids):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


def _sum_of_bits(weight: Tensor) -> int:
    """Return the sum of the values of a tensor read as whole numbers.

    It is the same in any order of adding. A sum of floats changes with the number of threads.
    """
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return int(weight.contiguous().view(whole[weight.element_size()]).sum(dtype=torch.int64))
