"""What a study file says."""

import dataclasses
from pathlib import Path

import pytest

from rarec.settings import AlignSettings, IDSettings, ReadSettings, SelectionSettings
from rarec.study import data_names, read_study

STUDIES = Path(__file__).parents[1] / "docs" / "studies"
FILE = """
part = "test"
seeds = [0, 4]
cases = 30

[data.small]
source = "somewhere"
min_user_interactions = 2
text = ["title", "brand"]
set.ids.dim = 16

[set]
ids.max_epochs = 2
ids.dim = 8
align.training.max_steps = 3
align.training.other.adam_beta2 = 0.9

[grid.titles]
align.prompts.n_titles = [1, 3]

[variants.paper]
align.variant = "paper"

[ablation.a]
align.model.layers = 1
[ablation.b]
selection.fraction = 0.5

[id_models.wide]
ids.dim = 32
"""


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a study file."""

    def written(text: str) -> Path:
        file = tmp_path / "study.toml"
        file.write_text(text)
        return file

    return written


def test_a_file_describes_a_study(write):
    study = read_study(write(FILE), sources={"small": "elsewhere"})
    assert (study.part, study.seeds, study.cases) == ("test", (0, 4), 30)
    (source,) = study.data
    assert source.source == "elsewhere"
    assert source.options == ReadSettings(min_user_interactions=2)
    assert source.columns.text == ("title", "brand")
    assert list(study.variants) == [
        *("base", "titles-1", "titles-3", "paper"),
        *("all", "all-but-a", "only-a", "all-but-b", "only-b"),
    ]
    wide, _ = study.settings("wide", source, 0)
    assert (wide.ids.dim, wide.ids.max_epochs, wide.hold_out) == (32, 2, False)
    fit, align = study.settings("base", source, 4)
    # values of a dataset come before those of all datasets
    assert (fit.ids.dim, fit.ids.max_epochs, fit.hold_out) == (16, 2, True)
    assert {fit.ids.seed, fit.selection.seed, align.seed} == {4}
    assert align.name == "base"
    assert align.training.max_steps == 3
    assert align.training.other == {"adam_beta2": 0.9}
    assert study.settings("titles-3", source, 0)[1].prompts.n_titles == 3
    assert study.settings("paper", source, 0)[1].loss.prediction == "bpr"
    fit, align = study.settings("all", source, 0)
    assert (align.model.layers, fit.selection.fraction) == (1, 0.5)
    fit, align = study.settings("all-but-a", source, 0)
    assert (align.model.layers, fit.selection.fraction) == (3, 0.5)


def test_the_base_can_have_a_name(write):
    study = read_study(write("base = 'rarec'\n[data.a]\nsource = 'x'\n[variants.text]"))
    assert list(study.variants) == ["rarec", "text"]
    assert study.reference == "rarec"


def test_the_names_of_a_grid_are_names_of_folders(write):
    study = read_study(write("[data.a]\nsource = 'x'\n[grid.llm]\nalign.llm = ['Org/one', 'two']"))
    assert list(study.variants) == ["base", "llm-org_one", "llm-two"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "expected a study file"),
        ("color = 1", r"got \['color'\]"),
        ("[data.a]", r"data\.a: expected a source"),
        ("[data.a]\nsource = 'x'\nmin_users = 3", r"data\.a: .*min_users"),
        ("[data.a]\nsource = 'x'\n[set]\nalign.model.layer = 3", "base: .*did you mean 'layers'"),
        ("[data.a]\nsource = 'x'\n[set]\nalign.model.layers = '3'", r"model\.layers to be .*'3'"),
        ("[data.a]\nsource = 'x'\n[set]\nlayers = 3", "expected settings of selection, ids or"),
        ("[data.a]\nsource = 'x'\n[set]\nids.seed = 3", "seeds and names of the study.*ids.seed"),
        ("[data.a]\nsource = 'x'\n[grid.b]\nids.dim = 3", r"grid\.b: .*a list of values"),
        ("[data.a]\nsource = 'x'\n[variants.base]\nids.dim = 3", r"got \['base'\] twice"),
        ("[data.a]\nsource = 'x'\n[variants.b]\nalign.variant = 'best'", "b: .*got 'best'"),
        ("reference = 'c'\n[data.a]\nsource = 'x'", "reference to be one of"),
        ("part = 'train'\n[data.a]\nsource = 'x'", "part to be one of"),
        ("seeds = ['a']\n[data.a]\nsource = 'x'", r"different seeds >= 0, .*'a'"),
        ("cases = 'all'\n[data.a]\nsource = 'x'", "cases >= 1, got all"),
        ("grid = 3\n[data.a]\nsource = 'x'", "expected tables in grid, got 3"),
        ("[data.a]\nsource = 'x'\n[set]\nhold_out = 'no'", "hold_out to be .*'no'"),
        ("[data.a]\nsource = 'x'\n[variants.'../b']\nids.dim = 3", r"got '\.\./b'"),
        ("[data.a]\nsource = 'x'\n[variants.id]\nids.dim = 3", "name that no other row has.*'id'"),
        ("[data.'../b']\nsource = 'x'", r"a name that a folder can have .*got '\.\./b'"),
        ("seeds = [1, 1]\n[data.a]\nsource = 'x'", "different seeds"),
        ("cases = 0\n[data.a]\nsource = 'x'", "cases >= 1"),
        ("[data.a]\nsource = 'x'\n[id_models.b]\nhold_out = true", "b: .*ids alone.*hold_out"),
        ("[data.a]\nsource = 'x'\n[id_models.base]\nids.dim = 3", r"got \['base'\]"),
        ("", "at least one dataset and one variant"),
    ],
)
def test_a_file_that_says_something_else_is_refused(write, text, message):
    file = write(text)
    with pytest.raises(ValueError, match=message) as raised:
        read_study(file)
    assert str(raised.value).startswith(str(file))


def test_unknown_datasets_are_named(write):
    file = write(FILE)
    with pytest.raises(ValueError, match=r"datasets of \['small'\], got \['big'\]"):
        read_study(file, sources={"big": "x"})
    with pytest.raises(ValueError, match=r"got \['big'\]"):
        read_study(file, data=["big"])


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.toml")), ids=lambda file: file.stem)
def test_the_studies_of_this_project_can_be_read(file):
    assert len(read_study(file).variants) > 1


@pytest.mark.skipif(not STUDIES.exists(), reason="the studies are not part of the wheel")
def test_all_parts_of_the_ablation_together_are_the_default_settings():
    recipe, ablation = (read_study(STUDIES / f"{name}.toml") for name in ("recipe", "ablation"))
    for source in ablation.data:
        (same,) = (other for other in recipe.data if other.name == source.name)
        fit, align = ablation.settings(ablation.reference, source, 2)
        recipe_fit, recipe_align = recipe.settings(recipe.reference, same, 2)
        assert fit == recipe_fit
        assert dataclasses.replace(align, name="rarec") == recipe_align
        assert (align.model, align.loss) == (AlignSettings().model, AlignSettings().loss)
        assert fit.selection == SelectionSettings(seed=2)
        assert fit.ids.text == IDSettings().text


def test_datasets_may_have_any_name_that_a_folder_can_have(write):
    file = write("[data.'[a] =b %s']\nsource = 'x'\n[data.'[a] ']\nsource = 'y'\n")
    with pytest.raises(ValueError, match=r"a name that a folder can have.*got '\[a\] '"):
        read_study(file)
    study = read_study(file, data=["[a] =b %s"], sources={"[a] =b %s": "./p=q"})
    assert [(one.name, one.source) for one in study.data] == [("[a] =b %s", "./p=q")]
    assert data_names(file) == ["[a] =b %s", "[a] "]
