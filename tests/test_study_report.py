"""What a report computes by itself; the rest is in the tests of the runs."""

import numpy as np
import pytest

from rarec.evaluation import Ranks
from rarec.study.report import hits_by_group


def ranks_of(greater: list[int]) -> Ranks:
    return Ranks(np.array(greater), np.zeros(len(greater), int), np.full(len(greater), 300))


def test_cold_targets_and_the_tail_are_means_over_seeds():
    # HR@100 of the first seed: hit, miss, hit, miss; of the second one all hits
    seeds = [ranks_of([0, 200, 3, 150]), ranks_of([0, 0, 0, 0])]
    groups = np.array(["cold", "cold", "tail", "other"])
    found = hits_by_group(seeds, groups)
    assert found == {"cold_hr@100": pytest.approx(0.75), "tail_hr@100": 1.0}
    nobody = hits_by_group(seeds, np.array(["tail"] * 4))
    assert nobody["cold_hr@100"] is None
