"""What was found in the data and what was left out, as counts and as text.

Axes: U users, E events (interactions).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rarec.data.histories import Histories


@dataclass(frozen=True)
class Report:
    """Counts of a dataset as it is now, and of what was left out of it.

    Attributes:
        users: Number of users.
        items: Number of items in the catalogue.
        interactions: Number of interactions.
        rows_read: Number of records in the interaction file.
        below_min_rating: Number of records left out because of their rating.
        min_rating: The lowest rating that was kept; None if ratings were not read.
        repeats: Which of a user's interactions with one item is kept: "first", "last", or "keep"
            for all.
        repeated: Number of interactions with an item that the same user had before. They are
            left out unless `repeats` is "keep".
        has_times: Whether the source has times.
        ties: Order of a user's interactions at the same time: "file" or "shuffle".
        tied: Number of interactions that have the same time as another one of the same user.
        users_with_tied_end: Number of users whose newest interaction has the same time as another.
        has_item_texts: Whether an item file was given.
        items_listed: Number of distinct items in the item file.
        items_listed_twice: Number of records left out of the item file because an earlier record
            has the same id.
        items_not_listed: Number of items with interactions that are not in the item file.
        items_without_interactions: Number of items in the item file without an interaction.
        catalogue: Whether items without an interaction are left out ("interacted") or kept ("all").
        titles_missing: Number of items in the catalogue with an empty title.
        titles_shared: Number of items that have the same title as another item.
        core: Least numbers of interactions of a user and of an item in the k-core filter; (0, 0)
            if there was no such filter.
        core_left_out: Numbers of users, items and interactions that the k-core filter removed.
        notes: Remarks of the readers, for example about the encoding of a file.
    """

    users: int = 0
    items: int = 0
    interactions: int = 0
    rows_read: int = 0
    below_min_rating: int = 0
    min_rating: float | None = None
    repeats: str = "keep"
    repeated: int = 0
    has_times: bool = True
    ties: str = "file"
    tied: int = 0
    users_with_tied_end: int = 0
    has_item_texts: bool = False
    items_listed: int = 0
    items_listed_twice: int = 0
    items_not_listed: int = 0
    items_without_interactions: int = 0
    catalogue: str = "interacted"
    titles_missing: int = 0
    titles_shared: int = 0
    core: tuple[int, int] = (0, 0)
    core_left_out: tuple[int, int, int] = (0, 0, 0)
    notes: tuple[str, ...] = ()

    @property
    def tie_share(self) -> float:
        """Share of interactions that have the same time as another one of the same user."""
        return self.tied / self.interactions if self.interactions else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as values that JSON can hold."""
        values = {**asdict(self), "tie_share": round(self.tie_share, 6)}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """Return the report that `as_dict` turned into `values`."""
        kept: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v
            for key, v in values.items()
            if key != "tie_share"
        }
        return cls(**kept)

    def lines(self) -> list[str]:
        """Return the report as text, one statement per line; counts of zero are left out."""
        text = [
            f"{self.interactions:,} interactions of {self.users:,} users with {self.items:,} items"
        ]
        if self.rows_read not in (0, self.interactions):
            text.append(f"{self.rows_read:,} records read")
        if self.min_rating is not None:
            text.append(
                f"{self.below_min_rating:,} records with a rating below {self.min_rating:g} "
                f"left out"
            )
        text += [*self._about_repeats(), *self._about_order(), *self._about_core()]
        return [*text, *self._about_items(), *self.notes]

    def _about_repeats(self) -> list[str]:
        if not self.repeated:
            return []
        found = f"{self.repeated:,} interactions repeat an item that the same user had before"
        if self.repeats == "keep":
            return [f"{found}; all of them are kept"]
        return [f"{found}; the {self.repeats} one is kept, the others are left out"]

    def _about_order(self) -> list[str]:
        if not self.has_times:
            return ["the source has no times, so each history is in the order of the file"]
        if not self.tied:
            return ["no two interactions of a user share a timestamp, so the order is exact"]
        order = "in the order of the file" if self.ties == "file" else "in a shuffled order"
        return [
            f"{self.tie_share:.1%} of interactions ({self.tied:,}) share a timestamp with another "
            f"of the same user; they are {order}",
            f"users whose newest interaction shares its timestamp, so their last item is not "
            f"certain: {self.users_with_tied_end:,}",
        ]

    def _about_core(self) -> list[str]:
        if self.core == (0, 0):
            return []
        users, items, interactions = self.core_left_out
        return [
            f"k-core filter, users with at least {self.core[0]} and items with at least "
            f"{self.core[1]} interactions; left out: users {users:,}, items {items:,}, "
            f"interactions {interactions:,}"
        ]

    def _about_items(self) -> list[str]:
        if not self.has_item_texts:
            return ["NO ITEM TEXTS: no item file was given, so every title is empty"]
        kept = "kept" if self.catalogue == "all" else "left out"
        counts = [
            ("repeated records in the item file, left out", self.items_listed_twice),
            ("items with interactions that are not in the item file", self.items_not_listed),
            (
                f"items of the item file without an interaction, {kept}",
                self.items_without_interactions,
            ),
            ("items without a title", self.titles_missing),
            ("items with the same title as another item", self.titles_shared),
        ]
        return [f"{words}: {count:,}" for words, count in counts if count]


def tied_events(histories: Histories) -> NDArray[np.bool_]:
    """Return `[E]` bool: True where an event has the same time as another one of the same user.

    Args:
        histories: Histories in time order; without times, no event is tied.
    """
    tied = np.zeros(len(histories.items), dtype=bool)
    if histories.times is not None and len(tied) > 1:
        rows = histories.rows
        same = (histories.times[1:] == histories.times[:-1]) & (rows[1:] == rows[:-1])
        tied[1:] |= same
        tied[:-1] |= same
    return tied
