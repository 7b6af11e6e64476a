import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarec.data import DataError, Dataset, Histories, Report, k_core


def small_dataset(**changes):
    values = {
        "user_ids": ["u0", "u1"],
        "item_ids": ["01", "1", "x"],
        "titles": ["Alpha", "", "Alpha"],
        "histories": Histories(
            np.array([0, 2, 4]), np.array([0, 1, 1, 2]), np.array([1.0, 1.0, 2.0, 3.0])
        ),
        "description": {"format": "table"},
    }
    return Dataset(**(values | changes))


def test_ids_are_mapped_to_numbers():
    dataset = small_dataset()
    assert (dataset.n_users, dataset.n_items) == (2, 3)
    assert dataset.item_number("01") == 0
    assert dataset.item_number("1") == 1
    assert dataset.user_number("u1") == 1


def test_an_unknown_id_is_named_with_similar_ids():
    with pytest.raises(ValueError, match=r"known user id, got 'uu1' \(similar ids: u1"):
        small_dataset().user_number("uu1")
    with pytest.raises(ValueError, match=r"expected a known item id, got 'nothing like it'$"):
        small_dataset().item_number("nothing like it")


def test_report_counts_what_is_there():
    report = small_dataset().report
    assert (report.users, report.items, report.interactions) == (2, 3, 4)
    assert (report.tied, report.users_with_tied_end, report.tie_share) == (2, 1, 0.5)
    assert (report.titles_missing, report.titles_shared) == (1, 2)
    text = "\n".join(report.lines())
    assert "50.0% of interactions (2) share a timestamp" in text
    assert "items with the same title as another item: 2" in text


def test_report_names_missing_titles_and_times():
    dataset = small_dataset(titles=["", "", ""], histories=Histories.from_lists([[0, 1], [1, 2]]))
    text = "\n".join(dataset.report.lines())
    assert "NO ITEM TEXTS" in text
    assert "no times" in text
    with pytest.raises(DataError, match="expected titles for the 3 items, got none"):
        dataset.require_titles()
    small_dataset().require_titles()


def test_report_survives_json():
    report = dataclasses.replace(Report(), core=(5, 3), notes=("a",), min_rating=3.5)
    assert Report.from_dict(json.loads(json.dumps(report.as_dict()))) == report


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_ids": ["a"]}, "an id for each of 2 histories, got 1"),
        ({"titles": ["a"]}, "a title for each of 3 items, got 1"),
        ({"item_ids": ["a", "b"], "titles": ["", ""]}, "item numbers below 2, got 2"),
        ({"user_ids": ["a", "a"]}, "each user id once, got 'a' again"),
    ],
)
def test_a_malformed_dataset_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_dataset(**changes)


def test_content_hash_depends_on_the_content_only():
    dataset = small_dataset()
    assert small_dataset(description={"format": "other"}).content_hash == dataset.content_hash
    others = [
        small_dataset(user_ids=["u", "0u1"]),
        small_dataset(titles=["Alpha", "Alpha", ""]),
        small_dataset(histories=Histories.from_lists([[0, 1], [1, 2]])),
        small_dataset(histories=Histories.from_lists([[0], [1, 1, 2]])),
    ]
    assert len({other.content_hash for other in [dataset, *others]}) == 5


@pytest.mark.parametrize("times", [True, False])
def test_save_and_load_keep_everything(tmp_path, times):
    dataset = small_dataset()
    if not times:
        dataset = small_dataset(histories=Histories.from_lists([[0, 1], [1, 2]]))
    dataset.save(tmp_path / "data")
    dataset.save(tmp_path / "data")
    loaded = Dataset.load(tmp_path / "data")
    assert loaded.content_hash == dataset.content_hash
    assert loaded.report == dataset.report
    assert loaded.description == dataset.description
    assert (loaded.user_ids, loaded.titles) == (dataset.user_ids, dataset.titles)
    assert sorted(file.name for file in (tmp_path / "data").iterdir()) == [
        "config.json",
        "files.json",
        "histories.safetensors",
        "items.parquet",
        "users.parquet",
    ]


def test_load_refuses_what_was_changed_or_is_missing(tmp_path):
    small_dataset().save(tmp_path / "a")
    small_dataset(titles=["Beta", "", "x"]).save(tmp_path / "b")
    (tmp_path / "b" / "items.parquet").replace(tmp_path / "a" / "items.parquet")
    with pytest.raises(ValueError, match=r"items\.parquet: expected"):
        Dataset.load(tmp_path / "a")
    with pytest.raises(ValueError, match=r"items\.parquet: expected the file"):
        Dataset.load(tmp_path / "b")
    with pytest.raises(ValueError, match=r"no config\.json"):
        Dataset.load(tmp_path)


def test_k_core_goes_on_until_nothing_changes():
    # item 2 is removed first, then user 1, then item 1; users 0 and 2 with items 0 and 3 are left
    dataset = Dataset(
        ["a", "b", "c"],
        ["w", "x", "y", "z"],
        ["W", "X", "Y", "Z"],
        Histories.from_lists([[0, 3, 1], [1, 2], [3, 0]]),
    )
    core = k_core(dataset, user=2, item=2)
    assert core.user_ids == ["a", "c"]
    assert core.item_ids == ["w", "z"]
    assert core.titles == ["W", "Z"]
    assert [row.tolist() for row in core.histories] == [[0, 1], [1, 0]]
    assert core.report.core_left_out == (1, 2, 3)
    assert core.description["filters"] == [{"k_core": {"user": 2, "item": 2}}]
    assert "left out: users 1, items 2, interactions 3" in "\n".join(core.report.lines())
    assert dataset.n_users == 3


def test_k_core_that_leaves_nothing_is_an_error():
    with pytest.raises(DataError, match="users have at least 9 and items at least 1 interactions"):
        k_core(small_dataset(), user=9, item=1)


def test_k_core_with_item_0_keeps_items_without_interactions():
    dataset = small_dataset(histories=Histories.from_lists([[0, 1], [1]]))
    assert k_core(dataset, user=1, item=0).n_items == 3
    assert k_core(dataset, user=1, item=1).item_ids == ["01", "1"]


@given(
    st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_k_core_is_the_largest_stable_part(rows, user, item):
    dataset = Dataset(
        [f"u{number}" for number in range(len(rows))],
        [f"i{number}" for number in range(6)],
        [""] * 6,
        Histories.from_lists(rows),
    )
    events = [(u, i) for u, row in enumerate(rows) for i in row]
    while True:
        kept = [
            (u, i)
            for u, i in events
            if sum(v == u for v, _ in events) >= user and sum(j == i for _, j in events) >= item
        ]
        if kept == events:
            break
        events = kept
    if not events:
        with pytest.raises(DataError, match="got none"):
            k_core(dataset, user=user, item=item)
        return
    core = k_core(dataset, user=user, item=item)
    found = [
        (core.user_ids[u], core.item_ids[i]) for u, row in enumerate(core.histories) for i in row
    ]
    assert found == [(f"u{u}", f"i{i}") for u, i in events]


def test_a_text_that_is_no_utf8_is_refused_when_a_dataset_is_saved(tmp_path):
    dataset = Dataset(["u"], ["i"], ["x\udcff"], Histories.from_lists([[0]]))
    with pytest.raises(DataError, match=r"ids and titles that UTF-8 has, got 'x.udcff'"):
        dataset.save(tmp_path / "dataset")
    assert not list(tmp_path.iterdir())
