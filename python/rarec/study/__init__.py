"""Studies: many settings on several datasets and seeds, from one file."""

from rarec.study.files import DataSource, Study, Variant, read_study
from rarec.study.report import markdown
from rarec.study.runs import run_study

__all__ = ["DataSource", "Study", "Variant", "markdown", "read_study", "run_study"]
