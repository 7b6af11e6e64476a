"""Results and recommendations as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

if TYPE_CHECKING:
    from rarec.index import Recommendation

_SHOWN = ("hr@10", "ndcg@10", "hr@100")


def results_table(results: Mapping[str, Any]) -> Table:
    """Return one line per model: metrics with their intervals."""
    how = results["protocol"]
    table = Table(
        title=f"{how['part']}: {how['cases']:,} users, {how['items']:,} items, seen left out",
        box=SIMPLE_HEAD,
        pad_edge=False,
        caption="95% bootstrap intervals over users; ties count as the average rank",
    )
    table.add_column("model", no_wrap=True)
    for metric in _SHOWN:
        table.add_column(metric.upper(), justify="right", no_wrap=True)
    for row in results["rows"]:
        table.add_row(row["model"], *(_with_interval(row, metric) for metric in _SHOWN))
    return table


def models_table(results: Mapping[str, Any]) -> Table:
    """Return one line per model: what it is and what it took."""
    # imported here: it takes torch along
    from rarec.recommender import describe

    table = Table(title="what they are, and what they took", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("what")
    for column in ("samples", "trained", "seconds"):
        table.add_column(column, justify="right")
    for row in results["rows"]:
        weight = f", w = {row['weight']:g}" if "weight" in row else ""
        table.add_row(
            row["model"],
            describe(row["model"]) + weight,
            _whole(row.get("samples")),
            _whole(row.get("trainable_parameters")),
            _whole(row.get("seconds")),
        )
    return table


def paired_table(results: Mapping[str, Any]) -> Table:
    """Return the differences on the same users, one line per pair."""
    table = Table(
        title="differences on the same users",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0, 0, 1),
        caption="95% paired bootstrap; * where the interval leaves 0 out",
    )
    table.add_column("", no_wrap=True)
    for metric in _SHOWN:
        table.add_column(metric.upper(), justify="right", no_wrap=True)
    rivals: dict[str, dict[str, dict[str, Any]]] = {}
    for pair in results["paired"]:
        rivals.setdefault(pair["a"], {}).setdefault(pair["b"], {})[pair["metric"]] = pair
    for own, others in rivals.items():
        table.add_section()
        table.add_row(f"{own} -", style="bold")
        for other, pairs in others.items():
            table.add_row(other, *(_difference(pairs[metric]) for metric in _SHOWN))
    return table


def recommendations_table(found: Sequence[Recommendation], title: str) -> Table:
    """Return one line per recommended item."""
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("item")
    table.add_column("title")
    table.add_column("score", justify="right")
    for place, item in enumerate(found, start=1):
        table.add_row(str(place), item.item_id, item.title or "(no title)", f"{item.score:.3f}")
    return table


def facts_table(facts: Mapping[str, Any], title: str) -> Table:
    """Return one line per fact."""
    table = Table(title=title, show_header=False, box=SIMPLE_HEAD, pad_edge=False)
    for name, value in facts.items():
        shown = f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
        table.add_row(name.replace("_", " "), shown)
    return table


def _with_interval(row: Mapping[str, Any], metric: str) -> str:
    interval = row.get(f"{metric}_ci")
    text = f"{row[metric]:.3f}"
    return text if not interval else f"{text} ({interval[0]:.3f}-{interval[1]:.3f})"


def _difference(pair: Mapping[str, Any]) -> str:
    low, high = pair["ci"]
    text = f"{_signed(pair['difference'])} ({_signed(low)} {_signed(high)})"
    return f"{text}*" if low > 0 or high < 0 else f"{text} "


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("0.", ".", 1)


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
