"""The step that evaluates all members of a run on the same cases.

Axes: C cases, N items.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rarec.artifacts import read_json
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
from rarec.members.fusion import fused_name
from rarec.members.id_model import id_scores, id_scores_to_add
from rarec.members.scores import popularity_scores, weighted_sum
from rarec.memory import peak_memory_mb
from rarec.pipeline.fit_ids import ALL, HELD_OUT, tuning_part
from rarec.pipeline.index import item_vectors
from rarec.pipeline.members import RunMembers, in_table_order
from rarec.pipeline.samples import load_samples, selection_summary
from rarec.pipeline.weigh import weigh
from rarec.run.folder import (
    DATA,
    ID_MODEL,
    PARTS,
    SAMPLES,
    RunFolder,
    ids_address,
    model_address,
    results_address,
    weights_address,
)
from rarec.run.freshness import fresh_record, require_inputs, why_not_fresh
from rarec.run.writing import write_artifact

PAIRED_METRICS = ("hr@10", "ndcg@10", "hr@100")
#: Names of the rows of the ID model by its part.
ID_ROWS = {ALL: "id", HELD_OUT: "id_held_out"}


def evaluate(
    members: RunMembers,
    part: str = "test",
    *,
    n_bootstrap: int = 1000,
    models: Iterable[str] | None = None,
    restart: bool = False,
) -> dict[str, Any]:
    """Return the results (docs/method.md, Results), and write them into the run.

    Rows: `popularity`; `id`, the ID model of all samples; `id_held_out`, the one that held the
    tuning samples out; each aligned model, followed by its sum with the ID model: `text` and
    `late_fusion`, `rarec` and `rarec+id`, and so on. The ranks of all cases are written beside the
    results (`read_ranks`).

    Args:
        members: Members of the run.
        part: `test` or `validation`.
        n_bootstrap: Number of resamples of the confidence intervals.
        models: Names of aligned models; by default all that are fresh.
        restart: Rank again, whatever results are there.

    Raises:
        ValueError: If the part or a model is unknown, if there are no ID vectors, or if there are
            results of the same models with other settings and no restart.
    """
    if part not in PARTS:
        raise ValueError(f"expected part to be one of {list(PARTS)}, got {part!r}")
    run = members.run
    # a run without ID vectors is refused before any work
    members.baseline()
    names = _names(members, models)
    weights = {fused_name(name): weigh(members, name) for name in names}
    made_from = require_inputs(run, _inputs(run, names))
    settings = {"part": part, "n_bootstrap": n_bootstrap}
    address = results_address(part)
    if restart or not _is_there(run, address, made_from, settings):
        with members.session.making(run, address):
            # a process that was waited for may have made them
            if restart or not _is_there(run, address, made_from, settings):
                return _evaluate(members, names, weights, made_from, settings)
    members.session.say(f"{address} is there already")
    return read_json(run.folder(address) / "results.json")


def _is_there(
    run: RunFolder, address: str, made_from: Mapping[str, str], settings: Mapping[str, Any]
) -> bool:
    """Return whether there are fresh results of the same members with the same settings."""
    record = fresh_record(run, address)
    if record is None or record.made_from != made_from:
        return False
    different = [
        f"{name} ({record.settings.get(name)!r}, now {value!r})"
        for name, value in settings.items()
        if record.settings.get(name) != value
    ]
    if different:
        raise ValueError(
            f"{run.path}: {address} was made with other settings: {'; '.join(different)}; restart "
            f"(--restart) makes it again"
        )
    return True


def _evaluate(
    members: RunMembers,
    names: list[str],
    weights: Mapping[str, Mapping[str, float]],
    made_from: Mapping[str, str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the results of members, and write them."""
    run, part, n_bootstrap = members.run, settings["part"], settings["n_bootstrap"]
    cases = cases_of(run, part)
    ranks = rank_members(members, names, cases)
    rows = [
        {
            "model": name,
            **summarise(found, n_bootstrap=n_bootstrap),
            **_measurements(run, name),
            **({"weights": weights[name]} if name in weights else {}),
        }
        for name, found in ranks.items()
    ]
    results = {"rows": rows, "paired": _pairs(ranks)}
    how = _protocol(members, part, cases, names)
    with write_artifact(
        run, results_address(part), made_from=made_from, settings=settings
    ) as folder:
        write_ranks(folder, ranks, part)
        write_results(folder, results, how)
    return {"protocol": how, **results}


def cases_of(run: RunFolder, part: str, n: int | None = None) -> Cases:
    """Return the cases of a part of the data.

    Args:
        run: The run.
        part: `test` or `validation`.
        n: Number of cases that are drawn evenly at random, always the same ones; None for all.
    """
    cases = run.split.test if part == "test" else run.split.validation
    return cases if n is None else cases.sample(n, seed=0)


def rank_members(members: RunMembers, names: Iterable[str], cases: Cases) -> dict[str, Ranks]:
    """Return the ranks of the targets by row: what needs no language model, models, their sums.

    Args:
        members: Members of the run.
        names: Names of aligned models.
        cases: C cases.
    """
    ranks = rank_without_model(members, cases)
    _, ids = members.baseline()
    for name in names:
        scores = members.aligned(name).scores(cases, item_vectors(members, name))
        fused = {name: scores, ID_MODEL: id_scores_to_add(ids, cases)}
        ranks[name] = scores.ranks(cases)
        ranks[fused_name(name)] = weighted_sum(fused, weigh(members, name)).ranks(cases)
    return ranks


def rank_without_model(members: RunMembers, cases: Cases) -> dict[str, Ranks]:
    """Return the ranks of what needs no language model: popularity and the fresh ID models."""
    run = members.run
    found = {"popularity": popularity_scores(run.split.train, cases, run.dataset.n_items)}
    for part, row in ID_ROWS.items():
        if fresh_record(run, ids_address(part)) is not None:
            found[row] = id_scores(members.ids(part), cases)
    return {name: scores.ranks(cases) for name, scores in found.items()}


def _names(members: RunMembers, models: Iterable[str] | None) -> list[str]:
    fresh = members.names()
    if models is None:
        for name in members.run.model_names():
            if name not in fresh:
                reason = why_not_fresh(members.run, model_address(name))
                members.session.say(f"left out: {reason}; rarec align makes it again")
        return fresh
    names = in_table_order(models)
    unknown = [name for name in names if name not in fresh]
    if unknown:
        raise ValueError(f"expected models of {fresh}, got {unknown}")
    return names


def _inputs(run: RunFolder, names: Iterable[str]) -> list[str]:
    parts = [ids_address(part) for part in ID_ROWS if fresh_record(run, ids_address(part))]
    models = [
        address
        for name in names
        for address in (model_address(name), weights_address(fused_name(name)))
    ]
    return [DATA, *parts, *models]


def _pairs(ranks: dict[str, Ranks]) -> list[dict[str, Any]]:
    return [
        {"a": one, "b": other, **compare(ranks[one], ranks[other], metric)}
        for one in ("rarec", "rarec+id")
        for other in ranks
        for metric in PAIRED_METRICS
        # the two are compared with each other once
        if one in ranks and other != one and (one, other) != ("rarec+id", "rarec")
    ]


def _measurements(run: RunFolder, row: str) -> dict[str, Any]:
    """Return what was measured while the member of a row was trained."""
    addresses = {row: ids_address(part) for part, row in ID_ROWS.items()}
    record = fresh_record(run, addresses.get(row, model_address(row)))
    found = {} if record is None else dict(record.measurements)
    peak = peak_memory_mb()
    return {**({} if peak is None else {"peak_rss_mb": peak}), **found}


def _protocol(members: RunMembers, part: str, cases: Cases, names: list[str]) -> dict[str, Any]:
    run = members.run
    addresses = {"selection": SAMPLES, "ids": ids_address(tuning_part(run))}
    addresses |= {name: model_address(name) for name in names}
    records = {name: fresh_record(run, address) for name, address in addresses.items()}
    settings = {n: dict(r.settings) for n, r in records.items() if r is not None and r.settings}
    return protocol(
        data_hash=run.content_hash,
        split=str(run.split.description["rule"]),
        filters=run.dataset.report.lines(),
        exclusion="items in the history of the case; the target itself is always ranked",
        seeds={name: values["seed"] for name, values in settings.items()},
        extra={
            "part": part,
            "cases": len(cases),
            "items": run.dataset.n_items,
            "data": dict(run.dataset.description),
            "split_counts": dict(run.split.description),
            "selection": None if records["selection"] is None else selection_summary(run),
            "id_model_memory": memory_of_id_model(members),
            "settings": settings,
        },
    )


def memory_of_id_model(members: RunMembers, *, n: int = 2000) -> dict[str, float] | None:
    """Return HR@10 of the ID model on the tuning samples and on validation; None without samples.

    If it is far better on the tuning samples, the ID model knows them by heart, and a language
    model that is tuned on them becomes a copy of it (docs/method.md, Held-out samples).

    Args:
        members: Members of the run.
        n: Most tuning samples that are ranked, evenly chosen.
    """
    run = members.run
    part = tuning_part(run)
    if fresh_record(run, SAMPLES) is None or fresh_record(run, ids_address(part)) is None:
        return None
    samples, ids = load_samples(run), members.ids(part)
    if len(samples) == 0:
        return None
    samples = samples.take(np.unique(np.linspace(0, len(samples) - 1, n).astype(np.int64)))
    longest = int(samples.lengths.max())
    tuning = Cases(samples.users, samples.targets, samples.prefixes(max(longest, 1)))
    parts = {"tuning_hr@10": tuning, "validation_hr@10": run.split.validation}
    return {
        name: float(per_user(id_scores(ids, cases).ranks(cases))["hr@10"].mean())
        for name, cases in parts.items()
        if len(cases)
    }
