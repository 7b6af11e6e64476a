"""The two steps of an experiment, each in a process of its own: the ID models, and a variant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rarec.artifacts import write_json
from rarec.evaluation import Ranks, write_ranks
from rarec.ids import load_ids
from rarec.members.fusion import fused_name
from rarec.pipeline.align import align
from rarec.pipeline.evaluate import ID_ROWS, cases_of, rank_members
from rarec.pipeline.finished import OtherSettingsError
from rarec.pipeline.fit_ids import fit_ids, import_ids
from rarec.pipeline.members import RunMembers
from rarec.pipeline.session import Session
from rarec.pipeline.weigh import weigh
from rarec.run import RunFolder, fresh_record, read_record, write_artifact
from rarec.run.folder import DATA, ids_address, model_address, weights_address
from rarec.run.freshness import require_inputs
from rarec.study.experiments import BASELINES, Experiment, variant_address

#: Names of the two answers of a variant in its ranks.
ALONE, FUSED = "alone", "fused"
RESULT_FILE = "result.json"


def fit_run(experiment: Experiment, others: Iterable[Path], progress: bool) -> None:
    """Choose the samples and train the ID models of a run, and rank the cases with them.

    Args:
        experiment: One of the experiments that share the run.
        others: Runs of the same data, from which a finished ID model is taken.
        progress: Whether bars are shown.
    """
    run, session = RunFolder(experiment.run), Session(progress=progress)
    if experiment.source.imported_ids is None:
        also_from = [RunFolder(other) for other in others if RunFolder.exists(other)]
        fit_ids(run, experiment.fit, session, also_from=also_from)
    else:
        ids = load_ids(experiment.source.imported_ids)
        import_ids(run, ids, session, selection=experiment.fit.selection)
    cases = cases_of(run, **_chosen(experiment.cases))
    ranks = rank_members(RunMembers(run, session), [], cases)
    parts = [ids_address(part) for part in ID_ROWS if fresh_record(run, ids_address(part))]
    with write_artifact(
        run,
        BASELINES,
        made_from=require_inputs(run, [DATA, *parts]),
        settings=experiment.cases,
    ) as folder:
        write_ranks(folder, ranks, experiment.cases["part"])


def run_variant(experiment: Experiment, progress: bool) -> str:
    """Return in a few words how good a variant is; align, weigh and rank it, and write the ranks.

    Args:
        experiment: The experiment. The samples and the ID models of its run are there.
        progress: Whether bars are shown.
    """
    run, session, name = RunFolder(experiment.run), Session(progress=progress), experiment.name
    try:
        align(run, experiment.align, session)
    except OtherSettingsError:
        # the study file has changed since, and it says what is right
        align(run, experiment.align, session, restart=True)
    members = RunMembers(run, session)
    weights = weigh(members, name)
    all_ranks = rank_members(members, [name], cases_of(run, **_chosen(experiment.cases)))
    ranks = {ALONE: all_ranks[name], FUSED: all_ranks[fused_name(name)]}
    model = read_record(run.folder(model_address(name)))
    assert model is not None
    measurements = dict(model.measurements)
    inputs = [DATA, model_address(name), weights_address(fused_name(name))]
    with write_artifact(
        run,
        variant_address(name),
        made_from=require_inputs(run, inputs),
        settings=experiment.cases,
    ) as folder:
        write_ranks(folder, ranks, experiment.cases["part"])
        write_json(folder / RESULT_FILE, {"weights": weights, "measurements": measurements})
    alone, fused = (_hits(found) for found in ranks.values())
    return f"HR@100 {alone:.3f}, fused {fused:.3f}, {measurements['seconds']:.0f} s"


def _chosen(cases: Mapping[str, Any]) -> dict[str, Any]:
    return {"part": cases["part"], "n": cases["cases"]}


def _hits(ranks: Ranks) -> float:
    return float((ranks.values() <= 100).mean())
