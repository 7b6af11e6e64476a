"""The k-core filter, which removes users and items with too few interactions.

Axes: U users, N items, E events.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from rarec.data.dataset import Dataset
from rarec.data.histories import Histories
from rarec.data.tables import DataError


def k_core(dataset: Dataset, *, user: int = 5, item: int = 5) -> Dataset:
    """Return the largest part in which every user and every item has enough interactions.

    When a user is removed, items lose interactions, and the other way round. So both filters are
    repeated until nothing changes.

    Args:
        dataset: The dataset; it is not changed.
        user: Least number of interactions of a user.
        item: Least number of interactions of an item; 0 keeps items without interactions.

    Raises:
        ValueError: If a number is negative.
        DataError: If nothing is left.
    """
    if user < 0 or item < 0:
        raise ValueError(f"expected user >= 0 and item >= 0, got {user} and {item}")
    histories = dataset.histories
    kept = _stable_events(histories, dataset.n_items, user, item)
    if not kept.any():
        raise DataError(
            f"expected a part of the dataset in which users have at least {user} and items at "
            f"least {item} interactions, got none among {len(kept)} interactions"
        )
    users = np.bincount(histories.rows[kept], minlength=dataset.n_users) >= user
    items = np.bincount(histories.items[kept], minlength=dataset.n_items) >= item
    report = dataclasses.replace(
        dataset.report,
        core=(user, item),
        core_left_out=tuple(
            before + int(np.sum(~mask))
            for before, mask in zip(dataset.report.core_left_out, (users, items, kept), strict=True)
        ),
    )
    filters = [*dataset.description.get("filters", []), {"k_core": {"user": user, "item": item}}]
    numbers = np.cumsum(items) - 1
    lengths = np.bincount(histories.rows[kept], minlength=dataset.n_users)[users]
    return Dataset(
        [dataset.user_ids[number] for number in np.flatnonzero(users)],
        [dataset.item_ids[number] for number in np.flatnonzero(items)],
        [dataset.titles[number] for number in np.flatnonzero(items)],
        Histories(
            np.concatenate([[0], np.cumsum(lengths)]),
            numbers[histories.items[kept]],
            None if histories.times is None else histories.times[kept],
        ),
        report,
        {**dataset.description, "filters": filters},
    )


def _stable_events(histories: Histories, n_items: int, user: int, item: int) -> NDArray[np.bool_]:
    """Return `[E]` bool: True for the events of the k-core."""
    rows, items = histories.rows, histories.items
    kept = np.ones(len(items), dtype=bool)
    while True:
        enough_items = np.bincount(items[kept], minlength=n_items) >= item
        left = kept & enough_items[items]
        enough_users = np.bincount(rows[left], minlength=len(histories)) >= user
        left &= enough_users[rows]
        if left.sum() == kept.sum():
            return kept
        kept = left
