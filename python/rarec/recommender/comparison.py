"""Results of everything that has been fitted on one dataset, on the same cases.

Axes: C cases, N items.
"""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from rarec.baselines import ScoreVectors, fused_scores, fusion_weight, id_scores, popularity_scores
from rarec.data import Cases
from rarec.evaluation import Ranks, compare, per_user, protocol, summarise, write_results

if TYPE_CHECKING:
    from rarec.recommender.recommender import Recommender

PAIRED_METRICS = ("hr@10", "ndcg@10", "hr@100")
PARTS = ("test", "validation")


def evaluate(recommender: Recommender, part: str, *, n_bootstrap: int) -> dict[str, Any]:
    """Return the results of DESIGN.md section 6, and write them if there is a run folder.

    Rows: `popularity`; `id`, the ID model; `id_held_out`, the one the language model was given
    where that is another; `text`; `late_fusion`, text + w * id; `rarec`; `rarec+id`. The weights w
    are chosen on the validation cases.

    Args:
        recommender: What has been fitted.
        part: `test` or `validation`.
        n_bootstrap: Resamples of the confidence intervals.

    Raises:
        ValueError: If the part is unknown, or nothing has been fitted.
    """
    if part not in PARTS:
        raise ValueError(f"expected part to be one of {list(PARTS)}, got {part!r}")
    if recommender.ids is None:
        raise ValueError("expected fitted ID embeddings to evaluate, got none")
    cases = recommender.split.test if part == "test" else recommender.split.validation
    validation = _scores(recommender, recommender.split.validation, fuse=True)
    weights = {
        fused: fusion_weight(validation[alone], validation["id*"], recommender.split.validation)
        for alone, fused in (("text", "late_fusion"), ("rarec", "rarec+id"))
        if alone in validation
    }
    ranks: dict[str, Ranks] = {}
    for name, scores in _ordered(_scores(recommender, cases, fuse=bool(weights)), weights):
        ranks[name] = scores.ranks(cases)
    rows = [
        _row(recommender, name, summarise(found, n_bootstrap=n_bootstrap), weights.get(name))
        for name, found in ranks.items()
    ]
    paired = [
        {"a": "rarec", "b": other, **compare(ranks["rarec"], ranks[other], metric)}
        for other in ranks
        for metric in PAIRED_METRICS
        if "rarec" in ranks and other != "rarec"
    ]
    results = {"rows": rows, "paired": paired}
    how = _protocol(recommender, part, cases)
    if recommender.folder is not None:
        write_results(recommender.folder, results, how)
    return {"protocol": how, **results}


def _scores(recommender: Recommender, cases: Cases, *, fuse: bool) -> dict[str, ScoreVectors]:
    """Return the scores of each model; `id*` is the ID model as a part of a fusion."""
    assert recommender.ids is not None
    n_items = recommender.dataset.n_items
    scores = {"popularity": popularity_scores(recommender.split.train, cases, n_items)}
    strongest = recommender.baseline or recommender.ids
    scores["id"] = id_scores(strongest, cases)
    if recommender.baseline is not None:
        scores["id_held_out"] = id_scores(recommender.ids, cases)
    if fuse and recommender.models:
        scores["id*"] = id_scores(strongest, cases, cold_at_bottom=False)
    for name, model in recommender.models.items():
        scores[name] = model.scores(cases, recommender.item_vectors(name))
    return scores


def _ordered(
    scores: dict[str, ScoreVectors], weights: dict[str, float]
) -> list[tuple[str, ScoreVectors]]:
    """Return the rows in the order of the table, the fused ones made."""
    for alone, fused in (("text", "late_fusion"), ("rarec", "rarec+id")):
        if fused in weights:
            scores[fused] = fused_scores(scores[alone], scores["id*"], weights[fused])
    order = ("popularity", "id", "id_held_out", "text", "late_fusion", "rarec", "rarec+id")
    return [(name, scores[name]) for name in order if name in scores]


def _row(
    recommender: Recommender, name: str, metrics: dict[str, Any], weight: float | None
) -> dict[str, Any]:
    facts = recommender.facts.get(name, {})
    row = {"model": name, **metrics, **facts, "peak_rss_mb": peak_memory_mb()}
    return row if weight is None else {**row, "weight": weight}


def _protocol(recommender: Recommender, part: str, cases: Cases) -> dict[str, Any]:
    description = dict(recommender.dataset.description)
    selection = recommender.selection
    return protocol(
        data_hash=recommender.dataset.content_hash,
        split=str(recommender.split.description["rule"]),
        filters=recommender.dataset.report.lines(),
        exclusion="items in the history of the case; the target itself is always ranked",
        seeds=recommender.seeds,
        extra={
            "part": part,
            "cases": len(cases),
            "items": recommender.dataset.n_items,
            "data": description,
            "split_counts": dict(recommender.split.description),
            "selection": None if selection is None else selection[1].summary(),
            "id_model_memory": memory_of_ids(recommender),
            "configs": recommender.configs(),
        },
    )


def memory_of_ids(recommender: Recommender, *, most: int = 2000) -> dict[str, float] | None:
    """Return HR@10 of the ID model on the tuning samples and on validation; None without samples.

    Far better on the first: it knows them by heart, and a language model tuned on them becomes a
    copy of it (DESIGN.md section 1.9).

    Args:
        recommender: What has been fitted.
        most: Tuning samples that are ranked at most, evenly chosen.
    """
    samples, ids = recommender.samples, recommender.ids
    if samples is None or ids is None or len(samples) == 0:
        return None
    samples = samples.take(np.unique(np.linspace(0, len(samples) - 1, most).astype(np.int64)))
    longest = int(samples.lengths.max())
    tuning = Cases(samples.users, samples.targets, samples.prefixes(max(longest, 1)))
    parts = {"tuning_hr@10": tuning, "validation_hr@10": recommender.split.validation}
    return {
        name: float(per_user(id_scores(ids, cases).ranks(cases))["hr@10"].mean())
        for name, cases in parts.items()
    }


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
