"""Titles made of several columns by a template."""

import pytest

from rarec.data import DataError, read_dataset
from rarec.data.titles import fill_template
from rarec.settings import ColumnSettings

EVENTS = "user_id,item_id\n007,b\n7,a\n"
ITEMS = "item_id,title\na,One\nb,Two\n"


def write(folder, **files):
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("template", "values", "expected"),
    [
        ("{a} ({b})", "Solaris|1972", "Solaris (1972)"),
        ("{a} ({b})", "Solaris|", "Solaris"),
        ("{a} ({b})", "|1972", "(1972)"),
        ("{a} ({b})", "|", ""),
        ("A film: {a}", "", ""),
        ("A film: {a}, {b}", "|Mosfilm", "A film, Mosfilm"),
        ("{a}: {b}", "|Solaris", "Solaris"),
        ("{a}: {b}", "Mosfilm|", "Mosfilm"),
        ("{a} - {b} - {c}", "x||z", "x - z"),
        ("{a} - {b} - {c}", "||z", "z"),
        ("{a} ({b}, {c})", "x||z", "x (z)"),
        ("{a} ({b}, {c})", "x|y|", "x (y)"),
        ("{a} ({b}, {c})", "x||", "x"),
        ("{a} [{b}/{c}].", "x||", "x."),
        ("{a} {a} ({b})", "x|<b>y</b> &amp; z", "x x (y & z)"),
        # punctuation inside a value stays, and braces in a value do not name a column
        ("{a} {b}", "What?...|", "What?..."),
        ("{a}, {b} ()", "Mr.|", "Mr. ()"),
        ("{a} ({b})", "{b} ()|y", "{b} () (y)"),
    ],
)
def test_templates_leave_out_brackets_and_punctuation_of_empty_values(template, values, expected):
    columns = {name: [value] for name, value in zip("abc", values.split("|"), strict=False)}
    assert fill_template(template, columns) == [expected]


def test_titles_are_made_of_several_columns(tmp_path):
    items = "item_id,title,brand,year\na,One,Acme,1999\nb,Two,,\n"
    folder = write(tmp_path, interactions__csv=EVENTS, items__csv=items)
    dataset = read_dataset(
        folder, columns=ColumnSettings(title_template="{brand} {title} ({year})")
    )
    assert dataset.titles == ["Acme One (1999)", "Two"]
    assert dataset.description["columns"]["title_template"] == "{brand} {title} ({year})"
    plain = read_dataset(folder)
    assert plain.titles == ["One", "Two"]
    assert plain.content_hash != dataset.content_hash


def test_a_template_finds_the_column_that_a_format_says_is_the_title(tmp_path):
    folder = write(
        tmp_path,
        x__inter="user_id:token\titem_id:token\nu\ta\n",
        x__item="item_id:token\tmovie_title:token_seq\tclass:token_seq\na\tHeat\tCrime Drama\n",
    )
    dataset = read_dataset(folder, columns=ColumnSettings(title_template="{title} ({class})"))
    assert dataset.titles == ["Heat (Crime Drama)"]


@pytest.mark.parametrize("form", ["dat", "item"])
def test_genres_of_movielens_have_one_column(tmp_path, form):
    if form == "dat":
        files = {
            "ratings__dat": "u::1::5::1\nu::2::5::2\n",
            "movies__dat": "1::Heat (1995)::Action|Crime\n2::What::\n",
        }
    else:
        some = "|".join("1" if place in (1, 6) else "0" for place in range(19))
        unknown = "|".join("1" if place == 0 else "0" for place in range(19))
        files = {
            "u__data": "u\t1\t5\t1\nu\t2\t5\t2\n",
            "u__item": f"1|Heat (1995)|||url|{some}\n2|What|||url|{unknown}\n",
        }
    columns = ColumnSettings(title_template="{title}: {genres}")
    dataset = read_dataset(write(tmp_path, **files), columns=columns)
    assert dataset.titles == ["Heat (1995): Action|Crime", "What"]


def test_templates_that_cannot_be_filled_are_refused(tmp_path):
    folder = write(tmp_path, interactions__csv=EVENTS, items__csv=ITEMS)
    with pytest.raises(
        DataError, match=r"items.csv: expected a column 'genres'.*'item_id', 'title'"
    ):
        read_dataset(folder, columns=ColumnSettings(title_template="{title} ({genres})"))
    with pytest.raises(DataError, match="expected a source of items"):
        read_dataset(folder / "interactions.csv", columns=ColumnSettings(title_template="{title}"))
    with pytest.raises(ValueError, match="expected a title template with a column in braces"):
        # before any work: the folder is not there
        read_dataset(folder / "none", columns=ColumnSettings(title_template="title"))
    with pytest.raises(ValueError, match="expected text or title_template"):
        ColumnSettings(text=("title",), title_template="{title}")
