"""Results, measurements and recommendations as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from rarec.cli.printing import in_one_line
from rarec.settings import describe

if TYPE_CHECKING:
    from rarec.data import Dataset
    from rarec.index import Recommendation
    from rarec.run import Inspected

_SHOWN = ("hr@10", "ndcg@10", "hr@100")
_NO_TITLE = "(no title)"


def results_tables(results: Mapping[str, Any]) -> list[Table]:
    """Return the tables of an evaluation: metrics, paired differences, and what the rows are."""
    paired = [_paired_table(results)] if results["paired"] else []
    return [_metrics_table(results), *paired, _models_table(results)]


def measurements_table(measurements: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """Return one line for each measurement, and one column for each part that was measured.

    Args:
        measurements: The measurements by the name of the part; an empty name has no header.
        title: Title of the table.
    """
    table = Table(
        title=in_one_line(title), show_header=any(measurements), box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("")
    for part in measurements:
        table.add_column(in_one_line(part), justify="right")
    names = dict.fromkeys(name for values in measurements.values() for name in values)
    for name in names:
        shown = (_number(values.get(name)) for values in measurements.values())
        table.add_row(in_one_line(name.replace("_", " ")), *shown)
    return table


def recommendations_table(found: Sequence[Recommendation], user: str | None) -> Table:
    """Return one line for each recommended item.

    Args:
        found: The items, best first.
        user: Id of the user; None without one.
    """
    title = "next" if user is None else f"next for user {user}"
    table = Table(title=in_one_line(title), box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("item")
    table.add_column("title")
    table.add_column("score", justify="right")
    for place, item in enumerate(found, start=1):
        row = (item.item_id, item.title or _NO_TITLE, f"{item.score:.3f}")
        table.add_row(str(place), *map(in_one_line, row))
    return table


def inspection_table(found: Sequence[Inspected], run: str) -> Table:
    """Return one line for each part of a run: where it is, and how it is.

    Args:
        found: What was found of each part.
        run: The run folder.
    """
    table = Table(title=in_one_line(run), show_header=False, box=SIMPLE_HEAD, pad_edge=False)
    for part in found:
        table.add_row(in_one_line(part.address), in_one_line(part.remark))
    return table


def newest_titles(dataset: Dataset, user: str, n: int = 5) -> str:
    """Return a sentence with the newest titles of a user, the newest first."""
    history = dataset.histories[dataset.user_number(user)]
    titles = [dataset.titles[item] or _NO_TITLE for item in history[-n:]]
    newest = "; ".join(reversed(titles))
    return f"User {user} has {len(history)} items. The newest are: {newest}"


def _metrics_table(results: Mapping[str, Any]) -> Table:
    """Return one line for each model: metrics with their intervals."""
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
        table.add_row(
            in_one_line(row["model"]), *(_with_interval(row, metric) for metric in _SHOWN)
        )
    return table


def _models_table(results: Mapping[str, Any]) -> Table:
    """Return one line for each model: what it is and what its training took."""
    table = Table(title="what they are, and what they took", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("what")
    for column in ("samples", "trained", "seconds"):
        table.add_column(column, justify="right")
    for row in results["rows"]:
        weight = f", w = {row['weights']['id']:g}" if "weights" in row else ""
        table.add_row(
            in_one_line(row["model"]),
            in_one_line(describe(row["model"]) + weight),
            _whole(row.get("samples")),
            _whole(row.get("trainable_parameters")),
            _whole(row.get("seconds")),
        )
    return table


def _paired_table(results: Mapping[str, Any]) -> Table:
    """Return the differences on the same users, one line for each pair."""
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
    by_model: dict[str, dict[str, dict[str, Any]]] = {}
    for pair in results["paired"]:
        by_model.setdefault(pair["a"], {}).setdefault(pair["b"], {})[pair["metric"]] = pair
    for model, others in by_model.items():
        table.add_section()
        table.add_row(f"{in_one_line(model)} -", style="bold")
        for other, pairs in others.items():
            table.add_row(in_one_line(other), *(_difference(pairs[metric]) for metric in _SHOWN))
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


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
