import gzip
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarec.data import DataError, read_dataset
from rarec.data.titles import clean_title, join_texts
from rarec.settings import ColumnSettings, ReadSettings

SHARED = Path(
    os.environ.get("RAREC_SHARED_DATA", Path(__file__).parents[1].parent / "shared" / "data")
)

EVENTS = "user_id,item_id,timestamp\n007,b,3\n7,a,1\n007,a,2\n"
ITEMS = 'item_id,title\na,"One, two"\nb,Three\nc,Idle\n'


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def rows(dataset):
    return [[dataset.item_ids[item] for item in row] for row in dataset.histories]


def by_user(dataset):
    return dict(zip(dataset.user_ids, rows(dataset), strict=True))


def test_csv_keeps_leading_zeros_and_sorts_by_time(tmp_path):
    dataset = read_dataset(write(tmp_path, interactions__csv=EVENTS, items__csv=ITEMS))
    assert dataset.user_ids == ["007", "7"]
    assert rows(dataset) == [["a", "b"], ["a"]]
    assert dataset.titles == ["One, two", "Three"]
    assert dataset.histories.times is not None
    assert dataset.histories.times.tolist() == [2.0, 3.0, 1.0]
    assert dataset.description["format"] == "table"
    assert dataset.description["interactions"] == f"{tmp_path.name}/interactions.csv"


def test_every_format_gives_the_same_content(tmp_path):
    events = [("007", "b", 4, 3), ("7", "a", 5, 1), ("007", "a", 2, 2)]
    names = {"a": "One: two", "b": "Été"}
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    texts = pl.DataFrame({"item_id": list(names), "title": list(names.values())})
    folders = {name: tmp_path / name for name in ("csv", "parquet", "inter", "dat", "old", "new")}
    for folder in folders.values():
        folder.mkdir()
    (folders["csv"] / "interactions.csv.gz").write_bytes(gzip.compress(frame.write_csv().encode()))
    (folders["csv"] / "items.csv.gz").write_bytes(gzip.compress(texts.write_csv().encode()))
    frame.write_parquet(folders["parquet"] / "interactions.parquet")
    texts.write_parquet(folders["parquet"] / "items.parquet")
    lines = ["\t".join(map(str, event)) for event in events]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    write(
        folders["inter"],
        x__inter="\n".join([header, *lines]),
        x__item="item_id:token\tyear:token\tmovie_title:token_seq\na\t1\tOne: two\nb\t2\tÉté\n",
    )
    write(
        folders["dat"],
        ratings__dat="\r\n".join(line.replace("\t", "::") for line in lines),
        movies__dat="a::One: two::Drama\nb::Été::\n".encode("latin-1"),
    )
    flags = "|".join("0" * 19)
    write(
        folders["old"],
        u__data="\n".join(lines),
        u__item=f"a|One: two|||url|{flags}\nb|Été|||url|{flags}\n".encode("latin-1"),
    )
    write(
        folders["new"],
        ratings__csv="userId,movieId,rating,timestamp\n" + "\n".join(lines).replace("\t", ","),
        movies__csv='movieId,title,genres\na,"One: two",Drama\nb,Été,\n',
    )
    datasets = [read_dataset(folder) for folder in folders.values()]
    datasets.append(read_dataset(frame, texts))
    datasets.append(read_dataset(frame.lazy(), texts.lazy()))
    pandas_events = pd.DataFrame(events, columns=["user_id", "item_id", "rating", "timestamp"])
    datasets.append(
        read_dataset(
            pandas_events,
            pd.DataFrame({"item_id": names, "title": names}).assign(item_id=list(names)),
        )
    )
    assert {dataset.content_hash for dataset in datasets} == {datasets[0].content_hash}
    assert "movies.dat is not UTF-8; it was read as Latin-1" in datasets[3].report.notes


def test_pandas_types_become_text_and_seconds():
    frame = pd.DataFrame(
        {
            "user_id": pd.Categorical(["b", "a"]),
            "item_id": pd.array([12, 7], dtype="Int64"),
            "timestamp": pd.to_datetime(["2011-12-09 12:50", "2011-12-10 00:00"]).tz_localize(
                "Asia/Tokyo"
            ),
        }
    )
    dataset = read_dataset(frame)
    assert by_user(dataset) == {"a": ["7"], "b": ["12"]}
    assert dataset.histories.times is not None
    assert dataset.histories.times[1] == datetime(2011, 12, 9, 3, 50, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "text", ["2011-12-09T12:50:00Z", "2011-12-09 12:50", "2011-12-09T14:50:00.0+02:00"]
)
def test_iso_times_become_seconds(text):
    frame = pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "timestamp": [text]})
    times = read_dataset(frame).histories.times
    assert times is not None
    assert times.tolist() == [datetime(2011, 12, 9, 12, 50, tzinfo=UTC).timestamp()]


def test_columns_can_be_renamed_and_texts_joined(tmp_path):
    write(
        tmp_path, e__tsv="who\twhat\twhen\nu\ta\t1\n", i__csv="asin,name,brand\na,Lamp,<b>Lux</b>\n"
    )
    dataset = read_dataset(
        tmp_path / "e.tsv",
        tmp_path / "i.csv",
        columns=ColumnSettings(
            user="who", item="what", text_item="asin", timestamp="when", text=("name", "brand")
        ),
    )
    assert dataset.titles == ["Lamp. Lux"]


def test_without_times_a_history_is_in_the_order_of_the_file():
    frame = pl.DataFrame({"user_id": ["u", "v", "u"], "item_id": ["b", "b", "a"]})
    dataset = read_dataset(frame)
    assert rows(dataset) == [["b", "a"], ["b"]]
    assert dataset.histories.times is None
    text = "\n".join(dataset.report.lines())
    assert "the source has no times, so each history is in the order of the file" in text
    assert "NO ITEM TEXTS" in text


@pytest.mark.parametrize(
    ("repeats", "expected"),
    [("first", ["a", "b"]), ("last", ["b", "a"]), ("keep", ["a", "b", "a"])],
)
def test_repeats_follow_the_policy(repeats, expected):
    frame = pl.DataFrame({"user_id": ["u"] * 3, "item_id": ["a", "b", "a"], "timestamp": [1, 2, 3]})
    dataset = read_dataset(frame, options=ReadSettings(repeats=repeats))
    assert rows(dataset) == [expected]
    assert dataset.report.repeated == 1


def test_ties_keep_the_order_of_the_file_or_a_seeded_one():
    items = [f"{number:02}" for number in range(40)][::-1]
    frame = pl.DataFrame({"user_id": ["u"] * 40, "item_id": items, "timestamp": [1] * 39 + [2]})
    assert rows(read_dataset(frame)) == [items]
    shuffled = [
        rows(read_dataset(frame, options=ReadSettings(ties="shuffle", tie_seed=seed)))[0]
        for seed in (1, 1, 2)
    ]
    assert shuffled[0] == shuffled[1]
    assert shuffled[0] != shuffled[2]
    assert shuffled[0][-1] == items[-1]
    assert sorted(shuffled[0]) == sorted(items)


def test_catalogue_keeps_or_drops_items_without_interactions(tmp_path):
    write(tmp_path, interactions__csv=EVENTS + "7,zz,9\n", items__csv=ITEMS + "a,Again\n")
    dataset = read_dataset(tmp_path)
    assert dataset.item_ids == ["a", "b", "zz"]
    assert dataset.titles == ["One, two", "Three", ""]
    report = dataset.report
    assert (report.items_listed, report.items_listed_twice) == (3, 1)
    assert (report.items_not_listed, report.items_without_interactions) == (1, 1)
    whole = read_dataset(tmp_path, options=ReadSettings(catalogue="all"))
    assert whole.item_ids == ["a", "b", "c", "zz"]
    assert rows(whole) == rows(dataset)


def test_filters_are_applied_and_reported(tmp_path):
    events = "user_id,item_id,timestamp,rating\nu,a,1,5\nu,b,2,4.5\nv,a,1,5\nv,b,3,5\nw,a,1,1\n"
    write(tmp_path, interactions__csv=events)
    options = ReadSettings(min_rating=4, min_user_interactions=2, min_item_interactions=2)
    dataset = read_dataset(tmp_path, options=options)
    assert by_user(dataset) == {"u": ["a", "b"], "v": ["a", "b"]}
    assert dataset.report.below_min_rating == 1
    assert dataset.report.core == (2, 2)
    with pytest.raises(DataError, match="ratings of at least 6, got none"):
        read_dataset(tmp_path, options=ReadSettings(min_rating=6))


HEAD = "user_id,item_id,timestamp\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"e\.csv: expected records, got an empty file"),
        (" \n\n", r"e\.csv: expected records, got an empty file"),
        (HEAD, r"e\.csv: expected at least one record, got none"),
        (
            HEAD + "u,a,1\nu,a,yesterday\n",
            r"e\.csv:3: column 'timestamp': expected a number, got 'y",
        ),
        (
            HEAD + "u,a,1\n\n\nu,a,nan\n",
            r"e\.csv:5: column 'timestamp': expected a number, got 'nan'",
        ),
        (
            HEAD + "u,a,2011-12-09\nu,a,9\n",
            r"e\.csv:3: column 'timestamp': expected a date, got '9'",
        ),
        (
            HEAD + 'u,"a\nb",1\nu,c,\n',
            r"e\.csv:4: column 'timestamp': expected a number, got nothing",
        ),
        (
            HEAD + "u,a,1\nu,b\n",
            r"e\.csv:3: expected 3 fields \(user_id, item_id, timestamp\), got 2",
        ),
        (HEAD + "u,a,1\nu,b,2,3\n", r"e\.csv:3: expected 3 fields .*, got 4"),
        (HEAD + "u,a,1\n,b,2\n", r"e\.csv:3: column 'user_id': expected an id, got nothing"),
        (HEAD + "u,a,1\n,,\n", r"e\.csv:3: column 'user_id': expected an id, got nothing"),
        (HEAD + 'u,a,1\nu,"b,2\n', r"e\.csv:3: expected a csv record, got unexpected end of data"),
        (
            "user_id,item,timestamp\nu,a,1\n",
            r"column 'item_id' or 'movieId' for items, got the columns "
            "'user_id', 'item', 'timestamp'",
        ),
        ("a,a\n1,2\n", r"e\.csv:1: expected a name for each column, got 'a' twice"),
        (HEAD.encode() + b"u,a,1\nu,\xe9,2\n", r"e\.csv:3: expected UTF-8 text, got the byte 0xe9"),
    ],
)
def test_a_bad_csv_is_refused_with_its_place(tmp_path, content, message):
    write(tmp_path, e__csv=content)
    with pytest.raises(DataError, match=message) as caught:
        read_dataset(tmp_path / "e.csv")
    assert "\n" not in str(caught.value)


def test_blank_lines_and_byte_order_marks_are_skipped(tmp_path):
    content = (
        b"\xef\xbb\xbf\r\n" + HEAD.replace("\n", "\r\n").encode() + b"u,a,1\r\n\r\nu,b,2\r\n\r\n"
    )
    write(tmp_path, e__csv=content)
    assert rows(read_dataset(tmp_path / "e.csv")) == [["a", "b"]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.csv.gz", HEAD.encode(), r"e\.csv\.gz: expected a gzip file"),
        (
            "e.csv.gz",
            gzip.compress(HEAD.encode() * 9, mtime=0)[:-9],
            r"e\.csv\.gz: expected a gzip file",
        ),
        ("e.parquet", b"nonsense", r"e\.parquet: expected a parquet file"),
        ("e.xyz", b"u,a,1\n", r"expected a file \.inter, .* got .*e\.xyz"),
        ("e.inter", b"user_id\titem_id\nu\ta\n", r"e\.inter:1: expected headers name:type"),
        ("ratings.dat", b"1::2::3::4\n1::2::3\n", r"ratings\.dat:2: expected 4 fields .*, got 3"),
        (
            "ratings.dat",
            b"1::2::3::4\n1::2::3::4::5\n",
            r"ratings\.dat:2: expected 4 fields .*, got 5",
        ),
        ("ratings.dat", b"1::2::3::4\n1::2::3::x\n", r"ratings\.dat:2: column 'timestamp'"),
        ("ratings.dat", b"1,2,3,4\n", r"ratings\.dat:1: expected fields separated by '::' or"),
        ("u.data", b"1\t2\t3\n1\t2\t3\t4\n", r"u\.data:1: expected 4 fields .*, got 3"),
    ],
)
def test_other_bad_files_are_refused_with_their_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path / name)


def test_bad_frames_are_refused():
    with pytest.raises(DataError, match=r"row 0: column 'user_id': .* got Float64 \(as 12.0\)"):
        read_dataset(pl.DataFrame({"user_id": [12.0], "item_id": ["a"]}))
    with pytest.raises(DataError, match="row 1: column 'item_id': expected an id, got nothing"):
        read_dataset(pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", None]}))
    frame = pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "timestamp": [float("nan")]})
    with pytest.raises(DataError, match="row 0: column 'timestamp': expected a number, got nan"):
        read_dataset(frame)
    with pytest.raises(DataError, match="column 'item_id': expected values of one type"):
        read_dataset(pd.DataFrame({"user_id": ["u", "u"], "item_id": ["a", 3]}))
    with pytest.raises(DataError, match="expected at least one record"):
        read_dataset(pl.DataFrame({"user_id": [], "item_id": []}))
    with pytest.raises(
        DataError, match="expected a path or a frame for interactions frame, got dict"
    ):
        read_dataset({"user_id": []})  # pyright: ignore[reportArgumentType]


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(DataError, match="it does not exist"):
        read_dataset(tmp_path / "none.csv")
    with pytest.raises(DataError, match="expected a folder with one of"):
        read_dataset(tmp_path)
    with pytest.raises(ValueError, match="expected a format of auto"):
        read_dataset(tmp_path, format="json")
    with pytest.raises(ValueError, match="expected repeats to be 'first', 'last' or 'keep'"):
        ReadSettings(repeats="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="catalogue='interacted' with min_item_interactions=2"):
        ReadSettings(catalogue="all", min_item_interactions=2)
    write(tmp_path, interactions__csv=EVENTS, x__inter="user_id:token\titem_id:token\nu\ta\n")
    with pytest.raises(DataError, match=r"in one file, got x\.inter, interactions\.csv"):
        read_dataset(tmp_path)
    assert read_dataset(tmp_path, format="table").n_users == 2
    with pytest.raises(DataError, match="expected a column 'when', got the columns 'user_id'"):
        read_dataset(tmp_path, format="table", columns=ColumnSettings(timestamp="when"))
    write(tmp_path, items__csv="item_id,description\na,b\n")
    with pytest.raises(DataError, match=r"items\.csv: expected a column 'title' for titles"):
        read_dataset(tmp_path, format="table")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("Tom &amp;amp;amp; Jerry", "Tom & Jerry"),
        ("AT&T, R&B and &unknown;", "AT&T, R&B and &unknown;"),
        ("caf&eacute; &#233; &#xE9;", "café é é"),
        ("<p>One</p><br/>two <b>three</b>", "One two three"),
        ("H<sub>2</sub>O", "H2O"),
        ("I <3 you, <Untitled> 1 < 2 > 0", "I <3 you, <Untitled> 1 < 2 > 0"),
        (" a\u00a0 b\tc\n", "a b c"),
        ("&lt;i&gt;x&lt;/i&gt;", "x"),
        ("", ""),
    ],
)
def test_titles_lose_their_html(text, expected):
    assert clean_title(text) == expected


@given(st.text(max_size=40))
def test_a_clean_title_has_no_stray_space(text):
    assert clean_title(text) == " ".join(clean_title(text).split())


def test_texts_are_joined_without_the_empty_ones():
    assert join_texts([["a", "", ""], ["b", "c", ""]]) == ["a. b", "c", ""]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_histories_equal_a_plain_sort(events):
    frame = pl.DataFrame(
        [(str(user), str(item), time) for user, item, time in events],
        schema=["user_id", "item_id", "timestamp"],
        orient="row",
    )
    expected: dict[str, list[str]] = {}
    for user, item, _ in sorted(events, key=lambda event: event[2]):
        history = expected.setdefault(str(user), [])
        if str(item) not in history:
            history.append(str(item))
    assert by_user(read_dataset(frame)) == dict(sorted(expected.items()))


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions", "tie_share", "tied_ends", "same_title"),
    [
        ("ml-100k", 943, 1682, 100_000, 0.758, 0.440, 45),
        ("movietweetings-100k", 16_554, 10_506, 100_000, 0.0, 0.0, 10),
        ("amazon-beauty-2014", 22_363, 12_101, 198_502, 0.575, 0.435, 55),
        ("online-retail-uci", 4_334, 3_659, 386_326, 0.997, 0.928, 54),
    ],
)
def test_real_data_has_the_figures_its_readme_states(
    name, users, items, interactions, tie_share, tied_ends, same_title
):
    if not (SHARED / name).is_dir():
        pytest.skip(f"no {name} in {SHARED}")
    report = read_dataset(SHARED / name, options=ReadSettings(repeats="keep")).report
    assert (report.users, report.items, report.interactions) == (users, items, interactions)
    assert report.tie_share == pytest.approx(tie_share, abs=0.0006)
    assert report.users_with_tied_end / users == pytest.approx(tied_ends, abs=0.0006)
    # counted after cleaning: four titles of online-retail differ in the number of spaces only
    assert report.titles_shared == same_title
    assert report.repeated == (120_105 if name == "online-retail-uci" else 0)
    assert report.titles_missing == (7 if name == "amazon-beauty-2014" else 0)


def test_real_data_with_leading_zeros_and_gaps():
    if not (SHARED / "movietweetings-100k").is_dir():
        pytest.skip(f"no movietweetings-100k in {SHARED}")
    dataset = read_dataset(SHARED / "movietweetings-100k")
    number = dataset.item_number("0002844")
    assert dataset.titles[number].startswith("Fantômas")
    assert np.all(np.diff(dataset.histories.offsets) >= 1)


def parts(folder, **tables):
    """Write each table as `NAME.csv`, from its lines."""
    for name, lines in tables.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


def test_files_that_match_a_pattern_are_one_table_in_the_order_of_names(tmp_path):
    parts(
        tmp_path,
        b=["user_id,item_id,timestamp", "u,x,1", "u,z,0"],
        a=["timestamp,item_id,user_id", "1,y,u", "1,w,u"],
    )
    dataset = read_dataset(f"{tmp_path}/*.csv")
    assert [dataset.item_ids[item] for item in dataset.histories[0]] == ["z", "y", "w", "x"]
    assert dataset.report.notes == ("files that match '*.csv': 2 (a.csv, b.csv)",)
    assert dataset.description["interactions"] == "*.csv"
    same = read_dataset(tmp_path / "[ab].csv", glob=True)
    assert same.content_hash == dataset.content_hash
    for number in range(7):
        shutil.copy(tmp_path / "b.csv", tmp_path / f"c{number}.csv")
    (note,) = read_dataset(f"{tmp_path}/c*.csv").report.notes
    assert note.endswith("7 (c0.csv, c1.csv, c2.csv, c3.csv, c4.csv, ... c6.csv)")


def test_a_file_that_is_there_is_no_pattern(tmp_path):
    frame = pl.DataFrame({"user_id": ["u"], "item_id": ["literal"]})
    frame.write_parquet(tmp_path / "part1.parquet")
    with (tmp_path / "part[1].parquet").open("wb") as file:
        frame.with_columns(item_id=pl.lit("literal, too")).write_parquet(file)
    assert read_dataset(tmp_path / "part[1].parquet").item_ids == ["literal, too"]
    assert read_dataset(tmp_path / "part[1].parquet", glob=True).item_ids == ["literal"]
    (tmp_path / "part[1].parquet").unlink()
    assert read_dataset(tmp_path / "part[1].parquet").item_ids == ["literal"]


def test_files_of_a_pattern_that_do_not_go_together_are_named(tmp_path):
    parts(
        tmp_path,
        a=["user_id,item_id,timestamp", "u,x,1"],
        b=["user_id,item_id", "u,x"],
        c=["user_id,item_id,timestamp", "", "u,x,1", "u,y,late"],
    )
    with pytest.raises(
        DataError, match=r"b.csv: expected the columns of a.csv, .*'timestamp', got"
    ):
        read_dataset(f"{tmp_path}/?.csv")
    with pytest.raises(DataError, match=r"c.csv:4: column 'timestamp': expected a number"):
        read_dataset(f"{tmp_path}/[ac].csv")
    with pytest.raises(DataError, match=r"expected a file '.*x\*' or files that match it"):
        read_dataset(f"{tmp_path}/x*")
    for name, ids in (("a", [1]), ("b", ["1"])):
        frame = pl.DataFrame({"user_id": ["u"], "item_id": ids})
        frame.write_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"b.parquet: column 'item_id': expected Int64 as in a.par"):
        read_dataset(f"{tmp_path}/*.parquet")
    (tmp_path / "z.inter").write_text("user_id:token\titem_id:token\nu\tx\n")
    with pytest.raises(
        DataError, match=r"z.inter: expected the format table as of .*b.csv, got rec"
    ):
        read_dataset(f"{tmp_path}/[bz].[ci]*")
