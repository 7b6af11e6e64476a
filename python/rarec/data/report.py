"""What was found in the data and what was done to it, as counts and in words.

Axes: U users, E events (interactions).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rarec.data.histories import Histories


@dataclass(frozen=True)
class Report:
    """Counts of a dataset; all of them describe it as it is now, or what was left out of it.

    Attributes:
        users: Users.
        items: Items of the catalogue.
        interactions: Interactions.
        rows_read: Records in the file of interactions.
        below_min_rating: Records left out because of their rating.
        min_rating: The lowest rating that stays, or None.
        repeats: Which of a user's interactions with one item stays: "first", "last" or "keep".
        repeated: Interactions with an item the same user had before: left out, or still there
            when `repeats` is "keep".
        has_times: Whether the source has times.
        ties: Order inside a tie: "file" or "shuffle".
        tied: Interactions that share their time with another of the same user.
        users_with_tied_end: Users whose newest interaction shares its time with another.
        has_item_texts: Whether a file of items was given.
        items_listed: Distinct items in the file of items.
        items_listed_twice: Records of items whose id came before: left out.
        items_not_listed: Items with interactions that the file of items does not have.
        items_without_interactions: Listed items nobody interacted with.
        catalogue: "interacted" leaves those out, "all" keeps them.
        titles_missing: Items of the catalogue with an empty title.
        titles_shared: Items whose title another item has too.
        core: Least interactions of a user and of an item, after a k-core filter.
        core_left_out: Users, items and interactions that filter removed.
        notes: What the readers had to say, such as the encoding of a file.
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
        """Share of interactions whose time is also that of another one of the same user."""
        return self.tied / self.interactions if self.interactions else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON can hold them."""
        values = {**asdict(self), "tie_share": round(self.tie_share, 6)}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Report:
        """Return the report that `as_dict` wrote."""
        kept: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v
            for key, v in values.items()
            if key != "tie_share"
        }
        return cls(**kept)

    def lines(self) -> list[str]:
        """Return the report in plain words, one fact a line; what did not happen is left out."""
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
        what = f"{self.repeated:,} interactions repeat an item the same user had before"
        if self.repeats == "keep":
            return [f"{what}: all kept"]
        return [f"{what}: the {self.repeats} one stays, the others are left out"]

    def _about_order(self) -> list[str]:
        if not self.has_times:
            return ["no times: a history is in the order of the file"]
        if not self.tied:
            return ["no two interactions of a user share a time: the order is exact"]
        order = "the file's" if self.ties == "file" else "shuffled by a seed"
        return [
            f"{self.tie_share:.1%} of interactions ({self.tied:,}) share a timestamp with another "
            f"of the same user; order inside ties is {order}",
            f"users whose newest interaction is tied, so that which one is the last is not known: "
            f"{self.users_with_tied_end:,}",
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
            return ["NO ITEM TEXTS: no file of items was given, so every title is empty"]
        kept = "kept" if self.catalogue == "all" else "left out"
        facts = [
            ("records of items whose id came before, left out", self.items_listed_twice),
            ("items with interactions that are not in the file of items", self.items_not_listed),
            (f"listed items without an interaction, {kept}", self.items_without_interactions),
            ("items without a title", self.titles_missing),
            ("items with the same title as another item", self.titles_shared),
        ]
        return [f"{words}: {count:,}" for words, count in facts if count]


def tied_events(histories: Histories) -> NDArray[np.bool_]:
    """Return `[E]`: whether the event shares its time with another one of the same user.

    Args:
        histories: In time order; without times nothing is tied.
    """
    tied = np.zeros(len(histories.items), dtype=bool)
    if histories.times is not None and len(tied) > 1:
        rows = histories.rows
        same = (histories.times[1:] == histories.times[:-1]) & (rows[1:] == rows[:-1])
        tied[1:] |= same
        tied[:-1] |= same
    return tied
