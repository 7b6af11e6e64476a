"""Settings by dotted names."""

import pytest

from rarec.data import Columns
from rarec.recommender import AlignConfig, flatten, recipe, with_settings


def test_nested_tables_become_dotted_names():
    nested = {"a": {"b": {"c": 1}, "d": [2]}, "e": {}}
    assert flatten(nested) == {"a.b.c": 1, "a.d": [2]}


def test_values_are_put_where_their_names_say():
    config = with_settings(
        recipe("paper", llm="there"),
        {
            "llm": "here",
            "model.layers": 3,
            "model.temperature": 2,
            "loss.alignment": 0.5,
            "training.max_steps": 7,
            "training.learning_rate": 0.1,
        },
    )
    assert (config.llm, config.model.layers, config.loss.alignment) == ("here", 3, 0.5)
    assert config.training == {"max_steps": 7, "learning_rate": 0.1}
    # what is not named stays, and a whole number is one for a field of fractions
    assert config.loss.prediction == "bpr"
    assert isinstance(config.model.temperature, float)
    assert with_settings(Columns(), {"text": ["title", "brand"]}).text == ("title", "brand")


def test_values_that_need_each_other_are_set_together():
    # raw ID vectors have no start to choose: one after the other would be refused
    start = with_settings(AlignConfig(), {"model.projector_start": "ridge"})
    config = with_settings(start, {"model.projector": "fixed", "model.projector_start": "random"})
    assert config.model.projector == "fixed"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("modle.layers", 3, r"field of AlignConfig, got 'modle' \(did you mean 'model'\?\)"),
        ("model.layer", 3, "field of ModelConfig, got 'layer'"),
        ("llm.name", "x", "'llm' to have no parts"),
        ("model.layers", "3", "layers as int or NoneType, got '3'"),
        ("model.layers", True, "layers as int or NoneType, got True"),
        ("model.use_ids", 1, "use_ids as bool, got 1"),
        ("model.layers", 0, "layers >= 1"),
    ],
)
def test_what_is_no_setting_is_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        with_settings(AlignConfig(), {name: value})
