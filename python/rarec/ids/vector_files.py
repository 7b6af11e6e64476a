"""Vectors from other programs: a file with a table, and a text file with the id of each row.

Axes: M rows, E vector width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file


def read_vectors(
    vectors: str | os.PathLike[str],
    ids: str | os.PathLike[str],
    wanted: Sequence[str],
    *,
    normalize: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return `[len(wanted), E]` float32 vectors in the order of `wanted`, and which are known.

    Args:
        vectors: A `.npy` file, or a `.safetensors` file with one tensor or one named `vectors`;
            `[M, E]`.
        ids: A text file with the M ids, one in each line, in the order of the vectors.
        wanted: Ids, such as `dataset.item_ids`. An id without a vector gets zeros.
        normalize: Scale each vector to length one. A zero vector stays as it is.

    Returns:
        The vectors, and `[len(wanted)]` bool, true for ids that have a vector.

    Raises:
        ValueError: If a file is missing or of another kind, if the counts differ, if an id occurs
            twice, if a vector is not finite (the message names its id), or if no wanted id has a
            vector.
    """
    table = _read_table(Path(vectors))
    names = _read_lines(Path(ids))
    if len(names) != len(table):
        raise ValueError(f"{ids}: expected {len(table)} ids, one for each vector, got {len(names)}")
    row_of = _rows_by_name(names, ids)
    finite = np.isfinite(table).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(
            f"{vectors}: expected finite numbers, "
            f"got NaN or infinity in row {row} (id {names[row]!r})"
        )
    rows = np.array([row_of.get(name, -1) for name in wanted], dtype=np.int64)
    known = rows >= 0
    if not known.any():
        raise ValueError(
            f"{ids}: expected ids of the dataset, such as {wanted[0]!r}, "
            f"got {len(names)} others, such as {names[0]!r}"
        )
    if normalize:
        lengths = np.linalg.norm(table, axis=1, keepdims=True)
        table = table / np.maximum(lengths, np.finfo(np.float32).tiny)
    found = np.zeros((len(rows), table.shape[1]), dtype=np.float32)
    found[known] = table[rows[known]]
    return found, known


def _rows_by_name(names: Sequence[str], source: str | os.PathLike[str]) -> dict[str, int]:
    row_of: dict[str, int] = {}
    for row, name in enumerate(names):
        if row_of.setdefault(name, row) != row:
            raise ValueError(
                f"{source}:{row + 1}: expected each id once, "
                f"got {name!r} on line {row_of[name] + 1}, too"
            )
    return row_of


def _read_table(path: Path) -> NDArray[np.float32]:
    if not path.is_file():
        raise ValueError(f"{path}: expected a file, got none")
    try:
        if path.suffix == ".npy":
            table = np.load(path, allow_pickle=False)
        elif path.suffix == ".safetensors":
            tensors = load_file(path)
            if "vectors" not in tensors and len(tensors) != 1:
                raise ValueError(f"expected one tensor or one named 'vectors', got {list(tensors)}")
            table = tensors.get("vectors", next(iter(tensors.values())))
        else:
            raise ValueError(f"expected .npy or .safetensors, got {path.suffix!r}")
    except Exception as error:
        raise ValueError(f"{path}: {error}") from error
    if table.ndim != 2 or 0 in table.shape or not np.issubdtype(table.dtype, np.floating):
        raise ValueError(f"{path}: expected floats [M, E], got {table.dtype} {list(table.shape)}")
    return table.astype(np.float32)


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"{path}: expected a file, got none")
    try:
        # some editors write a byte order mark before the first id
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, one id in each line ({error})") from error
    # not `splitlines`: an id may have other characters that end a line for it
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]
