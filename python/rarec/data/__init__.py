"""Interactions and item texts: how they are read, filtered and split."""

from rarec.data.cases import Cases
from rarec.data.dataset import Dataset
from rarec.data.filters import k_core
from rarec.data.histories import Histories
from rarec.data.readers import read_dataset
from rarec.data.report import Report
from rarec.data.splits import Split, leave_one_out, split_by_time
from rarec.data.tables import DataError

__all__ = [
    "Cases",
    "DataError",
    "Dataset",
    "Histories",
    "Report",
    "Split",
    "k_core",
    "leave_one_out",
    "read_dataset",
    "split_by_time",
]
