"""The runs of a study: an ID model for each group of variants, a process for each training.

OUTPUT/DATA/seed-S/ids-HASH/       a run folder: data, samples, ID models of a group
OUTPUT/DATA/seed-S/NAME/           a variant: result.json, ranks.safetensors
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rarec.data import Dataset
from rarec.evaluation import write_ranks, write_results
from rarec.model import ModelConfig
from rarec.processes import in_process
from rarec.recommender import AlignConfig, LateFusion, Recommender, align
from rarec.study.files import Configs, Study, Variant
from rarec.study.groups import (
    PREFIX,
    fit_group,
    is_ranked,
    require_same_data,
    some_cases,
    write_result,
)
from rarec.study.report import RESULT, read_result, report
from rarec.training import LowerStateCache

# part, number of cases, whether bars are shown
_Options = tuple[str, int | None, bool]


@dataclass(frozen=True)
class _Run:
    """One variant on one dataset with one seed."""

    name: str
    data: str
    seed: int
    configs: Configs
    settings: dict[str, Any]
    folder: Path

    @property
    def group(self) -> Path:
        """Where the run is whose samples and ID model it takes."""
        parts = asdict(self.configs)
        text = json.dumps([parts["selection"], parts["ids"], parts["hold_out"]], sort_keys=True)
        return self.folder.parent / f"{PREFIX}{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @property
    def states(self) -> Path:
        """Where lower states are that runs share."""
        return self.folder.parent / "lower-states"

    @property
    def reading(self) -> tuple[Any, ...]:
        """Return what runs have in common that share lower states."""
        align = self.configs.align
        what = (self.configs.selection, align.language_model, align.prompts, align.model.layers)
        return (self.states, *what)

    def identity(self, study: Study, dataset: Dataset) -> dict[str, Any]:
        """Return all that the result depends on, as JSON can hold it."""
        parts = asdict(self.configs)
        del parts["align"]
        return json.loads(
            json.dumps(
                {
                    "data": dataset.content_hash,
                    **parts,
                    "align": self.configs.align.as_dict(),
                    "part": study.part,
                    "cases": study.cases,
                },
                default=str,
            )
        )


def run_study(
    study: Study,
    folder: str | os.PathLike[str],
    *,
    only: Callable[[str], bool] = lambda _: True,
    jobs: int = 1,
    n_bootstrap: int = 10_000,
    say: Callable[[str], None] = print,
    progress: bool = False,
) -> dict[str, Any]:
    """Return the results of a study, and write them; what was done before is not done again.

    Trainings run in processes of their own, so a script that calls this needs the usual
    `if __name__ == "__main__":`.

    Args:
        study: What is tried on what.
        folder: Where everything is written.
        only: Whether a variant or an ID model, by its name, is run now; the reference always is.
        jobs: Processes at once, the processors shared among them; 0 runs nothing, and reports
            what is there.
        n_bootstrap: Resamples of the intervals.
        say: Told in words what is done.
        progress: Show the bars of the trainings.

    Returns:
        For each dataset what `report` gives, also written as `DATA/results.json` and `results.md`,
        and all together as `results.json`, whose rows name their `data`.

    Raises:
        ValueError: If a dataset cannot be read, or the folder has groups of other data; if nothing
            is there to report; or, when all others are done, if a run failed.
    """
    if jobs < 0:
        raise ValueError(f"expected jobs >= 0, got {jobs}")
    folder = Path(folder)
    datasets = {source.name: source.read() for source in study.data}
    for dataset in datasets.values():
        dataset.require_titles()
    runs = list(_runs(study, folder, study.variants))
    id_models = list(_runs(study, folder, study.id_models))
    for run in (*runs, *id_models):
        require_same_data(run.group, datasets[run.data])
    wanted = {run.folder: run.identity(study, datasets[run.data]) for run in runs}
    asked = [run for run in runs if run.name == study.reference or only(run.name)] if jobs else []
    missing = [run for run in asked if not _is_done(run.folder, wanted[run.folder])]
    say(f"{len(runs)} runs, {len(missing)} of them to do now")
    failed: list[str] = []
    if jobs:
        do = partial(_do, jobs=jobs, say=say)
        options = (study.part, study.cases, progress)
        with_id_models = [*missing, *(run for run in id_models if only(run.name))]
        failed = _fit_groups(with_id_models, datasets, options, do)
        failed += _try_all(missing, wanted, options, do)
    results = {}
    for source in study.data:
        # what was not asked for now is shown where it is there
        done = [
            run
            for run in runs
            if run.data == source.name and _is_done(run.folder, wanted[run.folder])
        ]
        trained = [
            run
            for run in id_models
            if run.data == source.name and is_ranked(run.group, study.part, study.cases)
        ]
        # of a study that was stopped, the seeds that the reference has
        seeds = [run.seed for run in done if run.name == study.reference]
        if not seeds:
            continue
        done, trained = _with_all(done, seeds), _with_all(trained, seeds)
        results[source.name] = report(
            folder / source.name,
            {run.name: run.settings for run in (*done, *trained)},
            {(run.name, run.seed): (run.folder, run.group) for run in done},
            id_models={(run.name, run.seed): run.group for run in trained},
            reference=study.reference,
            seeds=seeds,
            n_bootstrap=n_bootstrap,
        )
    if results:
        _write_together(folder, results, study.names)
    if failed:
        raise ValueError(f"{len(failed)} runs failed, the others are kept: {'; '.join(failed)}")
    if not results:
        raise ValueError(f"{folder}: expected results of {study.reference}, got none")
    return results


def _fit_groups(
    runs: Sequence[_Run],
    datasets: Mapping[str, Dataset],
    options: _Options,
    do: Callable[[dict[str, tuple[Any, ...]]], list[str]],
) -> list[str]:
    """Make the samples and ID models that runs need and that are not there; return what failed."""
    part, most, _ = options
    groups = {run.group: run for run in runs if not is_ranked(run.group, part, most)}
    # first one of each ID model, which the others then take
    first = {(run.group.parent, repr(run.configs.ids)): run.group for run in groups.values()}
    failed = []
    for now in (set(first.values()), groups.keys() - first.values()):
        tasks: dict[str, tuple[Any, ...]] = {
            f"{_shown(group)} fitted": (
                *(fit_group, group, run.configs, datasets[run.data]),
                *options,
            )
            for group, run in groups.items()
            if group in now
        }
        failed += do(tasks)
    return failed


def _try_all(
    runs: Sequence[_Run],
    wanted: Mapping[Path, dict[str, Any]],
    options: _Options,
    do: Callable[[dict[str, tuple[Any, ...]]], list[str]],
) -> list[str]:
    """Train and rank runs whose ID models are there; return what failed."""
    part, most, _ = options
    # texts that several variants read through the same layers are read once
    reading = Counter(run.reading for run in runs)
    tasks: dict[str, tuple[Any, ...]] = {
        _shown(run.folder): (
            *(_try, run, wanted[run.folder]),
            *options,
            reading[run.reading] > 1,
        )
        for run in runs
        if is_ranked(run.group, part, most)
    }
    failed = do(tasks)
    for place in {run.states for run in runs}:
        shutil.rmtree(place, ignore_errors=True)
    return failed


def _with_all(runs: Sequence[_Run], seeds: Sequence[int]) -> list[_Run]:
    """Return the runs of these seeds whose variants have all of them."""
    of_seeds = [run for run in runs if run.seed in seeds]
    counts = Counter(run.name for run in of_seeds)
    return [run for run in of_seeds if counts[run.name] == len(seeds)]


def _write_together(
    folder: Path, results: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]
) -> None:
    """Write the rows of all datasets as one file, under the names that were asked for."""
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


def _runs(study: Study, folder: Path, variants: Sequence[Variant]) -> Iterator[_Run]:
    for source in study.data:
        for seed in study.seeds:
            for variant in variants:
                place = folder / source.name / f"seed-{seed}" / variant.name
                configs = study.on(variant, source).configs(seed)
                own = dict(variant.settings)
                yield _Run(variant.name, source.name, seed, configs, own, place)


def _shown(place: Path) -> str:
    """Return DATA/seed-S/NAME."""
    return "/".join(place.parts[-3:])


def _is_done(folder: Path, identity: dict[str, Any]) -> bool:
    if not (folder / RESULT).exists():
        return False
    stored = read_result(folder)["identity"]
    # a setting of the alignment that came later had no other value than its default
    defaults = AlignConfig(model=ModelConfig()).as_dict()
    return {**stored, "align": _completed(stored["align"], defaults)} == identity


def _completed(values: Any, defaults: Any) -> Any:
    """Return tables with what they lack from others."""
    if not isinstance(values, dict) or not isinstance(defaults, dict):
        return values
    return defaults | {key: _completed(value, defaults.get(key)) for key, value in values.items()}


def _do(
    tasks: Mapping[str, tuple[Any, ...]], *, jobs: int, say: Callable[[str], None]
) -> list[str]:
    """Call functions, each in a process of its own, and say what is done as it is done.

    Returns:
        What failed, which does not end the others.
    """
    n_threads = max(1, (os.cpu_count() or 1) // jobs)
    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        begun = {
            pool.submit(in_process, *task, n_threads=n_threads): name
            for name, task in tasks.items()
        }
        try:
            for number, task in enumerate(as_completed(begun), start=1):
                where = f"  {number} of {len(begun)}: {begun[task]}"
                try:
                    said = task.result()
                # whatever it was: hours of others may be left
                except Exception as error:
                    failed.append(f"{begun[task]}: {error or type(error).__name__}")
                    say(f"{where} failed: {error or type(error).__name__}")
                else:
                    say(f"{where}{f': {said}' if said else ''}")
        finally:
            for task in begun:
                task.cancel()
    return failed


def _try(
    run: _Run,
    identity: dict[str, Any],
    part: str,
    most: int | None,
    progress: bool,
    shares_states: bool,
) -> str | None:
    """Train and rank one variant, and write what came out; the model itself is not kept."""
    recommender = Recommender.load(run.group, progress=progress)
    assert recommender.samples is not None
    assert recommender.ids is not None
    config = run.configs.align
    backbone, tokenizer = config.language_model.load()
    aligned, trained = align(
        recommender.dataset,
        recommender.samples,
        recommender.ids,
        backbone,
        tokenizer,
        config,
        checkpoints=run.folder / "checkpoints",
        progress=progress,
        lower_states=LowerStateCache(run.states) if shares_states else None,
    )
    vectors = aligned.item_vectors()
    validation = some_cases(recommender, "validation", most)
    cases = validation if part == "validation" else some_cases(recommender, part, most)
    fusion = LateFusion(recommender.baseline or recommender.ids, validation)
    scores = aligned.scores(cases, vectors)
    # users are encoded once where they are the same
    weight = fusion.weight(lambda some: scores if some is cases else aligned.scores(some, vectors))
    alone, fused = fusion.ranks(scores, cases, weight)
    (run.folder / "checkpoints").rmdir()
    write_ranks(run.folder, {"alone": alone, "fused": fused}, part)
    seen = recommender.split.train.counts(recommender.dataset.n_items)[cases.targets]
    write_result(
        run.folder,
        {
            "identity": identity,
            "facts": asdict(trained),
            "weight": weight,
            "data": dict(recommender.dataset.description),
            "split": str(recommender.split.description["rule"]),
            "filters": recommender.dataset.report.lines(),
            "target_events": seen.tolist(),
        },
    )
    hits = [float((found.values() <= 100).mean()) for found in (alone, fused)]
    return f"HR@100 {hits[0]:.3f}, fused {hits[1]:.3f}, {trained.seconds:.0f} s"
