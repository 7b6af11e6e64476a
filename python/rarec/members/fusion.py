"""The fused answer `sum of w_m * s_m` over members: names, and weights chosen on validation.

Axes: C cases.
"""

from __future__ import annotations

from rarec.data import Cases
from rarec.evaluation import per_user
from rarec.members.scores import ScoreVectors, weighted_sum

#: Weights of the ID model that are tried.
FUSION_WEIGHTS = (
    *(0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5),
    *(2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0),
)
#: Most validation cases on which a weight is chosen.
MOST_CASES = 5000
#: Metric that the chosen weight maximises.
CHOSEN_BY = "ndcg@100"


def fused_name(model: str) -> str:
    """Return the name of the sum of a model and the ID model."""
    return "late_fusion" if model == "text" else f"{model}+id"


def weighing_cases(validation: Cases) -> Cases:
    """Return the validation cases on which weights are chosen."""
    return validation.sample(MOST_CASES, seed=0)


def choose_weights(
    first: tuple[str, ScoreVectors], second: tuple[str, ScoreVectors], cases: Cases
) -> dict[str, float]:
    """Return the weights of two members with the best mean NDCG@100; the first one has weight 1.

    Args:
        first: Name and scores of the member whose weight is 1.
        second: Name and scores of the other member. Its weight is 0 without cases.
        cases: C validation cases that both scores are of.
    """
    scores = dict([first, second])

    def quality(weight: float) -> float:
        fused = weighted_sum(scores, {first[0]: 1.0, second[0]: weight})
        return float(per_user(fused.ranks(cases))[CHOSEN_BY].mean())

    best = max(FUSION_WEIGHTS, key=quality) if len(cases) else 0.0
    return {first[0]: 1.0, second[0]: best}
