"""The results of a study as tables in Markdown: how good each row is, and what it took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rarec.members.fusion import fused_name

_SHOWN = ("hr@10", "ndcg@10", "hr@100")
_QUALITY = (
    *("model", "what", "HR@10", "NDCG@10", "HR@100"),
    *("vs reference", "cold HR@100", "tail HR@100", "weight of id"),
)
_COST = ("model", "trained parameters", "steps", "seconds", "samples/s", "peak MB", "adapter MB")


def markdown(results: Mapping[str, Any]) -> str:
    """Return two tables: the quality of each row, and what its training took.

    The rows without a language model come first, then the variants, the best fused one first.

    Args:
        results: `{"protocol", "rows", "paired"}` of one dataset, as `run_study` returns it.
    """
    how = results["protocol"]
    rows = _in_order(results["rows"])
    pairs = {(p["a"], p["b"]): p for p in results["paired"] if p["metric"] == "hr@100"}
    reference = how["reference"]
    against = {name: (name, reference) for name in rows}
    against |= {fused_name(name): (fused_name(name), fused_name(reference)) for name in rows}
    seeds = len(how["seeds"])
    quality = [_quality(row, pairs.get(against[name])) for name, row in rows.items()]
    cost = [_cost(row) for row in rows.values() if "trainable_parameters" in row]
    return "\n".join(
        [
            f"{how['part']}: {how['cases']:,} users, {how['items']:,} items, all ranked but the "
            f"seen; {how['cold']:,} targets are cold, and {how['tail']:,} are in the tail (at most "
            f"{how['tail_events']} training events). Means over {seeds} "
            f"seed{'s' if seeds > 1 else ''} with 95% bootstrap intervals over users. `vs "
            f"reference`: HR@100 minus the one of {_code(reference)} on the same users, fused "
            f"minus fused; * where the 95% interval leaves 0 out, ** where it does so corrected "
            f"for the number of comparisons.",
            "",
            *_table(_QUALITY, quality),
            "",
            "What the trainings took, as means over seeds. Memory is the peak of the process.",
            "",
            *_table(_COST, cost),
            "",
        ]
    )


def _in_order(rows: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    by_name = {row["model"]: row for row in rows}
    variants = [name for name in by_name if fused_name(name) in by_name]
    variants.sort(key=lambda name: -by_name[fused_name(name)]["hr@100"])
    of_variants = [row for name in variants for row in (name, fused_name(name))]
    others = [name for name in by_name if name not in of_variants]
    return {name: by_name[name] for name in (*others, *of_variants)}


def _quality(row: Mapping[str, Any], pair: Mapping[str, Any] | None) -> list[str]:
    return [
        _code(row["model"]),
        _text(row["what"]),
        *(_with_interval(row, metric) for metric in _SHOWN),
        "" if pair is None else _difference(pair),
        _number(row["cold_hr@100"], "{:.3f}"),
        _number(row["tail_hr@100"], "{:.3f}"),
        " ".join(f"{weight:g}" for weight in row.get("weights", ())),
    ]


def _cost(row: Mapping[str, Any]) -> list[str]:
    return [
        _code(row["model"]),
        _number(row.get("trainable_parameters"), "{:,.0f}"),
        _number(row.get("steps"), "{:,.0f}"),
        _number(row.get("seconds"), "{:,.0f}"),
        _number(row.get("samples_per_second"), "{:,.0f}"),
        _number(row.get("peak_rss_mb"), "{:,.0f}"),
        _number(row.get("adapter_bytes"), "{:.2f}", 2**20),
    ]


def _code(name: str) -> str:
    """Return a name as code in a cell, whatever characters it has."""
    ticks = "``" if "`" in name else "`"
    space = " " if "`" in name else ""
    return f"{ticks}{space}{_text(name)}{space}{ticks}"


def _text(text: str) -> str:
    r"""Return a text that stays in one cell: `|` ends one, and a line end ends the table."""
    return " ".join(text.replace("|", "\\|").splitlines())


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    titles = list(columns)
    lines = [titles, ["---"] * len(titles), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _with_interval(row: Mapping[str, Any], metric: str) -> str:
    low, high = row[f"{metric}_ci"]
    return f"{row[metric]:.3f} ({low:.3f}-{high:.3f})"


def _difference(pair: Mapping[str, Any]) -> str:
    sure = [low > 0 or high < 0 for low, high in (pair["ci"], pair["ci_corrected"])]
    return f"{pair['difference']:+.3f}{'*' * sum(sure)}"


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return "" if value is None else form.format(value / unit)
