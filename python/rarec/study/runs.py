"""Runs a study: first the samples and ID models that variants share, then each variant."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rarec.artifacts import lock
from rarec.data import Dataset
from rarec.evaluation import write_results
from rarec.processes import run_tasks
from rarec.run import RunFolder
from rarec.study.experiments import Experiment, experiments
from rarec.study.plan import Study
from rarec.study.report import report
from rarec.study.steps import fit_run, run_variant

_Tasks = dict[str, tuple[Any, ...]]


def run_study(
    study: Study,
    folder: str | os.PathLike[str],
    *,
    only: Sequence[str] | None = None,
    jobs: int = 1,
    n_bootstrap: int = 10_000,
    say: Callable[[str], None] = print,
    progress: bool = False,
    restart: bool = False,
    wait: bool = False,
) -> dict[str, dict[str, Any]]:
    """Return the results of a study by dataset, and write them.

    What was done before is not done again, unless its settings have changed. Each training runs in
    its own process, so a script that calls this needs the usual `if __name__ == "__main__":`.

    Args:
        study: The study.
        folder: Folder of the results and of the run folders.
        only: Names of the variants and ID models that are run now; by default all. A text that is
            none of the names is a pattern, in which `*` stands for any letters. The reference is
            always run.
        jobs: Number of processes at once. The processors are shared among them. 0 runs nothing, and
            reports what is there.
        n_bootstrap: Number of resamples of the confidence intervals.
        say: Function that is given each message about what is done.
        progress: Whether the bars of the trainings are shown.
        restart: Forget what was done before of the variants and ID models that are run now.
        wait: Wait for another process that runs a study in this folder.

    Returns:
        `{"protocol", "rows", "paired"}` of each dataset, which is also written as
        `DATA/results.json` and `DATA/results.md`. All of them together are in `results.json`, whose
        rows name their `data`.

    Raises:
        ValueError: If a dataset cannot be read, if the folder has runs of other data, if there is
            nothing to report, or, when all others are done, if a training failed.
        LockedError: If another process runs a study in this folder. The message says which one.
    """
    if jobs < 0 or n_bootstrap < 1:
        raise ValueError(f"expected jobs >= 0 and n_bootstrap >= 1, got {jobs} and {n_bootstrap}")
    asked = _asked(study, only)
    folder = Path(folder)
    datasets = {source.name: source.read() for source in study.data}
    for dataset in datasets.values():
        dataset.require_titles()
    variants = list(experiments(study, folder, study.variants))
    id_models = list(experiments(study, folder, study.id_models))
    _require_same_data([*variants, *id_models], datasets)
    alone = lock(folder / "locks" / "study.lock", f"{folder}: the study", wait=wait, say=say)
    # a report of what is there needs no lock
    with alone if jobs else nullcontext():
        if restart and jobs:
            for one in (*variants, *id_models):
                if one.name in asked:
                    one.forget(whole_run=only is None)
        failed = _run_missing(variants, id_models, asked, datasets, jobs, say, progress)
        results = _report_all(study, folder, variants, id_models, n_bootstrap)
    if failed:
        raise ValueError(f"{len(failed)} failed, the others are kept: {'; '.join(failed)}")
    if not results:
        raise ValueError(f"{folder}: expected results of {study.reference}, got none")
    return results


def _run_missing(
    variants: Sequence[Experiment],
    id_models: Sequence[Experiment],
    asked: set[str],
    datasets: Mapping[str, Dataset],
    jobs: int,
    say: Callable[[str], None],
    progress: bool,
) -> list[str]:
    """Return one line for each training that failed, when all that were missing have run."""
    failed: list[str] = []
    if jobs:
        missing = [one for one in variants if one.name in asked and not one.is_done()]
        say(f"{len(variants)} trainings, {len(missing)} of them to do now")
        to_fit = [*missing, *(one for one in id_models if one.name in asked)]
        for tasks in _fit_tasks(to_fit, datasets, progress):
            failed += run_tasks(tasks, jobs=jobs, say=say)
        tasks = {one.title: (run_variant, one, progress) for one in missing if one.has_baselines()}
        failed += run_tasks(tasks, jobs=jobs, say=say)
    return failed


def _asked(study: Study, only: Sequence[str] | None) -> set[str]:
    """Return the names of the variants and ID models that are run now."""
    names = {*study.variants, *study.id_models}
    if only is None:
        return names
    found = {study.reference}
    for pattern in only:
        matching = {pattern} & names or {name for name in names if fnmatchcase(name, pattern)}
        if not matching:
            raise ValueError(f"expected variants of {sorted(names)}, got {pattern!r}")
        found |= matching
    return found


def _require_same_data(planned: Sequence[Experiment], datasets: Mapping[str, Dataset]) -> None:
    for experiment in planned:
        # the run that is there is refused if it has other data
        if RunFolder.exists(experiment.run):
            source = experiment.source
            RunFolder.create(experiment.run, datasets[source.name], source.split)


def _fit_tasks(
    planned: Sequence[Experiment], datasets: Mapping[str, Dataset], progress: bool
) -> tuple[_Tasks, _Tasks]:
    """Return the trainings of ID models that are not there, in two rounds.

    In the first round is one run of each ID model. The others take its part of all samples.
    """
    runs = {one.run: one for one in planned if not one.has_baselines()}
    first = {(one.run.parent, repr(one.fit.ids)): path for path, one in reversed(runs.items())}
    rounds: tuple[_Tasks, _Tasks] = {}, {}
    for path, one in runs.items():
        RunFolder.create(path, datasets[one.source.name], one.source.split)
    for path, one in runs.items():
        others = sorted(other for other in path.parent.glob("run-*") if other != path)
        title = f"{one.source.name}/seed-{one.seed}/{path.name} fitted"
        rounds[path not in first.values()][title] = (fit_run, one, others, progress)
    return rounds


def _report_all(
    study: Study,
    folder: Path,
    variants: Sequence[Experiment],
    id_models: Sequence[Experiment],
    n_bootstrap: int,
) -> dict[str, dict[str, Any]]:
    """Return the results of each dataset that has any, and write all together."""
    results = {}
    for source in study.data:
        done = [one for one in variants if one.source == source and one.is_done()]
        trained = [one for one in id_models if one.source == source and one.has_baselines()]
        # of a study that was stopped, the seeds that the reference has
        seeds = [one.seed for one in done if one.name == study.reference]
        if seeds:
            results[source.name] = report(
                folder / source.name,
                study,
                _with_all(done, seeds),
                _with_all(trained, seeds),
                n_bootstrap=n_bootstrap,
            )
    if results:
        _write_together(folder, results, study.names)
    return results


def _with_all(done: Sequence[Experiment], seeds: Sequence[int]) -> list[Experiment]:
    """Return the experiments with these seeds, of the variants that have all of them."""
    of_seeds = [one for one in done if one.seed in seeds]
    counts = Counter(one.name for one in of_seeds)
    return [one for one in of_seeds if counts[one.name] == len(seeds)]


def _write_together(
    folder: Path, results: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]
) -> None:
    """Write the rows of all datasets into one file, under the names of the study."""
    together = {
        part: [
            {
                "data": data,
                **row,
                **{key: names.get(row[key], row[key]) for key in ("model", "a", "b") if key in row},
            }
            for data, found in results.items()
            for row in found[part]
        ]
        for part in ("rows", "paired")
    }
    write_results(folder, together, {name: found["protocol"] for name, found in results.items()})
