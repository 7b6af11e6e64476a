"""Vectors of other programs, read from files."""

import numpy as np
import pytest

from rarec.ids import read_vectors


def test_vectors_are_read_in_the_order_wanted(tmp_path):
    from safetensors.numpy import save_file

    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "v.npy", table)
    save_file({"anything": table}, tmp_path / "v.safetensors")
    (tmp_path / "ids.txt").write_text("a\n007\nc\n")
    for name in ("v.npy", "v.safetensors"):
        found, known = read_vectors(tmp_path / name, tmp_path / "ids.txt", ["007", "7", "a"])
        assert known.tolist() == [True, False, True]
        assert found.tolist() == [[2, 3], [0, 0], [0, 1]]
    (tmp_path / "ids.txt").write_text("a\n007\nc\n", encoding="utf-8-sig")
    assert read_vectors(tmp_path / "v.npy", tmp_path / "ids.txt", ["a"])[1].tolist() == [True]


def test_vectors_are_scaled_to_length_one_on_request(tmp_path):
    table = np.array([[3, 4], [0, 0], [0, -0.5]], dtype=np.float32)
    np.save(tmp_path / "v.npy", table)
    (tmp_path / "ids.txt").write_text("a\nb\nc\n")
    names = ["c", "x", "b", "a"]
    plain, _ = read_vectors(tmp_path / "v.npy", tmp_path / "ids.txt", names)
    np.testing.assert_array_equal(plain, [[0, -0.5], [0, 0], [0, 0], [3, 4]])
    found, known = read_vectors(tmp_path / "v.npy", tmp_path / "ids.txt", names, normalize=True)
    np.testing.assert_allclose(found, [[0, -1], [0, 0], [0, 0], [0.6, 0.8]], rtol=1e-6)
    assert known.tolist() == [True, False, True, True]


def test_bad_vectors_are_refused_with_their_place(tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("a\nb\nc\n")
    good = np.ones((3, 2), np.float32)

    def message(table, names=None, wanted=("a",), file="v.npy", **options):
        path = tmp_path / file
        if table is not None:
            with path.open("wb") as stream:
                np.save(stream, table, **options)
        if names is not None:
            ids.write_text(names)
        with pytest.raises(ValueError, match=r".") as caught:
            read_vectors(path, ids, list(wanted))
        return str(caught.value)

    bad = good.copy()
    bad[1, 0] = np.nan
    assert "'b'" in message(bad)
    assert "pickle" in message(np.array([{}], dtype=object), allow_pickle=True).lower()
    assert "got float32 [3]" in message(good[:, 0])
    assert "'.csv'" in message(good, file="v.csv")
    assert "expected a file, got none" in message(None, file="absent.npy")
    assert "expected ids of the dataset, such as 'x', got 3 others, such as 'a'" in message(
        good, wanted=("x",)
    )
    assert "expected 3 ids" in message(good, "a\nb\n")
    assert "ids.txt:3: expected each id once, got 'a' on line 1, too" in message(good, "a\nb\na\n")


def test_an_id_may_have_any_character_but_a_line_end(tmp_path):
    names = ["a b", "a\x85b", "a\u2028b", "a\x0cb", "%s", "[/]"]
    np.save(tmp_path / "v.npy", np.ones((len(names), 2), np.float32))
    for ending in ("\n", "\r\n"):
        (tmp_path / "ids.txt").write_bytes("".join(n + ending for n in names).encode())
        assert read_vectors(tmp_path / "v.npy", tmp_path / "ids.txt", names)[1].all()
