"""The results of a study on one dataset: each variant alone and fused, against the reference.

Axes: C cases.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rarec.artifacts import read_json, write_text
from rarec.evaluation import (
    Ranks,
    compare_pairs,
    protocol,
    read_ranks,
    slices,
    summarise,
    write_results,
)
from rarec.members.fusion import fused_name
from rarec.pipeline.evaluate import ID_ROWS, PAIRED_METRICS, cases_of
from rarec.pipeline.fit_ids import ALL
from rarec.run import RunFolder, read_record
from rarec.run.folder import ID_MODEL, ids_address
from rarec.settings import as_dict, describe
from rarec.study.experiments import BASELINES, Experiment, variant_address
from rarec.study.plan import Study
from rarec.study.steps import ALONE, FUSED, RESULT_FILE
from rarec.study.tables import markdown

#: Most training events of a target in the tail.
TAIL = 5
#: Metrics whose value for each seed is in the rows.
_BY_SEED = ("hr@10", "ndcg@10", "hr@100")
_MEASUREMENTS = (
    *("samples", "epochs", "steps", "trainable_parameters"),
    *("samples_per_second", "seconds", "peak_rss_mb", "adapter_bytes"),
)
# the intervals of single rows need fewer resamples than corrected ones of pairs
_MOST_RESAMPLES = 2000


@dataclass(frozen=True)
class _Row:
    """What is known of a row of the results; each list has one entry a seed."""

    ranks: list[Ranks]
    what: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    measurements: list[Mapping[str, Any]] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


def report(
    folder: str | os.PathLike[str],
    study: Study,
    variants: Sequence[Experiment],
    id_models: Sequence[Experiment] = (),
    *,
    n_bootstrap: int,
) -> dict[str, Any]:
    """Return the results on a dataset, and write `results.json`, `protocol.json`, `results.md`.

    The metric of a user is the mean over the seeds, and an interval is the bootstrap over users of
    that mean. Rows: `popularity`, `id` and `id_held_out` of the reference; `NAME:id` and so on
    where a variant has other ID models; each variant, alone and as its sum with its ID model.
    `paired` has each row minus the reference, or minus the fused reference where the row is fused;
    and the fused reference minus each other row.

    Args:
        folder: Folder of the results.
        study: The study.
        variants: Experiments that are done, with the same seeds for each variant.
        id_models: Experiments of ID models with rows of their own, with these seeds.
        n_bootstrap: Number of resamples of the confidence intervals.
    """
    by_name = _by_name(variants)
    rows = dict(_rows(study, by_name))
    for name, trained in _by_name(id_models).items():
        changes = study.id_models[name]
        rows[name] = _id_row(trained, ID_ROWS[ALL], _in_words(changes), changes)
    groups = _groups(by_name[study.reference][0])
    found = [
        {"model": name, **_values(row, groups, min(n_bootstrap, _MOST_RESAMPLES))}
        for name, row in rows.items()
    ]
    ranks = {name: row.ranks for name, row in rows.items()}
    pairs = _pairs(rows, list(by_name), study.reference)
    paired = compare_pairs(ranks, pairs, PAIRED_METRICS, n_bootstrap=n_bootstrap)
    best = fused_name(study.reference)
    paired += [_turned(pair) for pair in paired if pair["b"] == best]
    results = {"rows": found, "paired": paired}
    how = _protocol(study, by_name, groups)
    merged = {"protocol": how, **results}
    write_text(Path(folder) / "results.md", markdown(merged))
    write_results(folder, results, how)
    return merged


def _by_name(experiments: Iterable[Experiment]) -> dict[str, list[Experiment]]:
    found: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        found.setdefault(experiment.name, []).append(experiment)
    return found


def _rows(study: Study, by_name: Mapping[str, list[Experiment]]) -> Iterator[tuple[str, _Row]]:
    """Yield the rows with their names: those of the reference's run first."""
    reference = by_name[study.reference]
    yield "popularity", _id_row(reference, "popularity", describe("popularity"))
    shown = set()
    for name, done in sorted(by_name.items(), key=lambda one: one[0] != study.reference):
        run = done[0].run
        if run not in shown:
            prefix = "" if done is reference else f"{name}:"
            for row in _id_rows_of(done[0]):
                yield f"{prefix}{row}", _id_row(done, row, describe(row))
        shown.add(run)
        yield from _variant_rows(name, study.variants[name], done)


def _id_rows_of(experiment: Experiment) -> list[str]:
    ranks, _ = read_ranks(experiment.folder(BASELINES))
    return [row for row in ID_ROWS.values() if row in ranks]


def _id_row(
    done: Sequence[Experiment], row: str, what: str, changes: Mapping[str, Any] | None = None
) -> _Row:
    """Return a row that needs no language model: popularity, or a part of the ID model."""
    part = {row: part for part, row in ID_ROWS.items()}.get(row)
    records = [] if part is None else [read_record(one.folder(ids_address(part))) for one in done]
    return _Row(
        [read_ranks(one.folder(BASELINES))[0][row] for one in done],
        what,
        changes or {},
        [record.measurements for record in records if record is not None],
    )


def _variant_rows(
    name: str, changes: Mapping[str, Any], done: Sequence[Experiment]
) -> Iterator[tuple[str, _Row]]:
    folders = [one.folder(variant_address(name)) for one in done]
    ranks = [read_ranks(folder)[0] for folder in folders]
    results = [read_json(folder / RESULT_FILE) for folder in folders]
    measurements = [result["measurements"] for result in results]
    what = _in_words(changes) or describe(name)
    yield name, _Row([one[ALONE] for one in ranks], what, changes, measurements)
    fused = fused_name(name)
    yield (
        fused,
        _Row(
            [one[FUSED] for one in ranks],
            describe(fused),
            changes,
            weights=[result["weights"][ID_MODEL] for result in results],
        ),
    )


def _in_words(changes: Mapping[str, Any]) -> str:
    return "; ".join(
        describe(value) if name == "align.variant" else f"{name} = {value}"
        for name, value in changes.items()
    )


def _values(row: _Row, groups: NDArray[np.str_], n_bootstrap: int) -> dict[str, Any]:
    by_seed = [summarise(one, n_bootstrap=0) for one in row.ranks]
    values: dict[str, Any] = {
        "what": row.what,
        "settings": dict(row.changes),
        **summarise(row.ranks, n_bootstrap=n_bootstrap),
        **{f"{metric}_by_seed": [one[metric] for one in by_seed] for metric in _BY_SEED},
        **hits_by_group(row.ranks, groups),
        **_means(row.measurements),
    }
    return values | ({"weights": row.weights} if row.weights else {})


def _means(measurements: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean over the seeds of what was measured for each."""
    found: dict[str, float] = {}
    for name in _MEASUREMENTS:
        values = [one[name] for one in measurements if one.get(name) is not None]
        if values and len(values) == len(measurements):
            found[name] = type(values[0])(np.mean(values))
    return found


def _groups(experiment: Experiment) -> NDArray[np.str_]:
    """Return `[C]`: `cold` for a target without training events, `tail` for few, else `other`."""
    run = RunFolder(experiment.run)
    cases = cases_of(run, experiment.cases["part"], experiment.cases["cases"])
    events = run.split.train.counts(run.dataset.n_items)[cases.targets]
    return np.where(events == 0, "cold", np.where(events <= TAIL, "tail", "other"))


def hits_by_group(ranks: Sequence[Ranks], groups: NDArray[np.str_]) -> dict[str, float | None]:
    """Return the mean HR@100 over the seeds of cold targets and of those in the tail."""
    found = [slices(one, groups, n_bootstrap=0, cutoffs=[100]) for one in ranks]
    return {
        f"{group}_hr@100": (
            float(np.mean([one[group]["hr@100"] for one in found])) if group in found[0] else None
        )
        for group in ("cold", "tail")
    }


def _pairs(rows: Iterable[str], variants: Iterable[str], reference: str) -> list[tuple[str, str]]:
    """Return who is compared: alone and fused apart, and the fused reference with the baselines."""
    rows, alone = list(rows), set(variants)
    fused = {fused_name(name) for name in alone}
    best = fused_name(reference)
    own = [(name, best if name in fused else reference) for name in rows]
    pairs = [(name, other) for name, other in own if name != other]
    return pairs + [(best, name) for name in rows if name not in alone | fused]


def _turned(pair: Mapping[str, Any]) -> dict[str, Any]:
    """Return a comparison the other way round."""
    intervals = {name: [-pair[name][1], -pair[name][0]] for name in ("ci", "ci_corrected")}
    return {
        "a": pair["b"],
        "b": pair["a"],
        "metric": pair["metric"],
        "difference": -pair["difference"],
        **intervals,
    }


def _protocol(
    study: Study, by_name: Mapping[str, list[Experiment]], groups: NDArray[np.str_]
) -> dict[str, Any]:
    done = by_name[study.reference]
    run = RunFolder(done[0].run)
    return protocol(
        data_hash=run.content_hash,
        split=str(run.split.description["rule"]),
        filters=run.dataset.report.lines(),
        exclusion="items in the history of the case; the target itself is always ranked",
        seeds={str(one.seed): one.seed for one in done},
        extra={
            "part": study.part,
            "cases": len(groups),
            "items": run.dataset.n_items,
            "cold": int((groups == "cold").sum()),
            "tail": int((groups == "tail").sum()),
            "tail_events": TAIL,
            "data": dict(run.dataset.description),
            "reference": study.reference,
            "runs": {name: found[0].run.name for name, found in by_name.items()},
            "settings": {
                name: {"fit": as_dict(found[0].fit), "align": as_dict(found[0].align)}
                for name, found in by_name.items()
            },
        },
    )
