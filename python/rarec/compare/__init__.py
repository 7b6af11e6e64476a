"""Rivals side by side: the same data, samples, ID vectors, budget and seeds; one table."""

from rarec.compare.report import markdown, merge
from rarec.compare.runs import CompareConfig, compare

__all__ = ["CompareConfig", "compare", "markdown", "merge"]
