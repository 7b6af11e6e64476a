"""The step that makes the index of an aligned model: the vectors from which it answers.

Axes: N items, H hidden size, E width of the ID vectors.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rarec.index import ItemIndex
from rarec.members.id_model import with_mean_for_cold
from rarec.pipeline.members import RunMembers, catalogue_part
from rarec.run.folder import index_address, model_address
from rarec.run.freshness import fresh_record, require_inputs
from rarec.run.writing import write_artifact


def index_of(members: RunMembers, name: str) -> ItemIndex:
    """Return the index of an aligned model; it is made and written if it is not there or not fresh.

    A row holds the vector of the model and behind it the one of the ID model, so that the index
    answers alone and fused.

    Args:
        members: Members of the run.
        name: Name of the aligned model.
    """
    run, address = members.run, index_address(name)
    if fresh_record(run, address) is None:
        with members.session.making(run, address):
            # a process that was waited for may have made it
            if fresh_record(run, address) is None:
                vectors = members.aligned(name).item_vectors()
                _write(members, name, vectors, run.dataset.item_ids, run.dataset.titles)
    return ItemIndex.load(run.folder(address))


def item_vectors(members: RunMembers, name: str) -> NDArray[np.float32]:
    """Return `[N, H]` float32 vectors of the catalogue, as an aligned model encoded them.

    Args:
        members: Members of the run.
        name: Name of the aligned model.
    """
    _, ids = members.baseline()
    width = ids.item_vectors.shape[1]
    return catalogue_part(index_of(members, name).vectors, members.run.dataset.n_items, width)


def add_items(members: RunMembers, name: str, titles: Mapping[str, str]) -> ItemIndex:
    """Return the index of a model with new items, which are read by their text alone; write it.

    Args:
        members: Members of the run.
        name: Name of the aligned model.
        titles: Title of each new item by its id.

    Raises:
        ValueError: If an id is in the index already.
    """
    index_of(members, name)
    with members.session.making(members.run, index_address(name)):
        index = ItemIndex.load(members.run.folder(index_address(name)))
        _, ids = members.baseline()
        before = np.asarray(index.vectors[:, : -ids.item_vectors.shape[1]], dtype=np.float32)
        new = members.aligned(name).new_item_vectors(list(titles.values()))
        vectors = np.concatenate([before, new])
        return _write(
            members, name, vectors, [*index.item_ids, *titles], [*index.titles, *titles.values()]
        )


def _write(
    members: RunMembers,
    name: str,
    vectors: NDArray[np.float32],
    item_ids: list[str],
    titles: list[str],
) -> ItemIndex:
    made_from = require_inputs(members.run, [model_address(name), members.baseline()[0]])
    _, ids = members.baseline()
    both = np.concatenate([vectors, with_mean_for_cold(ids, len(vectors))], axis=1)
    index = ItemIndex(both, item_ids, titles)
    with write_artifact(
        members.run, index_address(name), made_from=made_from, settings={}
    ) as folder:
        index.save(folder)
    return index
