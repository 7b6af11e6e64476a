"""Selection of the few samples on which the language model is tuned.

The samples can be denoised and spread over buckets of history length and item popularity. Yu et
al. 2024 (arXiv:2402.04527) tune on about a tenth of the samples; their best share is 6%.
Axes: S samples, N items, E events.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rarec import _rust
from rarec.data import Histories
from rarec.selection.denoising import denoise
from rarec.selection.samples import Samples, training_samples
from rarec.selection.stop_words import stop_words
from rarec.settings import SelectionSettings


@dataclass(frozen=True)
class SelectionReport:
    """Counts of the steps of a selection.

    Attributes:
        n_samples: Number of samples in the histories.
        n_denoised: Number of samples whose target shares a word with its history; None if the
            samples were not denoised.
        budget: Largest number of samples that could be selected.
        n_selected: Number of samples that were selected.
        n_users: Number of distinct users of the selected samples.
        n_targets: Number of distinct target items of the selected samples.
        n_buckets: Number of buckets that hold a sample; None if the selection used no buckets.
    """

    n_samples: int
    n_denoised: int | None
    budget: int
    n_selected: int
    n_users: int
    n_targets: int
    n_buckets: int | None

    def summary(self) -> str:
        """Return the report as one line of text."""
        parts = [f"{self.n_samples} samples"]
        if self.n_denoised is not None:
            parts.append(f"{self.n_denoised} with a target that shares a word with its history")
        parts.append(f"budget {self.budget}")
        share = self.n_selected / self.n_samples if self.n_samples else 0.0
        spread = "" if self.n_buckets is None else f" over {self.n_buckets} buckets"
        parts.append(f"{self.n_selected} selected{spread} ({share:.1%} of all)")
        parts.append(f"{self.n_users} distinct users and {self.n_targets} distinct target items")
        if self.n_selected < self.budget:
            parts.append("fewer samples were left than the budget allows, so all are selected")
        return "; ".join(parts)


def buckets(
    samples: Samples, n_items: int, *, n_length: int = 5, n_popularity: int = 5
) -> tuple[NDArray[np.int32], int]:
    """Return `[S]` int32 bucket numbers, and the number of buckets.

    A bucket combines a quantile of the history length with a quantile of the popularity of the
    target. The popularity of an item is its number of events in the histories. Equal values are
    in the same quantile, so a bucket may be empty.

    Args:
        samples: The samples.
        n_items: Number of items N.
        n_length: Number of quantiles of the history length, at least 1.
        n_popularity: Number of quantiles of the popularity, at least 1.

    Raises:
        ValueError: If a number of quantiles is below 1, or an item is not below `n_items`.
    """
    if n_length < 1 or n_popularity < 1:
        raise ValueError(f"expected at least 1 quantile, got {n_length} and {n_popularity}")
    items = samples.histories.items
    if len(items) and items.max() >= n_items:
        raise ValueError(f"expected items below {n_items}, got {items.max()}")
    popularity = samples.histories.counts(n_items)[samples.targets]
    length = _quantiles(samples.lengths, n_length)
    number = length * n_popularity + _quantiles(popularity, n_popularity)
    return number.astype(np.int32), n_length * n_popularity


def _quantiles(values: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    edges = np.quantile(values, np.arange(1, n) / n, method="lower")
    # "left" puts all values that are equal to an edge into the quantile below the edge
    return np.searchsorted(edges, values, side="left")


def select(
    histories: Histories, titles: Sequence[str], settings: SelectionSettings | None = None
) -> tuple[Samples, SelectionReport]:
    """Return the selected samples, sorted by position, and a report of the selection.

    The budget is a share of *all* samples, rounded down. If denoising leaves fewer samples than
    the budget, all of these are selected, and the report says so.

    Args:
        histories: Training histories of all users, oldest first.
        titles: `[N]` the title of each item.
        settings: How the samples are selected; None takes the defaults.

    Raises:
        ValueError: If an item has no title, or there are no stop words of the language.
        ImportError: If the stop words of the language are in a package that is not installed.

    Example:
        >>> histories = Histories.from_lists([[0, 1, 2], [2, 0]])
        >>> titles = ["Lion King", "The Lion", "Heat"]
        >>> settings = SelectionSettings(fraction=0.5, denoise=True)
        >>> samples, report = select(histories, titles, settings)
        >>> samples.targets.tolist(), report.n_denoised, report.budget
        ([1], 1, 1)
    """
    settings = SelectionSettings() if settings is None else settings
    # an unknown language is refused before any work
    stop_words(settings.language)
    n_items = len(titles)
    if len(histories.items) and histories.items.max() >= n_items:
        raise ValueError(
            f"expected a title for each item, got {n_items} titles and an item "
            f"{histories.items.max()}"
        )
    samples = training_samples(histories, min_history=settings.min_history)
    # slightly more than the product, because a product such as 0.29 * 100 is rounded to below 29
    budget = math.floor(settings.fraction * len(samples) * (1 + 1e-12))
    candidates, n_denoised = samples, None
    if settings.denoise:
        language, newest = settings.language, settings.max_history
        keep = denoise(samples, titles, stop_words=language, max_history=newest)
        candidates, n_denoised = samples.take(keep), int(keep.sum())
    chosen, n_buckets = _choose(candidates, n_items, min(budget, len(candidates)), settings)
    return chosen, SelectionReport(
        n_samples=len(samples),
        n_denoised=n_denoised,
        budget=budget,
        n_selected=len(chosen),
        n_users=len(np.unique(chosen.users)),
        n_targets=len(np.unique(chosen.targets)),
        n_buckets=n_buckets,
    )


def _choose(
    samples: Samples, n_items: int, budget: int, settings: SelectionSettings
) -> tuple[Samples, int | None]:
    """Return `budget` samples and the number of buckets that hold a sample.

    The number is None if the samples are not spread over buckets.
    """
    if settings.diversify:
        numbers, n_buckets = buckets(
            samples, n_items, n_length=settings.n_length, n_popularity=settings.n_popularity
        )
        n_filled = len(np.unique(numbers))
    else:
        # with one bucket, the stratified sample is a uniform one
        numbers, n_buckets, n_filled = np.zeros(len(samples), dtype=np.int32), 1, None
    rows = _rust.stratified_sample(numbers, n_buckets, budget, settings.seed)
    if settings.order == "newest":
        rows = _newest(samples, numbers, np.bincount(numbers[rows], minlength=n_buckets), settings)
    return samples.take(rows), n_filled


def _newest(
    samples: Samples,
    numbers: NDArray[np.int32],
    wanted: NDArray[np.int64],
    settings: SelectionSettings,
) -> NDArray[np.int64]:
    """Return the sorted rows of the newest samples of each bucket; equal ages are drawn randomly.

    Args:
        samples: The samples.
        numbers: `[S]` bucket of each sample.
        wanted: Number of samples to take, by bucket.
        settings: The configuration, whose seed is used.
    """
    age = samples.histories.offsets[1:][samples.users] - samples.positions
    tie_break = np.random.default_rng(settings.seed).random(len(samples))
    order = np.lexsort([tie_break, age, numbers])
    sizes = np.bincount(numbers, minlength=len(wanted))
    rank_in_bucket = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank_in_bucket < np.repeat(wanted, sizes)])
