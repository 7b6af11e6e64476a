import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarec.data import Cases, Histories

rows_of_items = st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=6)


@given(rows_of_items)
def test_histories_give_back_the_rows_they_were_made_of(rows):
    histories = Histories.from_lists(rows)
    assert [row.tolist() for row in histories] == rows
    assert histories.lengths.tolist() == [len(row) for row in rows]
    assert histories.counts(10).sum() == sum(map(len, rows))


@given(rows_of_items, st.integers(0, 5))
def test_last_and_padded_keep_the_newest(rows, length):
    histories = Histories.from_lists(rows)
    newest = [row[max(len(row) - length, 0) :] for row in rows]
    assert [row.tolist() for row in histories.last(length)] == newest
    padded = [[-1] * (length - len(row)) + row for row in newest]
    assert histories.padded(length, -1).tolist() == padded


def test_take_returns_rows_in_the_given_order():
    histories = Histories.from_lists([[1], [2, 3], []])
    assert [row.tolist() for row in histories.take([1, 1, 2])] == [[2, 3], [2, 3], []]


@pytest.mark.parametrize(
    ("offsets", "items", "message"),
    [
        ([1, 2], [0, 0], r"start at 0, got shape \[2\] and the start \[1\]"),
        ([0, 2, 1], [0], "never decrease, got 2 before 1"),
        ([0, 3], [0], r"end at 1 \(the number of items\), got the end 3"),
        ([0, 1], [-1], "item numbers >= 0"),
    ],
)
def test_malformed_histories_are_refused(offsets, items, message):
    with pytest.raises(ValueError, match=message):
        Histories(np.array(offsets), np.array(items))


def test_cases_need_one_history_each():
    histories = Histories.from_lists([[1], [2]])
    with pytest.raises(ValueError, match="as many users"):
        Cases(np.zeros(1, np.int32), np.zeros(1, np.int32), histories)
    cases = Cases(np.array([5, 6], np.int32), np.array([7, 8], np.int32), histories)
    taken = cases.take([1])
    assert (taken.users[0], taken.targets[0], taken.histories[0].tolist()) == (6, 8, [2])
