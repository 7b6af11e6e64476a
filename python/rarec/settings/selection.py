"""Settings of the selection of the tuning samples."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt, Le

from rarec.settings.declaration import Count, CountOrZero, Seed, typed


@typed
class SelectionSettings:
    """How the tuning samples are chosen (Yu et al. 2024, arXiv:2402.04527, efficient tuning)."""

    fraction: Annotated[float, Gt(0), Le(1)] = 0.1
    """Share of all samples that is chosen at most. The number is rounded down."""
    denoise: bool = False
    """Drop samples whose target shares no word with its history: the rule of the paper. It is off
    because it costs a fifth of HR@100 on MovieLens-100K (docs/decisions.md)."""
    diversify: bool = False
    """Spread the samples over buckets of history length and target popularity."""
    order: Literal["newest", "random"] = "newest"
    """Which samples are chosen first: those nearest to the end of their history, or random ones."""
    seed: Seed = 0
    """Seed of the random choice."""
    language: str = "en"
    """Language of the stop words that `denoise` leaves out."""
    min_history: CountOrZero = 1
    """Fewest events before a target."""
    max_history: Count | None = None
    """Number of newest events whose titles `denoise` compares. By default it compares all."""
    n_length: Count = 5
    """Number of buckets of history length."""
    n_popularity: Count = 5
    """Number of buckets of target popularity."""
