"""The choice of the few samples to tune on: denoised, then spread over kinds of users and items.

Yu et al. 2024 (arXiv:2402.04527) tune on about a tenth of the samples and do best with 6%.
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
    """What happened at each step of a selection.

    Attributes:
        n_samples: All samples of the histories.
        n_denoised: Samples that share a word with their history; None if not asked.
        budget: Most samples that could be chosen.
        n_selected: Samples that were chosen.
        n_users: Different users among them.
        n_targets: Different target items among them.
        n_buckets: Buckets the budget was spread over that hold any sample; None if not asked.
    """

    n_samples: int
    n_denoised: int | None
    budget: int
    n_selected: int
    n_users: int
    n_targets: int
    n_buckets: int | None

    def summary(self) -> str:
        """Return the report in words."""
        parts = [f"{self.n_samples} samples"]
        if self.n_denoised is not None:
            parts.append(f"{self.n_denoised} share a word with their history")
        parts.append(f"budget {self.budget}")
        share = self.n_selected / self.n_samples if self.n_samples else 0.0
        spread = "" if self.n_buckets is None else f" over {self.n_buckets} buckets"
        parts.append(f"{self.n_selected} selected{spread} ({share:.1%} of all)")
        parts.append(f"{self.n_users} users and {self.n_targets} items as targets")
        if self.n_selected < self.budget:
            parts.append("fewer survived than the budget allows, so all of them were taken")
        return "; ".join(parts)


def buckets(
    samples: Samples, n_items: int, *, n_length: int = 5, n_popularity: int = 5
) -> tuple[NDArray[np.int32], int]:
    """Return `[S]` int32 bucket numbers, and how many numbers there are.

    A bucket is a quantile of the history's length crossed with one of the target's popularity
    among the samples' histories. Equal values share a quantile, so some may stay empty.

    Args:
        samples: The samples.
        n_items: Number of items N.
        n_length: Number of quantiles of length, at least 1.
        n_popularity: Number of quantiles of popularity, at least 1.

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
    # left: a value equal to an edge belongs below it, as do all its equals
    return np.searchsorted(edges, values, side="left")


def select(
    histories: Histories, titles: Sequence[str], settings: SelectionSettings | None = None
) -> tuple[Samples, SelectionReport]:
    """Return the samples to tune on, sorted by position, and a report of how they were chosen.

    The budget is a share of *all* samples, rounded down: at a fraction of 0.1 never more than a
    tenth. Where denoising leaves fewer, all that are left are taken, and the report says so.

    Args:
        histories: Training histories of all users, oldest first.
        titles: `[N]` the title of each item.
        settings: How to choose; None takes the defaults.

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
    # a hair more than the product: 0.1 * 30 is not quite 3 in floating point, but 3 are meant
    budget = math.floor(settings.fraction * len(samples) * (1 + 1e-12))
    survivors, n_denoised = samples, None
    if settings.denoise:
        language, newest = settings.language, settings.max_history
        keep = denoise(samples, titles, stop_words=language, max_history=newest)
        survivors, n_denoised = samples.take(keep), int(keep.sum())
    chosen, n_buckets = _spread(survivors, n_items, min(budget, len(survivors)), settings)
    return chosen, SelectionReport(
        n_samples=len(samples),
        n_denoised=n_denoised,
        budget=budget,
        n_selected=len(chosen),
        n_users=len(np.unique(chosen.users)),
        n_targets=len(np.unique(chosen.targets)),
        n_buckets=n_buckets,
    )


def _spread(
    samples: Samples, n_items: int, budget: int, settings: SelectionSettings
) -> tuple[Samples, int | None]:
    if settings.diversify:
        numbers, n_buckets = buckets(
            samples, n_items, n_length=settings.n_length, n_popularity=settings.n_popularity
        )
        n_filled = len(np.unique(numbers))
    else:
        # one bucket for all is an even choice
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
    """Return sorted rows: of each bucket the wanted number of those nearest to the end."""
    age = samples.histories.offsets[1:][samples.users] - samples.positions
    lot = np.random.default_rng(settings.seed).random(len(samples))
    order = np.lexsort([lot, age, numbers])
    sizes = np.bincount(numbers, minlength=len(wanted))
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[place < np.repeat(wanted, sizes)])
