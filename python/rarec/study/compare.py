"""The study of the variants of the method and the baselines, on the data of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rarec.run.folder import RunFolder
from rarec.study.files import read_content, study_of
from rarec.study.plan import Study

COMPARE_FILE = Path(__file__).with_name("compare.toml")
#: Name of the one dataset of the study.
COMPARE_DATA = "run"


def compare_study(
    run: str | os.PathLike[str],
    *,
    variants: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int | None = None,
    batch_size: int | None = None,
    llm: str | None = None,
    part: str = "test",
) -> Study:
    """Return the study that compares variants on the data of a run (`compare.toml`).

    All have the same budget. For each seed the samples are chosen and the ID model is trained
    again, as that has been done in the run. Imported ID vectors are taken as they are.

    Args:
        run: A run folder. It stays as it is.
        variants: Names of `rarec.settings.VARIANTS`; by default all. `default` (`rarec` in the
            results), with which all are compared, is always among them.
        seeds: Seeds of the samples, the ID model, the initial values and the batches.
        steps: Number of optimizer steps of each training.
        batch_size: Number of samples in a step.
        llm: Language model, see `AlignSettings.llm`.
        part: `test` or `validation`.

    Raises:
        ValueError: If the folder is no run or has no titles, or an argument is refused.
    """
    RunFolder(run).dataset.require_titles()
    content = read_content(COMPARE_FILE)
    base = content["base"]
    if variants is not None:
        known = {"default": base, base: base} | {name: name for name in content["variants"]}
        unknown = [name for name in variants if name not in known]
        if unknown or not variants:
            raise ValueError(f"expected variants of {list(known)}, got {unknown or 'none'}")
        kept = {known[name] for name in variants}
        content["variants"] = {n: v for n, v in content["variants"].items() if n in kept}
    changes = {
        "align.training.max_steps": steps,
        "align.training.per_device_train_batch_size": batch_size,
        "align.llm": llm,
    }
    content |= {
        "part": part,
        "seeds": list(seeds),
        "set": {name: value for name, value in changes.items() if value is not None},
        # absolute, because a name alone may be the one of a public dataset
        "data": {COMPARE_DATA: {"source": str(Path(run).absolute())}},
    }
    return study_of(content)
