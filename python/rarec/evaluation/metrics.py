"""Metrics of ranks, with confidence intervals over users.

Axes: Q queries (one target each), R bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rarec.evaluation.ranks import Ranks, TieRule

CUTOFFS = (1, 5, 10, 20, 50, 100)
# resampled row numbers held at once: 16 MB of them
_BLOCK = 2_000_000


def per_user(
    ranks: Ranks, *, cutoffs: Sequence[int] = CUTOFFS, ties: TieRule = "average"
) -> dict[str, NDArray[np.float64]]:
    """Return `[Q]` float64 values of each metric, by name.

    With `r` the rank: `hr@k` is 1 where `r <= k`; `ndcg@k` is `1 / log2(1 + r)` there (the ideal
    is 1 with one target); `recall@k` equals `hr@k` with one target; `mrr@k` is `1 / r` there, and
    `mrr` is `1 / r` everywhere.

    Args:
        ranks: The ranks.
        cutoffs: The values of `k`, each at least 1.
        ties: The rank among equal scores, see `Ranks.values`.

    Raises:
        ValueError: If a cutoff is below 1.

    Example:
        >>> one = np.array([1], dtype=np.int32)
        >>> metrics = per_user(Ranks(one, 0 * one, 9 * one), cutoffs=[1, 2])
        >>> metrics["hr@1"].item(), metrics["hr@2"].item(), metrics["mrr"].item()
        (0.0, 1.0, 0.5)
    """
    if any(cutoff < 1 for cutoff in cutoffs):
        raise ValueError(f"expected cutoffs >= 1, got {list(cutoffs)}")
    rank = ranks.values(ties)
    hits = {cutoff: (rank <= cutoff).astype(np.float64) for cutoff in cutoffs}
    gain, reciprocal = 1.0 / np.log2(1.0 + rank), 1.0 / rank
    metrics = {f"hr@{cutoff}": hit for cutoff, hit in hits.items()}
    metrics |= {f"ndcg@{cutoff}": hit * gain for cutoff, hit in hits.items()}
    metrics |= {f"recall@{cutoff}": hit for cutoff, hit in hits.items()}
    metrics |= {f"mrr@{cutoff}": hit * reciprocal for cutoff, hit in hits.items()}
    return metrics | {"mrr": reciprocal}


def summarise(
    ranks: Ranks | Sequence[Ranks],
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    cutoffs: Sequence[int] = CUTOFFS,
    ties: TieRule = "average",
) -> dict[str, float | list[float]]:
    """Return the mean of each metric, and beside it under `NAME_ci` its interval `[low, high]`.

    The interval is the percentile bootstrap over queries, all metrics on the same resamples.

    Args:
        ranks: The ranks, at least one; or those of several runs (seeds) on the same queries, of
            which each query's metrics are averaged first.
        n_bootstrap: Number of resamples R; 0 leaves the intervals out.
        seed: Seed of the resamples.
        confidence: Share of the resamples inside the interval.
        cutoffs: The values of `k`.
        ties: The rank among equal scores.

    Raises:
        ValueError: If there is no rank, or an argument is out of range.
    """
    _check_bootstrap(n_bootstrap, seed, confidence)
    metrics = _per_query(ranks, cutoffs, ties)
    summary: dict[str, float | list[float]] = {}
    intervals = _intervals(np.stack(list(metrics.values()), 1), n_bootstrap, seed, confidence)
    for index, (name, values) in enumerate(metrics.items()):
        summary[name] = float(values.mean())
        if n_bootstrap:
            summary[f"{name}_ci"] = intervals[index].tolist()
    return summary


def compare(
    a: Ranks | Sequence[Ranks],
    b: Ranks | Sequence[Ranks],
    metric: str,
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    ties: TieRule = "average",
) -> dict[str, Any]:
    """Return how much better `a` is than `b` on the same queries, in the mean of one metric.

    Args:
        a: Ranks of one model, or of several runs of it.
        b: Ranks of the other, on the same queries in the same order.
        metric: A name that `per_user` gives, at any cutoff: `"hr@10"`, `"mrr"`.
        n_bootstrap: Number of resamples of the paired differences, at least 1.
        seed: Seed of the resamples.
        confidence: Share of the resamples inside the interval.
        ties: The rank among equal scores.

    Returns:
        `{"metric": metric, "difference": mean(a) - mean(b), "ci": [low, high]}`.

    Raises:
        ValueError: If the numbers of queries differ or are 0, or the metric is unknown.
    """
    if n_bootstrap < 1:
        raise ValueError(f"expected n_bootstrap >= 1, got {n_bootstrap}")
    _check_bootstrap(n_bootstrap, seed, confidence)
    first, second = _metric(a, metric, ties), _metric(b, metric, ties)
    if len(first) != len(second):
        raise ValueError(f"expected ranks of the same queries, got {len(first)} and {len(second)}")
    difference = first - second
    interval = _intervals(difference[:, None], n_bootstrap, seed, confidence)[0]
    return {"metric": metric, "difference": float(difference.mean()), "ci": interval.tolist()}


def compare_pairs(
    ranks: Mapping[str, Ranks | Sequence[Ranks]],
    pairs: Sequence[tuple[str, str]],
    metrics: Sequence[str],
    *,
    n_bootstrap: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
    ties: TieRule = "average",
) -> list[dict[str, Any]]:
    """Return for each pair and each metric what `compare` gives, all on the same resamples.

    Beside `ci` stands `ci_corrected`, the interval that keeps the confidence for all pairs of the
    metric together (Bonferroni: `1 - (1 - confidence) / number of pairs` for each).

    Args:
        ranks: Ranks of each model, or of several runs of it, all on the same queries.
        pairs: Names of two models each.
        metrics: As for `compare`.
        n_bootstrap: Number of resamples; the corrected intervals read the far tails, so many.
        seed: Seed of the resamples.
        confidence: Share of the resamples inside `ci`.
        ties: The rank among equal scores.

    Returns:
        Rows `{"a", "b", "metric", "difference", "ci", "ci_corrected"}`.

    Raises:
        ValueError: As `compare` does.
    """
    if n_bootstrap < 1:
        raise ValueError(f"expected n_bootstrap >= 1, got {n_bootstrap}")
    _check_bootstrap(n_bootstrap, seed, confidence)
    if not pairs or not metrics:
        return []
    values = {
        (name, metric): _metric(ranks[name], metric, ties)
        for name in {name for pair in pairs for name in pair}
        for metric in metrics
    }
    if len({len(column) for column in values.values()}) > 1:
        raise ValueError("expected ranks of the same queries, got different numbers of them")
    wanted = [(a, b, metric) for a, b in pairs for metric in metrics]
    differences = np.stack([values[a, m] - values[b, m] for a, b, m in wanted], axis=1)
    means = _resampled_means(differences, n_bootstrap, seed)
    plain = _quantiles(means, confidence)
    corrected = _quantiles(means, 1 - (1 - confidence) / len(pairs))
    return [
        {
            "a": a,
            "b": b,
            "metric": metric,
            "difference": float(differences[:, place].mean()),
            "ci": plain[place].tolist(),
            "ci_corrected": corrected[place].tolist(),
        }
        for place, (a, b, metric) in enumerate(wanted)
    ]


def slices(ranks: Ranks, groups: ArrayLike, **options: Any) -> dict[Hashable, dict[str, Any]]:
    """Return the summary of each group of queries, by label in sorted order.

    Args:
        ranks: The ranks.
        groups: `[Q]` label of each query's group.
        **options: Passed on to `summarise`.

    Returns:
        For each label what `summarise` gives, and under `"queries"` the size of the group.

    Raises:
        ValueError: If there is not one label per query.
    """
    labels = np.asarray(groups)
    if labels.shape != (len(ranks),):
        raise ValueError(f"expected {len(ranks)} labels, got {list(labels.shape)}")
    return {
        label.item(): {
            "queries": int(np.sum(labels == label)),
            **summarise(ranks.take(labels == label), **options),
        }
        for label in np.unique(labels)
    }


def _per_query(
    ranks: Ranks | Sequence[Ranks], cutoffs: Sequence[int], ties: TieRule
) -> dict[str, NDArray[np.float64]]:
    """Return what `per_user` gives; of several runs, its mean over them."""
    runs = [ranks] if isinstance(ranks, Ranks) else list(ranks)
    lengths = {len(run) for run in runs}
    if len(lengths) > 1:
        raise ValueError(f"expected runs on the same queries, got {sorted(lengths)}")
    if not lengths or 0 in lengths:
        raise ValueError("expected at least one rank, got none")
    metrics = [per_user(run, cutoffs=cutoffs, ties=ties) for run in runs]
    return {name: np.mean([of_run[name] for of_run in metrics], axis=0) for name in metrics[0]}


def _metric(ranks: Ranks | Sequence[Ranks], name: str, ties: TieRule) -> NDArray[np.float64]:
    _, _, cutoff = name.partition("@")
    cutoffs = [int(cutoff)] if cutoff.isdecimal() and int(cutoff) > 0 else []
    metrics = _per_query(ranks, cutoffs, ties)
    if name not in metrics:
        raise ValueError(f"expected hr@k, ndcg@k, recall@k, mrr@k or mrr, got {name!r}")
    return metrics[name]


def _check_bootstrap(n_bootstrap: int, seed: int, confidence: float) -> None:
    if n_bootstrap < 0 or seed < 0 or not 0 < confidence < 1:
        raise ValueError(
            f"expected n_bootstrap >= 0, seed >= 0 and a confidence between 0 and 1, "
            f"got {n_bootstrap}, {seed} and {confidence}"
        )


def _intervals(
    values: NDArray[np.float64], n_bootstrap: int, seed: int, confidence: float
) -> NDArray[np.float64]:
    """Return `[M, 2]` percentile intervals of the means of `values`, `[Q, M]`."""
    if n_bootstrap == 0:
        return np.empty((values.shape[1], 0))
    return _quantiles(_resampled_means(values, n_bootstrap, seed), confidence)


def _resampled_means(
    values: NDArray[np.float64], n_bootstrap: int, seed: int
) -> NDArray[np.float64]:
    """Return `[R, M]`: means of the columns of `values`, `[Q, M]`, in each resample."""
    return np.concatenate(
        [counts @ values / len(values) for counts in _resamples(len(values), n_bootstrap, seed)]
    )


def _quantiles(means: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    tail = (1 - confidence) / 2
    return np.quantile(means, [tail, 1 - tail], axis=0).T


def _resamples(n: int, n_bootstrap: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield blocks `[r, n]`: how often each of the n rows comes up in each resample."""
    generator = np.random.default_rng(seed)
    size = max(1, _BLOCK // n)
    for start in range(0, n_bootstrap, size):
        n_rows = min(size, n_bootstrap - start)
        drawn = generator.integers(0, n, size=(n_rows, n))
        drawn += n * np.arange(n_rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=n_rows * n)
        yield counts.reshape(n_rows, n).astype(np.float64)
