import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarec.data import DataError, Dataset, Histories, leave_one_out, split_by_time


def dataset_of(rows, times=None):
    histories = Histories.from_lists(rows)
    if times is not None:
        flat = [time for row in times for time in row]
        histories = Histories(histories.offsets, histories.items, np.array(flat, dtype=float))
    items = [f"i{number}" for number in range(10)]
    return Dataset([f"u{n}" for n in range(len(rows))], items, [""] * 10, histories)


def lists(histories):
    return [row.tolist() for row in histories]


def test_leave_one_out_takes_the_last_two():
    split = leave_one_out(dataset_of([[1, 2, 3, 4], [5, 6], [], [7, 8, 9]]))
    assert lists(split.train) == [[1, 2], [5, 6], [], [7]]
    assert split.validation.users.tolist() == split.test.users.tolist() == [0, 3]
    assert split.validation.targets.tolist() == [3, 8]
    assert lists(split.validation.histories) == [[1, 2], [7]]
    assert split.test.targets.tolist() == [4, 9]
    assert lists(split.test.histories) == [[1, 2, 3], [7, 8]]
    assert split.description["users_without_case"] == 2
    assert split.description["test_targets_not_in_train"] == 2


def test_leave_one_out_keeps_min_history_events_before_a_target():
    split = leave_one_out(dataset_of([[1, 2, 3, 4], [7, 8, 9]]), min_history=2)
    assert split.test.users.tolist() == [0]
    assert lists(split.train) == [[1, 2], [7, 8, 9]]
    with pytest.raises(ValueError, match="min_history >= 1, got 0"):
        leave_one_out(dataset_of([[1, 2, 3]]), min_history=0)
    with pytest.raises(DataError, match="at least 3 events, got at most 2"):
        leave_one_out(dataset_of([[1, 2]]))


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=6))
def test_leave_one_out_loses_no_event(rows):
    dataset = dataset_of(rows)
    if max(map(len, rows)) < 3:
        return
    split = leave_one_out(dataset)
    assert len(split.train) == dataset.n_users
    for user, target, history in zip(
        split.test.users, split.test.targets, split.test.histories, strict=True
    ):
        assert [*history.tolist(), target] == rows[user]
    n_cases = len(split.validation) + len(split.test)
    assert len(split.train.items) + n_cases == len(dataset.histories.items)


def test_split_by_time_has_the_same_moments_for_all_users():
    dataset = dataset_of([[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]], [[0, 1, 6, 8], [2, 7, 9], [3, 4, 5]])
    split = split_by_time(dataset, validation=0.2, test=0.2)
    assert split.description["moments"] == [6.0, 8.0]
    assert lists(split.train) == [[0, 1], [4], [7, 8, 9]]
    assert split.validation.targets.tolist() == [2, 5]
    assert lists(split.validation.histories) == [[0, 1], [4]]
    assert split.test.targets.tolist() == [3, 6]
    assert lists(split.test.histories) == [[0, 1, 2], [4, 5]]


def test_split_by_time_counts_users_without_history():
    dataset = dataset_of([[0, 1, 2, 3, 4, 5], [6], [7, 8]], [[0, 1, 2, 3, 6, 8], [7], [9, 9]])
    split = split_by_time(dataset, validation=0.2, test=0.3)
    assert split.description["users_without_history"] == {"validation": 1, "test": 1}
    assert split.test.users.tolist() == [0]
    assert split.description["events_not_asked"] == 3


@given(st.integers(0, 2**32 - 1))
def test_split_by_time_leaks_nothing(seed):
    generator = np.random.default_rng(seed)
    times = [np.sort(generator.integers(0, 50, 12)) for _ in range(8)]
    dataset = dataset_of([generator.integers(0, 10, 12).tolist() for _ in times], times)
    try:
        split = split_by_time(dataset, validation=0.2, test=0.2)
    except DataError:
        return
    first, second = split.description["moments"]
    assert split.train.times is not None
    assert split.train.times.max() < first
    for cases, moment in ((split.validation, first), (split.test, second)):
        assert cases.histories.times is not None
        assert cases.histories.times.max() < moment
        assert (cases.histories.lengths >= 1).all()
        assert len(np.unique(cases.users)) == len(cases)


def test_split_by_time_refuses_bad_arguments():
    dataset = dataset_of([[0, 1, 2]], [[1, 1, 1]])
    with pytest.raises(ValueError, match="shares above 0"):
        split_by_time(dataset, validation=0.5, test=0.5)
    with pytest.raises(DataError, match="split into three parts"):
        split_by_time(dataset)
    with pytest.raises(DataError, match="expected times"):
        split_by_time(dataset_of([[0, 1, 2]]))
    apart = dataset_of([[0], [1], [2], [3]], [[1], [2], [3], [4]])
    with pytest.raises(DataError, match="in the validation window and at least 1 events before"):
        split_by_time(apart, validation=0.25, test=0.25)
