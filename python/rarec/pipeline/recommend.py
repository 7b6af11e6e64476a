"""The step that answers: the best items for a user, a history, or somebody new.

Axes: C users, K vectors per user, H hidden size, E width of the ID vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rarec.data import Dataset, Histories
from rarec.index import ItemIndex, Recommendation
from rarec.members.id_model import id_queries_to_add
from rarec.pipeline.members import RunMembers
from rarec.pipeline.weigh import weigh
from rarec.run.folder import ID_MODEL


def recommend(
    members: RunMembers,
    name: str,
    index: ItemIndex,
    *,
    user: str | None = None,
    items: Sequence[str] = (),
    titles: Sequence[str] = (),
    k: int = 10,
    exclude_seen: bool = True,
    fused: bool = True,
) -> list[Recommendation]:
    """Return the best items for one user, best first; see `Recommender.recommend`.

    Args:
        members: Members of the run.
        name: Name of the aligned model that answers.
        index: Index of the model.
        user: Id of a user of the dataset.
        items: Instead, a history as item ids, oldest first.
        titles: Instead, a history as titles, oldest first.
        k: Number of items.
        exclude_seen: Leave out the items of the history.
        fused: Add the score of the ID model.
    """
    if sum([user is not None, bool(items), bool(titles)]) > 1:
        raise ValueError("expected one of user, items and titles, got more")
    dataset, aligned = members.run.dataset, members.aligned(name)
    users = tokens = None
    if user is not None:
        number = dataset.user_number(user)
        users = np.array([number], dtype=np.int32)
        history = dataset.histories.take([number])
    elif titles:
        history = _items_with_titles(dataset, titles)
        tokens = aligned.prompts.user_titles([titles])
    else:
        history = Histories.from_lists([[dataset.item_number(item) for item in items]])
    vectors = aligned.queries(aligned.user_entities(history, users, tokens=tokens))
    _, ids = members.baseline()
    weight = weigh(members, name)[ID_MODEL] if fused else 0.0
    by_id = id_queries_to_add(ids, history, users, weight)
    repeated = np.repeat(vectors[:, None], by_id.shape[1], axis=1)
    query = np.concatenate([repeated, by_id], axis=2)
    return index.search(query, k, exclude=history if exclude_seen else None)[0]


def _items_with_titles(dataset: Dataset, titles: Sequence[str]) -> Histories:
    """Return one history: the items of the catalogue that have one of the titles."""
    numbers: dict[str, int] = {}
    for number, title in enumerate(dataset.titles):
        if title:
            numbers.setdefault(title.casefold(), number)
    known = [numbers[t.casefold()] for t in titles if t.casefold() in numbers]
    return Histories.from_lists([known])
