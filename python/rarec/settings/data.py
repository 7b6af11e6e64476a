"""Settings of the data: which columns are read, what is kept, and how it is split."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Gt, Lt

from rarec.settings.declaration import Count, CountOrZero, Seed, Texts, typed


@typed
class ColumnSettings:
    """Names of the columns, where they are not the usual ones."""

    user: str | None = None
    """Name of the column with the user ids."""
    item: str | None = None
    """Name of the column with the item ids."""
    text_item: str | None = None
    """Name of the column with the item ids in the file of items, if it is another one there."""
    timestamp: str | None = None
    """Name of the column with the times."""
    rating: str | None = None
    """Name of the column with the ratings."""
    text: Texts = ()
    """Names of the columns that are joined into the text of an item; empty for the title column."""
    title_template: str | None = None
    """Text of an item, with column names in braces, such as "{title} ({genres})". It takes the
    place of `text`. `{title}` stands for the usual title column. An empty value takes with it the
    brackets around it, or the punctuation before it."""

    def __post_init__(self) -> None:
        if self.text and self.title_template is not None:
            raise ValueError(
                f"expected text or title_template, got {list(self.text)} "
                f"and {self.title_template!r}"
            )


@typed
class ReadSettings:
    """What is kept of the interactions that are read."""

    repeats: Literal["first", "last", "keep"] = "first"
    """Which of a user's interactions with one item is kept: the first, the last, or all ("keep").
    A seen item is never recommended again, so a later interaction cannot be predicted."""
    ties: Literal["file", "shuffle"] = "file"
    """Order of a user's interactions that have the same time: the order of the file, or random."""
    tie_seed: Seed = 0
    """Seed of the random order of ties."""
    catalogue: Literal["interacted", "all"] = "interacted"
    """Items of the catalogue: those with interactions, or all that are listed."""
    min_user_interactions: Count = 1
    """Fewest interactions of a user (k-core). Users and items are left
    out until all have enough."""
    min_item_interactions: Count = 1
    """Fewest interactions of an item (k-core)."""
    min_rating: float | None = None
    """Interactions with a lower rating are left out."""

    def __post_init__(self) -> None:
        if self.catalogue == "all" and self.min_item_interactions > 1:
            raise ValueError(
                f"expected catalogue='interacted' with min_item_interactions="
                f"{self.min_item_interactions}, got 'all'"
            )


@typed
class SplitSettings:
    """How a dataset is split into training, validation and test."""

    kind: Literal["leave-one-out", "time"] = "leave-one-out"
    """Leave-one-out takes the last event of each user for the test and the one before for the
    validation. Time takes the newest events of all users."""
    min_history: CountOrZero = 1
    """Fewest events before a target."""
    validation: Annotated[float, Gt(0), Lt(1)] = 0.1
    """Share of the events in the validation part of a split by time."""
    test: Annotated[float, Gt(0), Lt(1)] = 0.1
    """Share of the events in the test part of a split by time."""


@typed
class PrepareSettings:
    """What `rarec prepare` does: it reads files and splits their interactions."""

    format: Literal["auto", "recbole", "movielens", "table"] = "auto"
    """Format of the files. By default it is found from their names."""
    columns: ColumnSettings = field(default_factory=ColumnSettings)
    """Names of the columns."""
    read: ReadSettings = field(default_factory=ReadSettings)
    """What is kept of the interactions."""
    split: SplitSettings = field(default_factory=SplitSettings)
    """How the dataset is split."""
