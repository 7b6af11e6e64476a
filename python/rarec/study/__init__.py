"""Studies: many configurations on several datasets and seeds, from one file."""

from rarec.study.compare import compare_study
from rarec.study.files import data_names, read_study
from rarec.study.plan import Study
from rarec.study.runs import run_study
from rarec.study.sources import DataSource
from rarec.study.tables import markdown

__all__ = [
    "DataSource",
    "Study",
    "compare_study",
    "data_names",
    "markdown",
    "read_study",
    "run_study",
]
