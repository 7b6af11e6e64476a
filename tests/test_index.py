from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from rarec.artifacts import write_config, write_folder
from rarec.data import Histories
from rarec.index import ItemIndex, Recommendation

IDS = ["0002844", "b", "85123A", "d"]
TITLES = ["Fantômas", "Heat", "Lantern", ""]


def an_index() -> ItemIndex:
    return ItemIndex([[1, 0], [0, 1], [1, 0], [-1, -1]], IDS, TITLES)


def test_top_k_is_sorted_and_exact_and_keeps_ties_in_order() -> None:
    numbers, scores = an_index().top_k([[2, 1], [0, -1]], 4)
    assert numbers.tolist() == [[0, 2, 1, 3], [3, 0, 2, 1]]
    assert scores.tolist() == [[2, 2, 1, -3], [1, 0, 0, -1]]
    assert (numbers.dtype, scores.dtype) == (np.int32, np.float32)


def test_top_k_of_several_vectors_takes_the_best_of_them() -> None:
    numbers, scores = an_index().top_k([[[2, 0], [0, 3]]], 2)
    assert numbers.tolist() == [[1, 0]]
    assert scores.tolist() == [[3, 2]]


def test_excluded_items_never_come_back() -> None:
    exclude = Histories.from_lists([[2, 0, 2], [3, 1, 0, 2]])
    numbers, scores = an_index().top_k([[2, 1], [0, -1]], 3, exclude=exclude)
    assert numbers.tolist() == [[1, 3, -1], [-1, -1, -1]]
    assert scores[1].tolist() == [-np.inf] * 3
    assert [len(row) for row in an_index().search([[2, 1], [0, -1]], 3, exclude=exclude)] == [2, 0]


def test_candidates_of_another_system_are_ranked_again() -> None:
    among = Histories.from_lists([[3, 1, 3], [0]])
    numbers, _ = an_index().top_k([[2, 1], [0, -1]], 3, among=among)
    assert numbers.tolist() == [[1, 3, -1], [0, -1, -1]]
    exclude = Histories.from_lists([[1], []])
    found = an_index().search([[2, 1], [0, -1]], 3, among=among, exclude=exclude)
    assert [[item.item_id for item in row] for row in found] == [["d"], ["0002844"]]


def test_storage_and_screen_change_no_result(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((500, 12)).astype(np.float16)
    ids, queries = [str(number) for number in range(500)], random.standard_normal((7, 12))
    plain = ItemIndex(vectors.astype(np.float32), ids, ids, screen=False)
    halved = ItemIndex(vectors, ids, ids, screen=True)
    halved.save(tmp_path / "index")
    for index in (halved, ItemIndex.load(tmp_path / "index")):
        assert index.vectors.dtype == np.float16
        for found, expected in zip(index.top_k(queries, 20), plain.top_k(queries, 20), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_vectors_of_an_index_cannot_be_written_to() -> None:
    vectors = np.ones((2, 3), np.float32)
    index = ItemIndex(vectors, ["a", "b"], ["", ""])
    with pytest.raises(ValueError, match="read-only"):
        index.vectors[0, 0] = 2
    # the array of the caller stays writable
    vectors[0, 0] = 2


def test_no_query_or_no_item_gives_no_result() -> None:
    assert an_index().top_k(np.empty((0, 2)), 3)[0].shape == (0, 3)
    assert an_index().search(np.empty((0, 2)), 3) == []
    empty = ItemIndex(np.empty((0, 2)), [], [])
    assert empty.top_k([[1, 1]], 2)[0].tolist() == [[-1, -1]]
    assert empty.search([[1, 1]], 2) == [[]]


def test_search_gives_ids_and_titles() -> None:
    assert len(an_index().search([[2, 1]], 10**12)[0]) == 4
    assert an_index().search([[2, 1]], 2) == [
        [Recommendation("0002844", "Fantômas", 2.0), Recommendation("85123A", "Lantern", 2.0)]
    ]


def test_an_index_can_be_saved_and_loaded(tmp_path: Path) -> None:
    for _ in range(2):
        an_index().save(tmp_path / "index")
    assert sorted(file.name for file in (tmp_path / "index").iterdir()) == [
        "config.json",
        "files.json",
        "items.json",
        "vectors.safetensors",
    ]
    index = ItemIndex.load(tmp_path / "index")
    np.testing.assert_array_equal(index.vectors, an_index().vectors)
    assert (index.item_ids, index.titles) == (IDS, TITLES)
    assert index.number("85123A") == 2
    assert len(index) == 4


def test_folders_without_a_complete_index_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        ItemIndex.load(tmp_path / "absent")
    write_config(tmp_path, "rarec.model/1", {})
    with pytest.raises(ValueError, match=r"expected format 'rarec\.index/1'"):
        ItemIndex.load(tmp_path)
    for name in ("vectors.safetensors", "items.json"):
        for content in (None, "nonsense", "{}"):
            folder = tmp_path / f"{name}-{content}"
            an_index().save(folder)
            (folder / name).unlink()
            if content is not None:
                (folder / name).write_text(content)
            with pytest.raises(ValueError, match=f"{name}: expected"):
                ItemIndex.load(folder)
    # written so, not damaged later
    with write_folder(tmp_path / "size") as folder:
        an_index().save(folder)
        write_config(folder, "rarec.index/1", {"n_items": 5, "width": 3})
    with pytest.raises(ValueError, match=r"vectors\.safetensors: expected vectors \[5, 3\]"):
        ItemIndex.load(tmp_path / "size")


def test_a_folder_with_other_content_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="other content"):
        an_index().save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "x"


def test_an_index_refuses_bad_arguments() -> None:
    with pytest.raises(ValueError, match="got 1, 2 and 1"):
        ItemIndex([[1.0]], ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="each item id once, got 'a' twice"):
        ItemIndex([[1.0], [2.0], [3.0]], ["a", "b", "a"], ["", "", ""])
    with pytest.raises(ValueError, match=r"expected finite vectors, got .* for 'b'"):
        ItemIndex([[1.0], [np.nan]], ["a", "b"], ["", ""])
    with pytest.raises(ValueError, match=r"vectors \[N, D\]"):
        ItemIndex([1.0], ["a"], [""])
    index = an_index()
    with pytest.raises(ValueError, match="k >= 1, got 0"):
        index.top_k([[1, 1]], 0)
    with pytest.raises(ValueError, match=r"queries \[Q, 2\].*got \[1, 3\]"):
        index.top_k([[1, 1, 1]], 1)
    with pytest.raises(ValueError, match="expected finite queries, got NaN in row 1"):
        index.top_k([[1, 1], [np.nan, 1]], 1)
    with pytest.raises(ValueError, match="1 rows to exclude, got 2"):
        index.top_k([[1, 1]], 1, exclude=Histories.from_lists([[0], [1]]))
    with pytest.raises(ValueError, match="from 0 to 3, got 4"):
        index.top_k([[1, 1]], 1, exclude=Histories.from_lists([[4]]))
    with pytest.raises(ValueError, match="item of the index, got '2844'"):
        index.number("2844")


def test_a_missing_faiss_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        an_index().export_faiss()


def test_ids_and_titles_may_be_any_text(tmp_path: Path) -> None:
    texts = ["\udcff", "a\nb", "[/]", "日本"]
    ItemIndex(np.eye(4), texts, texts).save(tmp_path / "index")
    loaded = ItemIndex.load(tmp_path / "index")
    assert (loaded.item_ids, loaded.titles) == (texts, texts)
