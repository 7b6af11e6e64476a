"""Metrics of ranks, with confidence intervals over users.

Axes: Q queries (one target each), R bootstrap resamples, M metrics.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rarec.evaluation.ranks import Ranks, TieRule

CUTOFFS = (1, 5, 10, 20, 50, 100)
# row numbers of resamples that are in memory at once; they take 16 MB
_BLOCK = 2_000_000


def per_user(
    ranks: Ranks, *, cutoffs: Sequence[int] = CUTOFFS, ties: TieRule = "average"
) -> dict[str, NDArray[np.float64]]:
    """Return `[Q]` float64 values of each metric, by name.

    A query has one target, with rank `r`. If `r <= k`, `hr@k` and `recall@k` are 1, `ndcg@k` is
    `1 / log2(1 + r)`, and `mrr@k` is `1 / r`; otherwise they are 0. `mrr` is always `1 / r`.

    Args:
        ranks: Ranks of the targets.
        cutoffs: Values of `k`, each at least 1.
        ties: Rule for the rank among equal scores, as in `Ranks.values`.

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
    """Return the mean of each metric by its name, and its interval `[low, high]` as `NAME_ci`.

    The interval is a percentile bootstrap interval over queries. All metrics use the same
    resamples.

    Args:
        ranks: Ranks of at least one query, or the ranks of several runs (seeds) on the same
            queries. With several runs, the metrics of each query are first averaged over them.
        n_bootstrap: Number of resamples R; with 0 there are no intervals.
        seed: Seed of the resamples.
        confidence: Share of the resamples inside the interval.
        cutoffs: Values of `k`, each at least 1.
        ties: Rule for the rank among equal scores, as in `Ranks.values`.

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
        b: Ranks of the other model, on the same queries in the same order.
        metric: Name of a metric of `per_user` with any cutoff, such as `"hr@10"` or `"mrr"`.
        n_bootstrap: Number of resamples of the paired differences, at least 1.
        seed: Seed of the resamples.
        confidence: Share of the resamples inside the interval.
        ties: Rule for the rank among equal scores, as in `Ranks.values`.

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
    """Return the result of `compare` for each pair and each metric, all on the same resamples.

    Each result has two intervals. `ci` has the given confidence for one pair. `ci_corrected` has
    this confidence for all pairs of the metric together. It is the Bonferroni correction, with the
    confidence `1 - (1 - confidence) / number of pairs` for each pair.

    Args:
        ranks: Ranks of each model by its name, or of several runs of it, all on the same queries.
        pairs: Pairs of names of models.
        metrics: Names of metrics, as in `compare`.
        n_bootstrap: Number of resamples, at least 1. The corrected intervals need many, because
            they depend on the tails of the distribution.
        seed: Seed of the resamples.
        confidence: Share of the resamples inside `ci`.
        ties: Rule for the rank among equal scores, as in `Ranks.values`.

    Returns:
        One row `{"a", "b", "metric", "difference", "ci", "ci_corrected"}` per pair and metric.

    Raises:
        ValueError: If the numbers of queries differ or are 0, or a metric is unknown.
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
        lengths = sorted({len(column) for column in values.values()})
        raise ValueError(f"expected ranks of the same queries, got numbers of queries {lengths}")
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
            "difference": float(differences[:, column].mean()),
            "ci": plain[column].tolist(),
            "ci_corrected": corrected[column].tolist(),
        }
        for column, (a, b, metric) in enumerate(wanted)
    ]


def slices(ranks: Ranks, groups: ArrayLike, **options: Any) -> dict[Hashable, dict[str, Any]]:
    """Return the summary of each group of queries, by label in sorted order.

    Args:
        ranks: Ranks of the targets.
        groups: `[Q]` the label of each query's group.
        **options: Keyword arguments of `summarise`.

    Returns:
        For each label the result of `summarise`, with the number of its queries as `"queries"`.

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
    """Return the metrics of `per_user`; with several runs, the mean over the runs."""
    runs = [ranks] if isinstance(ranks, Ranks) else list(ranks)
    lengths = {len(run) for run in runs}
    if len(lengths) > 1:
        raise ValueError(f"expected runs on the same queries, got {sorted(lengths)}")
    if not lengths or 0 in lengths:
        raise ValueError("expected at least one rank, got none")
    metrics = [per_user(run, cutoffs=cutoffs, ties=ties) for run in runs]
    return {name: np.mean([run[name] for run in metrics], axis=0) for name in metrics[0]}


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
    """Return `[M, 2]` percentile intervals for the means of the M columns of `values`."""
    if n_bootstrap == 0:
        return np.empty((values.shape[1], 0))
    return _quantiles(_resampled_means(values, n_bootstrap, seed), confidence)


def _resampled_means(
    values: NDArray[np.float64], n_bootstrap: int, seed: int
) -> NDArray[np.float64]:
    """Return `[R, M]` means of the M columns of `values` in each resample."""
    return np.concatenate(
        [counts @ values / len(values) for counts in _resamples(len(values), n_bootstrap, seed)]
    )


def _quantiles(means: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    tail = (1 - confidence) / 2
    return np.quantile(means, [tail, 1 - tail], axis=0).T


def _resamples(n: int, n_bootstrap: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield blocks `[r, n]` with the number of times that each of n rows is in each resample."""
    generator = np.random.default_rng(seed)
    size = max(1, _BLOCK // n)
    for start in range(0, n_bootstrap, size):
        n_rows = min(size, n_bootstrap - start)
        drawn = generator.integers(0, n, size=(n_rows, n))
        drawn += n * np.arange(n_rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=n_rows * n)
        yield counts.reshape(n_rows, n).astype(np.float64)
