"""Evaluation: exact ranks, metrics with confidence intervals, and the protocol of the results."""

from rarec.evaluation.metrics import (
    CUTOFFS,
    compare,
    compare_pairs,
    per_user,
    slices,
    summarise,
)
from rarec.evaluation.protocol import protocol, write_results
from rarec.evaluation.ranks import Ranks, TieRule, rank_targets, read_ranks, write_ranks

__all__ = [
    "CUTOFFS",
    "Ranks",
    "TieRule",
    "compare",
    "compare_pairs",
    "per_user",
    "protocol",
    "rank_targets",
    "read_ranks",
    "slices",
    "summarise",
    "write_ranks",
    "write_results",
]
