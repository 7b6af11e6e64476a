"""The table of a study on one dataset: each variant alone and fused, and against the reference.

Axes: C cases.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rarec.artifacts import write_text
from rarec.evaluation import (
    Ranks,
    compare_pairs,
    per_user,
    protocol,
    read_ranks,
    summarise,
    write_results,
)
from rarec.recommender import PAIRED_METRICS

RESULT = "result.json"
# a target in the tail has at most so many training events
TAIL = 5
# rows of a group; popularity is the same in all
_WITHOUT_MODEL = ("popularity", "id", "id_held_out")
_FACTS = ("samples", "steps", "trainable_parameters", "seconds", "peak_rss_mb")
_COLUMNS = (
    *("variant", "changes", "HR@100", "vs reference", "fused HR@100", "vs reference"),
    *("fused HR@10", "fused NDCG@10", "cold HR@100", "tail HR@100", "w", "seconds"),
)


def read_result(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a run of a study wrote.

    Raises:
        ValueError: If there is none.
    """
    file = Path(folder) / RESULT
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: expected the result of a run ({error})") from error


def report(
    folder: str | os.PathLike[str],
    settings: Mapping[str, Mapping[str, Any]],
    runs: Mapping[tuple[str, int], tuple[Path, Path]],
    *,
    id_models: Mapping[tuple[str, int], Path] | None = None,
    reference: str,
    seeds: Sequence[int],
    n_bootstrap: int,
) -> dict[str, Any]:
    """Return the results of a dataset, and write `results.json`, `protocol.json`, `results.md`.

    A user's metric is the mean over seeds, an interval the bootstrap over users of that mean.
    Rows: `popularity`, `id`, `id_held_out` of the reference; `NAME:id` where a variant has ID
    models of its own; each variant, and `NAME+id`, it fused with its ID model. `paired`: each row
    against the reference, or where it is fused, against that fused; and the fused reference against
    all others. See `compare_pairs`.

    Args:
        folder: Of the dataset.
        settings: What each variant and ID model changes, by its name.
        runs: For a variant and a seed, its folder and that of its group.
        id_models: For an ID model with a row of its own and a seed, the folder of its group.
        reference: The variant that all others are compared with.
        seeds: The seeds.
        n_bootstrap: Resamples of the intervals.
    """
    variants = list(dict.fromkeys(name for name, _ in runs))
    ranks, facts, weights, groups = _read(variants, runs, seeds)
    id_models = id_models or {}
    for name in dict.fromkeys(name for name, _ in id_models):
        places = [id_models[name, seed] for seed in seeds]
        ranks[name] = [read_ranks(place)[0]["id"] for place in places]
        facts[name] = _mean([read_result(place)["facts"]["id"] for place in places])
    first = read_result(runs[reference, seeds[0]][0])
    seen = np.array(first["target_events"])
    rows = [
        {
            "model": name,
            "settings": dict(settings.get(name.removesuffix("+id"), {})),
            **summarise(found, n_bootstrap=min(n_bootstrap, 2000)),
            **_slices(found, seen),
            **facts.get(name, {}),
            **({"weights": weights[name]} if name in weights else {}),
        }
        for name, found in ranks.items()
    ]
    paired = compare_pairs(
        ranks, _pairs(list(ranks), reference), PAIRED_METRICS, n_bootstrap=n_bootstrap
    )
    # what the fused reference is above others, as well as what they are below it
    paired += [_turned(pair) for pair in paired if pair["b"] == f"{reference}+id"]
    how = protocol(
        data_hash=first["identity"]["data"],
        split=first["split"],
        filters=first["filters"],
        exclusion="items in the history of the case; the target itself is always ranked",
        seeds={str(seed): seed for seed in seeds},
        extra={
            "part": first["identity"]["part"],
            "cases": len(seen),
            "cold": int((seen == 0).sum()),
            "tail": int(((seen > 0) & (seen <= TAIL)).sum()),
            "data": first["data"],
            "reference": reference,
            "groups": groups,
            "configs": {
                name: read_result(runs[name, seeds[0]][0])["identity"] for name in variants
            },
        },
    )
    merged = {"protocol": how, "rows": rows, "paired": paired}
    write_text(Path(folder) / "results.md", markdown(merged))
    write_results(folder, {"rows": rows, "paired": paired}, how)
    return merged


def _read(
    variants: Sequence[str],
    runs: Mapping[tuple[str, int], tuple[Path, Path]],
    seeds: Sequence[int],
) -> tuple[dict[str, list[Ranks]], dict[str, dict], dict[str, list[float]], dict[str, str]]:
    """Return by row: ranks of all seeds, facts, weights; and by variant the group it is of."""
    ranks: dict[str, list[Ranks]] = {}
    facts: dict[str, dict[str, Any]] = {}
    weights: dict[str, list[float]] = {}
    groups: dict[str, str] = {}
    for name in variants:
        group = runs[name, seeds[0]][1].name
        is_new = group not in groups.values()
        groups[name] = group
        if is_new:
            own = [read_ranks(runs[name, seed][1])[0] for seed in seeds]
            of_group = [read_result(runs[name, seed][1])["facts"] for seed in seeds]
            # what needs no language model, once for each group
            label = "" if not ranks else f"{name}:"
            for model in _WITHOUT_MODEL[1 if label else 0 :]:
                if model not in own[0]:
                    continue
                ranks[f"{label}{model}"] = [one[model] for one in own]
                facts[f"{label}{model}"] = _mean([one.get(model, {}) for one in of_group])
        found = [read_ranks(runs[name, seed][0])[0] for seed in seeds]
        results = [read_result(runs[name, seed][0]) for seed in seeds]
        ranks[name] = [one["alone"] for one in found]
        ranks[f"{name}+id"] = [one["fused"] for one in found]
        facts[name] = facts[f"{name}+id"] = _mean([one["facts"] for one in results])
        weights[f"{name}+id"] = [one["weight"] for one in results]
    return ranks, facts, weights, groups


def _mean(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        name: type(facts[0][name])(np.mean([one[name] for one in facts]))
        for name in _FACTS
        if name in facts[0]
    }


def _slices(ranks: Sequence[Ranks], seen: np.ndarray) -> dict[str, float | None]:
    """Return HR@100 of cold targets (no training event) and of those in the tail."""
    hits = np.mean([per_user(one, cutoffs=[100])["hr@100"] for one in ranks], axis=0)
    parts = {"cold": seen == 0, "tail": (seen > 0) & (seen <= TAIL)}
    return {
        f"{name}_hr@100": float(hits[chosen].mean()) if chosen.any() else None
        for name, chosen in parts.items()
    }


def _pairs(names: Sequence[str], reference: str) -> list[tuple[str, str]]:
    """Return who is set against whom: alone and fused apart; the fused reference against all."""
    fused = f"{reference}+id"
    own = [(name, fused if name.endswith("+id") else reference) for name in names]
    pairs = [(name, other) for name, other in own if name != other]
    variants = {name.removesuffix("+id") for name in names if name.endswith("+id")}
    return pairs + [(fused, name) for name in names if name.removesuffix("+id") not in variants]


def _turned(pair: Mapping[str, Any]) -> dict[str, Any]:
    """Return a comparison the other way round."""
    turned = {"a": pair["b"], "b": pair["a"], "metric": pair["metric"]}
    turned["difference"] = -pair["difference"]
    for name in ("ci", "ci_corrected"):
        low, high = pair[name]
        turned[name] = [-high, -low]
    return turned


def markdown(results: Mapping[str, Any]) -> str:
    """Return the table as Markdown, best fused HR@100 first."""
    how = results["protocol"]
    pairs = {(p["a"], p["b"], p["metric"]): p for p in results["paired"]}
    rows = {row["model"]: row for row in results["rows"]}
    reference = how["reference"]
    seeds = len(how["seeds"])
    lines = [
        f"{how['part']}: {how['cases']:,} users ({how['cold']} targets cold, {how['tail']} in the "
        f"tail of at most {TAIL} training events), all items ranked but the seen; means over "
        f"{seeds} seed{'s' if seeds > 1 else ''}. `vs reference`: minus `{reference}`, fused minus "
        "fused; * where the 95% bootstrap interval over users leaves 0 out, ** where it does so "
        "corrected for the number of comparisons.",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "|---" * len(_COLUMNS) + "|",
    ]
    alone = [name for name in rows if f"{name}+id" not in rows and not name.endswith("+id")]
    variants = [name for name in rows if f"{name}+id" in rows]
    variants.sort(key=lambda name: -rows[f"{name}+id"]["hr@100"])
    for name in alone:
        row = rows[name]
        pair = pairs.get((name, reference, "hr@100"))
        cells = [f"`{name}`", "", f"{row['hr@100']:.3f}", _difference(pair), "", ""]
        cells += [f"{row['hr@10']:.3f}", f"{row['ndcg@10']:.3f}"]
        cells += [_share(row["cold_hr@100"]), _share(row["tail_hr@100"]), ""]
        lines.append("| " + " | ".join([*cells, f"{row.get('seconds', 0):.0f}"]) + " |")
    for name in variants:
        row, fused = rows[name], rows[f"{name}+id"]
        changes = "; ".join(f"{key} = {value}" for key, value in row["settings"].items())
        pair = pairs.get((name, reference, "hr@100"))
        both = pairs.get((f"{name}+id", f"{reference}+id", "hr@100"))
        cells = [f"`{name}`", changes, f"{row['hr@100']:.3f}", _difference(pair)]
        cells += [f"{fused['hr@100']:.3f}", _difference(both)]
        cells += [f"{fused['hr@10']:.3f}", f"{fused['ndcg@10']:.3f}"]
        cells += [_share(fused["cold_hr@100"]), _share(fused["tail_hr@100"])]
        cells += [" ".join(f"{weight:g}" for weight in fused["weights"])]
        lines.append("| " + " | ".join([*cells, f"{row['seconds']:.0f}"]) + " |")
    return "\n".join(lines) + "\n"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _difference(pair: Mapping[str, Any] | None) -> str:
    if pair is None:
        return ""
    sure = [low > 0 or high < 0 for low, high in (pair["ci"], pair["ci_corrected"])]
    return f"{pair['difference']:+.3f}{'*' * sum(sure)}"
