"""Settings: one default, one seed, and one line about what is wrong."""

import tomllib
from dataclasses import replace

import pytest

import rarec
from rarec import settings as package
from rarec.settings import (
    VARIANTS,
    AlignSettings,
    ColumnSettings,
    FitSettings,
    IDSettings,
    LossSettings,
    ModelSettings,
    PromptSettings,
    ReadSettings,
    SelectionSettings,
    SplitSettings,
    TrainingSettings,
    as_dict,
    describe,
    differences,
    fields_of,
    flatten,
    from_dict,
    parse_assignments,
    read_values,
    to_toml,
    variant,
    with_values,
)

CLASSES = (
    *(AlignSettings, ColumnSettings, FitSettings, IDSettings, LossSettings, ModelSettings),
    *(PromptSettings, ReadSettings, SelectionSettings, SplitSettings, TrainingSettings),
)


@pytest.mark.parametrize("declared", CLASSES)
def test_every_setting_says_what_it_is(declared):
    for name, field in fields_of(declared).items():
        assert field.description, f"{declared.__name__}.{name}"
        assert field.description.strip().endswith("."), f"{declared.__name__}.{name}"


@pytest.mark.parametrize(
    ("declared", "values", "message"),
    [
        (LossSettings, {"alignment": float("nan")}, "alignment to be a finite number, got nan"),
        (LossSettings, {"log_q": "no"}, "log_q to be a valid boolean, got 'no'"),
        (LossSettings, {"prediction": "hinge"}, "prediction to be 'softmax' or 'bpr', got 'hinge'"),
        (LossSettings, {"hard_negatives": 9, "hard_pool": 3}, "hard_negatives <= hard_pool"),
        (LossSettings, {"chunk_size": 0}, "chunk_size to be greater than or equal to 1, got 0"),
        (ModelSettings, {"layers": 2.5}, "layers to be a valid integer or 'all', got 2.5"),
        (ModelSettings, {"layers": True}, "layers to be a valid integer or 'all', got True"),
        (ModelSettings, {"layers": "3"}, "layers to be a valid integer or 'all', got '3'"),
        (ModelSettings, {"prefix_rate": 0}, "prefix_rate to be greater than 0, got 0"),
        (ModelSettings, {"id_dropout": 1.0}, "id_dropout to be less than 1, got 1.0"),
        (ModelSettings, {"gate": True}, "field of ModelSettings, got 'gate'"),
        (ModelSettings, {"prefix_length": 0, "use_ids": False}, "something to train"),
        (TrainingSettings, {"learning_rate": float("inf")}, "learning_rate to be a finite number"),
        (TrainingSettings, {"other": {"seed": 1}}, "without fields of settings, got .'seed'."),
        (AlignSettings, {"seed": -1}, "seed to be greater than or equal to 0, got -1"),
        (AlignSettings, {"name": "../elsewhere"}, "a name that a folder can have"),
        (AlignSettings, {"name": "id"}, "a name that no other row has, got 'id'"),
        (AlignSettings, {"quantization": "2bit"}, "quantization to be '8bit' or '4bit'"),
        (AlignSettings, {"dtype": "int8"}, "dtype to be 'float32', 'bfloat16' or 'float16'"),
        (IDSettings, {"text": "", "id_dropout": 0.1}, "id_dropout 0 without text"),
        (IDSettings, {"negatives": 2, "shared_negatives": 2}, "negatives or shared_negatives"),
        (IDSettings, {"options": {"n_heads": 2}}, "options of gru4rec to be among"),
        (PromptSettings, {"user": "no mark"}, r"'\{titles\}' in the user template"),
        (PromptSettings, {"system": "x"}, "expected chat with a system message"),
        (ColumnSettings, {"text": "a", "title_template": "{a}"}, "text or title_template"),
        (ReadSettings, {"catalogue": "all", "min_item_interactions": 2}, "catalogue='interacted'"),
        (FitSettings, {"hold_out": False, "all_samples": False}, "hold_out or all_samples"),
    ],
)
def test_a_wrong_value_is_one_line(declared, values, message):
    with pytest.raises(ValueError, match=message) as caught:
        declared(**values)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_settings_that_do_not_go_together_are_refused():
    tuned = ModelSettings(tune="lora")
    with pytest.raises(ValueError, match=r"loss\.alignment 0 with tune='lora'.*got 0\.1"):
        AlignSettings(model=tuned, loss=LossSettings(alignment=0.1))
    with pytest.raises(ValueError, match="no quantization with tune='lora', got '8bit'"):
        AlignSettings(model=tuned, quantization="8bit")
    with pytest.raises(ValueError, match="'float32' with tune='full'"):
        AlignSettings(model=ModelSettings(tune="full"), dtype="bfloat16")


def test_there_is_one_default_and_one_seed():
    assert AlignSettings().model == ModelSettings()
    assert AlignSettings(model=ModelSettings(prefix_length=16)).model.layers == 3
    assert variant() == AlignSettings()
    assert FitSettings().ids == IDSettings()
    seeds = [name for name in flatten(as_dict(variant(seed=7))) if name.endswith("seed")]
    assert seeds == ["seed"]
    assert IDSettings().text == AlignSettings().llm


def test_text_alone_is_the_same_asked_once_or_twice():
    once = AlignSettings().without_ids()
    assert once.without_ids() == once
    assert once.model.prefix_rate == 3 * AlignSettings().model.prefix_rate
    assert VARIANTS["text"].settings == once


@pytest.mark.parametrize("name", VARIANTS)
def test_a_file_describes_a_variant_completely(name, tmp_path):
    settings = variant(name, seed=3)
    file = tmp_path / "align.toml"
    file.write_text(to_toml(settings), encoding="utf-8")
    assert with_values(AlignSettings(), read_values(file)) == settings
    assert from_dict(AlignSettings, as_dict(settings)) == settings
    assert tomllib.loads(to_toml(settings))["llm"] == settings.llm
    assert describe(settings.member)


def test_values_are_set_by_dotted_name_and_together():
    settings = with_values(
        variant("paper"),
        {
            "llm": "here",
            "model.layers": 3,
            "model.temperature": 2,
            "training.other.adam_beta2": 0.9,
        },
    )
    assert (settings.llm, settings.model.layers, settings.model.temperature) == ("here", 3, 2.0)
    assert settings.training.other == {"adam_beta2": 0.9}
    assert settings.loss.prediction == "bpr"
    assert with_values(ColumnSettings(), {"text": ["title", "brand"]}).text == ("title", "brand")
    # one after the other, the first of these would be refused
    both = with_values(PromptSettings(), {"system": "You know films.", "chat": True})
    assert both.chat
    assert parse_assignments(["model.layers=2", "llm=./mine", "prompts.chat=true"]) == {
        "model.layers": 2,
        "llm": "./mine",
        "prompts.chat": True,
    }
    for text in ("[x]", "a # b", "1\nseed = 2", "{titles}", "%s", "'", "\udcff"):
        assert parse_assignments([f"name={text}"]) == {"name": text}
    assert differences(settings, variant("paper"))[0].startswith("llm ('all-MiniLM-L6-v2', now")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle.layers": 3}, r"field of AlignSettings, got 'modle' \(did you mean 'model'\?\)"),
        ({"model.layer": 3}, "field of ModelSettings, got 'layer'"),
        ({"llm.name": "x"}, "'llm' to have no parts"),
        ({"model.layers": 0}, r"model\.layers to be greater than or equal to 1"),
        ({"model": 3}, "model to be"),
    ],
)
def test_a_wrong_name_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        with_values(AlignSettings(), values)


def test_files_and_assignments_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(ValueError, match=r"bad\.toml: expected a settings file"):
        read_values(tmp_path / "bad.toml")
    with pytest.raises(ValueError, match=r"absent\.toml: expected a settings file"):
        read_values(tmp_path / "absent.toml")
    with pytest.raises(ValueError, match="NAME=VALUE, got 'seed'"):
        parse_assignments(["seed"])
    with pytest.raises(ValueError, match="a variant of"):
        variant("best")


def test_settings_are_frozen():
    settings = AlignSettings()
    with pytest.raises(AttributeError):
        settings.seed = 3  # type: ignore[misc]
    assert replace(settings, seed=3).seed == 3


def test_the_package_shows_the_names_that_people_look_for():
    assert rarec.__version__
    for name in ("Recommender", "variant", "read_dataset", "IDSettings", "run_study"):
        assert name in dir(rarec)
        assert getattr(rarec, name) is not None
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'recipe'"):
        _ = rarec.recipe
