"""One table of several runs: means over seeds, intervals over users, and what each rival took."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rarec.artifacts import write_text
from rarec.evaluation import compare, read_ranks, summarise, write_results
from rarec.recommender import PAIRED_METRICS, describe

# facts of a training, of which the table has the mean over seeds
_COSTS = ("samples_per_second", "seconds")
# of which it has the largest
_SIZES = ("samples", "steps", "trainable_parameters", "adapter_bytes", "peak_rss_mb")
_SHOWN = ("hr@10", "ndcg@10", "hr@100")
_COLUMNS = (
    *("model", "what", "HR@10", "NDCG@10", "HR@100", "vs rarec"),
    *("trained", "samples/s", "peak MB", "adapter MB"),
)


def merge(
    runs: Sequence[str | os.PathLike[str]],
    results: Sequence[Mapping[str, Any]],
    *,
    n_bootstrap: int = 1000,
    reference: str = "rarec",
) -> dict[str, Any]:
    """Return the results of several runs as one.

    A user's metric is the mean over the runs, an interval the bootstrap over users of that mean; so
    it says how sure the mean is for other users, and `NAME_runs` beside it how far runs lie apart.

    Args:
        runs: Their folders, for the ranks.
        results: What `Recommender.evaluate` returned for each.
        n_bootstrap: Resamples of the intervals.
        reference: The model that all others are compared with.

    Returns:
        `{"protocol", "rows", "paired"}` as in DESIGN.md section 6.
    """
    ranks = [read_ranks(run)[0] for run in runs]
    by_model = [{row["model"]: row for row in result["rows"]} for result in results]
    rows, together = [], {}
    for name in by_model[0]:
        of_runs = [rows_of_run[name] for rows_of_run in by_model]
        together[name] = [found[name] for found in ranks]
        row: dict[str, Any] = {"model": name, "what": describe(name)}
        row |= summarise(together[name], n_bootstrap=n_bootstrap)
        row |= {f"{metric}_runs": [one[metric] for one in of_runs] for metric in _SHOWN}
        for costs, mean in ((_COSTS, np.mean), (_SIZES, max)):
            for cost in costs:
                values = [one[cost] for one in of_runs if cost in one]
                if values:
                    row[cost] = type(values[0])(mean(values))
        weights = [one["weight"] for one in of_runs if "weight" in one]
        rows.append(row | ({"weights": weights} if weights else {}))
    paired = [
        {"a": reference, "b": name, **compare(together[reference], found, metric)}
        for name, found in together.items()
        for metric in PAIRED_METRICS
        if reference in together and name != reference
    ]
    first = results[0]["protocol"]
    protocol = {**first, "seeds": [result["protocol"]["seeds"] for result in results]}
    return {"protocol": protocol, "rows": rows, "paired": paired}


def write_report(folder: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Write `results.json`, `protocol.json` and `results.md`."""
    write_text(Path(folder) / "results.md", markdown(results))
    parts = {name: results[name] for name in ("rows", "paired")}
    write_results(folder, parts, results["protocol"])


def markdown(results: Mapping[str, Any]) -> str:
    """Return the table as Markdown: quality with intervals, what it took, differences."""
    how = results["protocol"]
    seeds = len(how["seeds"])
    differences = {(pair["b"], pair["metric"]): pair for pair in results["paired"]}
    lines = [
        f"{how['part']}: {how['cases']:,} users, {how['items']:,} items, all ranked but the seen; "
        f"means over {seeds} seed{'s' if seeds > 1 else ''}, 95% bootstrap intervals over users. "
        "`vs rarec`: its HR@100 minus that of `rarec` on the same users, * where the interval "
        "leaves 0 out (not corrected for the number of comparisons). Memory is the peak of the "
        "process that trained it.",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "|---" * len(_COLUMNS) + "|",
    ]
    for row in results["rows"]:
        pair = differences.get((row["model"], "hr@100"))
        cells = [
            f"`{row['model']}`",
            row["what"],
            *(_with_interval(row, metric) for metric in _SHOWN),
            "" if pair is None else _difference(pair),
            _number(row.get("trainable_parameters"), "{:,.0f}"),
            _number(row.get("samples_per_second"), "{:.0f}"),
            _number(row.get("peak_rss_mb") if "adapter_bytes" in row else None, "{:,.0f}"),
            _number(row.get("adapter_bytes"), "{:.2f}", 2**20),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _with_interval(row: Mapping[str, Any], metric: str) -> str:
    interval = row.get(f"{metric}_ci")
    text = f"{row[metric]:.3f}"
    return text if interval is None else f"{text} ({interval[0]:.3f}-{interval[1]:.3f})"


def _difference(pair: Mapping[str, Any]) -> str:
    low, high = pair["ci"]
    # the other's minus rarec's: the row is the subject
    return f"{-pair['difference']:+.3f}{'*' if low > 0 or high < 0 else ''}"


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return "" if value is None else form.format(value / unit)
