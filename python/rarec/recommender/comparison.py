"""Results of everything that has been fitted on one dataset, on the same cases.

Axes: C cases, N items.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from rarec.baselines import id_scores, popularity_scores
from rarec.data import Cases
from rarec.evaluation import (
    Ranks,
    compare,
    per_user,
    protocol,
    summarise,
    write_ranks,
    write_results,
)
from rarec.memory import peak_memory_mb
from rarec.recommender.fusion import late_fusion
from rarec.recommender.recipes import RECIPES

if TYPE_CHECKING:
    from rarec.recommender.recommender import Recommender

PAIRED_METRICS = ("hr@10", "ndcg@10", "hr@100")
PARTS = ("test", "validation")


def evaluate(
    recommender: Recommender,
    part: str,
    *,
    n_bootstrap: int,
    models: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Return the results of DESIGN.md section 6, and write them if there is a run folder.

    Rows: `popularity`; `id`, the ID model; `id_held_out`, the one the language model was given
    where that is another; each aligned model, followed by it fused with the ID model: `text` and
    `late_fusion`, `rarec` and `rarec+id`, and so on. The weights w of the fusions are chosen on
    validation cases. Beside the results the ranks of all cases are written (`read_ranks`).

    Args:
        recommender: What has been fitted.
        part: `test` or `validation`.
        n_bootstrap: Resamples of the confidence intervals.
        models: Names of aligned models; by default all.

    Raises:
        ValueError: If the part or a model is unknown, or nothing has been fitted.
    """
    if part not in PARTS:
        raise ValueError(f"expected part to be one of {list(PARTS)}, got {part!r}")
    if recommender.ids is None:
        raise ValueError("expected fitted ID embeddings to evaluate, got none")
    names = model_order(recommender.models if models is None else models)
    unknown = [name for name in names if name not in recommender.models]
    if unknown:
        raise ValueError(f"expected models of {list(recommender.models)}, got {unknown}")
    cases = recommender.split.test if part == "test" else recommender.split.validation
    ranks = ranks_without_model(recommender, cases)
    fusion = late_fusion(recommender)
    weights = {fused_name(name): recommender.fusion_weight(name) for name in names}
    for name in names:
        fused = fused_name(name)
        scores = recommender.models[name].scores(cases, recommender.item_vectors(name))
        ranks[name], ranks[fused] = fusion.ranks(scores, cases, weights[fused])
    rows = [
        _row(recommender, name, summarise(found, n_bootstrap=n_bootstrap), weights.get(name))
        for name, found in ranks.items()
    ]
    paired = [
        {"a": own, "b": other, **compare(ranks[own], ranks[other], metric)}
        for own in ("rarec", "rarec+id")
        for other in ranks
        for metric in PAIRED_METRICS
        # of the two against each other, once
        if own in ranks and other != own and (own, other) != ("rarec+id", "rarec")
    ]
    results = {"rows": rows, "paired": paired}
    how = _protocol(recommender, part, cases)
    if recommender.folder is not None:
        write_ranks(recommender.folder, ranks, part)
        write_results(recommender.folder, results, how)
    return {"protocol": how, **results}


def fused_name(name: str) -> str:
    """Return what the late fusion of a model with the ID model is called."""
    return "late_fusion" if name == "text" else f"{name}+id"


def model_order(names: Iterable[str]) -> list[str]:
    """Return names of aligned models in the order of tables: text, rarec, the recipes, others."""
    known = ["text", "rarec", *RECIPES]
    last = len(known)
    return sorted(names, key=lambda name: (known.index(name) if name in known else last, name))


def ranks_without_model(recommender: Recommender, cases: Cases) -> dict[str, Ranks]:
    """Return the ranks of what needs no language model: popularity and the ID models."""
    assert recommender.ids is not None
    n_items = recommender.dataset.n_items
    scores = {
        "popularity": popularity_scores(recommender.split.train, cases, n_items),
        "id": id_scores(recommender.baseline or recommender.ids, cases),
    }
    if recommender.baseline is not None:
        scores["id_held_out"] = id_scores(recommender.ids, cases)
    return {name: found.ranks(cases) for name, found in scores.items()}


def _row(
    recommender: Recommender, name: str, metrics: dict[str, Any], weight: float | None
) -> dict[str, Any]:
    facts = recommender.facts.get(name, {})
    row = {"model": name, **metrics, "peak_rss_mb": peak_memory_mb(), **facts}
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
