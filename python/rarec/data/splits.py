"""Splits of a dataset into training histories, validation cases and test cases.

Axes: U users, E events, C cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rarec.data.cases import Cases
from rarec.data.dataset import Dataset
from rarec.data.histories import Histories
from rarec.data.tables import DataError


@dataclass(frozen=True, eq=False)
class Split:
    """A dataset that is split into three parts.

    Attributes:
        train: U rows of training histories, one per user of the dataset; a row may be empty.
        validation: Cases on which settings are chosen.
        test: Cases on which results are reported.
        description: The rule of the split and its counts, as values that JSON can hold.
    """

    train: Histories
    validation: Cases
    test: Cases
    description: Mapping[str, Any]


def leave_one_out(dataset: Dataset, *, min_history: int = 1) -> Split:
    """Return the split by position: a user's last item is for test, the one before for validation.

    The history of a test case includes the validation item. A user with fewer than
    `min_history + 2` events gives no case; all events of this user stay in the training part.

    Args:
        dataset: The dataset.
        min_history: Least number of events before the validation target; at least 1.

    Raises:
        ValueError: If `min_history` is below 1.
        DataError: If no user has enough events.
    """
    _check_min_history(min_history)
    histories = dataset.histories
    starts, ends = histories.offsets[:-1], histories.offsets[1:]
    enough = histories.lengths >= min_history + 2
    if not enough.any():
        raise DataError(
            f"expected users with at least {min_history + 2} events, "
            f"got at most {histories.lengths.max(initial=0)}"
        )
    users = np.flatnonzero(enough).astype(np.int32)
    train = histories.slices(starts, np.where(enough, ends - 2, ends))
    validation = _cases(histories, users, ends[users] - 2)
    test = _cases(histories, users, ends[users] - 1)
    description = {
        "split": "leave_one_out",
        "rule": "last event of a user: test; the event before: validation; earlier events: train; "
        f"users with fewer than {min_history + 2} events: all events in train",
        "min_history": min_history,
        "users_without_case": int(np.sum(~enough)),
        **_counts(train, validation, test, dataset.n_items),
    }
    return Split(train, validation, test, description)


def split_by_time(
    dataset: Dataset, *, validation: float = 0.1, test: float = 0.1, min_history: int = 1
) -> Split:
    """Return the split by two moments in time that are the same for all users.

    The events before the first moment are for training. The validation window lies between the
    two moments, the test window starts at the second one. The first event of a user in a window
    is the target of a case, whose history is all that the user had before. Later events of the
    user in this window are not targets.

    Args:
        dataset: The dataset; it must have times.
        validation: Approximate share of the events in the validation window.
        test: Approximate share of the events in the test window.
        min_history: Least number of events before a target; at least 1.

    Raises:
        ValueError: If a share is not above 0, or if the sum of the shares is not below 1.
        DataError: If there are no times, or if a part is empty.
    """
    _check_min_history(min_history)
    if not (validation > 0 and test > 0 and validation + test < 1):
        raise ValueError(
            f"expected shares above 0 with a sum below 1, "
            f"got validation={validation} and test={test}"
        )
    histories = dataset.histories
    if histories.times is None:
        raise DataError("expected times of the interactions for a split by time, got none")
    first, second = _moments(histories.times, validation, test)

    before = histories.times < first
    train_ends = histories.offsets[:-1] + np.bincount(
        histories.rows[before], minlength=len(histories)
    )
    train = histories.slices(histories.offsets[:-1], train_ends)
    in_validation = ~before & (histories.times < second)
    validation_cases, short_validation = _first_events(histories, in_validation, min_history)
    test_cases, short_test = _first_events(histories, histories.times >= second, min_history)
    for name, cases in (("validation", validation_cases), ("test", test_cases)):
        if len(cases) == 0:
            raise DataError(
                f"expected users with an event in the {name} window and at least {min_history} "
                f"events before it, got none"
            )
    description = {
        "split": "by_time",
        "rule": "events before the first moment are for training; the first event of a user in "
        "the window after a moment is the target of a case, with all earlier events as history",
        "min_history": min_history,
        "moments": [first, second],
        "shares_asked": [validation, test],
        "users_without_history": {"validation": short_validation, "test": short_test},
        "events_not_asked": int(np.sum(~before)) - len(validation_cases) - len(test_cases),
        **_counts(train, validation_cases, test_cases, dataset.n_items),
    }
    return Split(train, validation_cases, test_cases, description)


def _check_min_history(min_history: int) -> None:
    if min_history < 1:
        raise ValueError(f"expected min_history >= 1, got {min_history}")


def _moments(times: NDArray[np.float64], validation: float, test: float) -> tuple[float, float]:
    ordered = np.sort(times)
    last = len(ordered) - 1
    first = float(ordered[min(round(len(ordered) * (1 - validation - test)), last)])
    second = float(ordered[min(round(len(ordered) * (1 - test)), last)])
    if not ordered[0] < first < second:
        raise DataError(
            f"expected times that can be split into three parts, "
            f"got moments {first} and {second} for times from {ordered[0]} to {ordered[-1]}"
        )
    return first, second


def _first_events(
    histories: Histories, window: NDArray[np.bool_], min_history: int
) -> tuple[Cases, int]:
    """Return the cases of a window, and the number of users whose history was too short.

    Args:
        histories: All events.
        window: `[E]` True for the events in the window.
        min_history: Least number of events before a target.
    """
    positions = np.flatnonzero(window)
    users, first = np.unique(histories.rows[positions], return_index=True)
    positions = positions[first]
    enough = positions - histories.offsets[users] >= min_history
    cases = _cases(histories, users[enough].astype(np.int32), positions[enough])
    return cases, int(np.sum(~enough))


def _cases(histories: Histories, users: NDArray[np.int32], positions: NDArray[np.int64]) -> Cases:
    return Cases(
        users,
        histories.items[positions],
        histories.slices(histories.offsets[users], positions),
    )


def _counts(train: Histories, validation: Cases, test: Cases, n_items: int) -> dict[str, Any]:
    unseen = train.counts(n_items) == 0
    return {
        "train_events": len(train.items),
        "validation_cases": len(validation),
        "test_cases": len(test),
        "validation_targets_not_in_train": int(unseen[validation.targets].sum()),
        "test_targets_not_in_train": int(unseen[test.targets].sum()),
    }
