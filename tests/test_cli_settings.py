"""The flags of the commands: where defaults come from, and which value counts."""

import subprocess
import sys
import tomllib
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rarec.cli.application import app
from rarec.cli.options import setting
from rarec.settings import (
    VARIANTS,
    AlignSettings,
    FitSettings,
    PrepareSettings,
    flatten,
    from_dict,
    to_toml,
    variant,
)

# setting of each flag
PREPARE = {
    "--format": "format",
    "--user-column": "columns.user",
    "--item-column": "columns.item",
    "--time-column": "columns.timestamp",
    "--text-column": "columns.text",
    "--min-user": "read.min_user_interactions",
    "--min-item": "read.min_item_interactions",
    "--split": "split.kind",
}
FIT = {
    "--model": "ids.model",
    "--dim": "ids.dim",
    "--text": "ids.text",
    "--max-epochs": "ids.max_epochs",
    "--learning-rate": "ids.learning_rate",
    "--fraction": "selection.fraction",
    "--hold-out": "hold_out",
    "--all-samples": "all_samples",
    "--seed": "ids.seed",
}
BUDGET = {
    "--llm": "llm",
    "--steps": "training.max_steps",
    "--batch-size": "training.per_device_train_batch_size",
}
ALIGN = {
    **BUDGET,
    "--name": "name",
    "--learning-rate": "training.learning_rate",
    "--layers": "model.layers",
    "--seed": "seed",
}
FLAGS = {
    "prepare": (PrepareSettings(), PREPARE),
    "fit-ids": (FitSettings(), FIT),
    "align": (AlignSettings(), ALIGN),
    "compare": (AlignSettings(), BUDGET),
}
# flags that are no setting
OTHERS = {
    "prepare": {"--restart", "--wait", "--output", "--glob", "--set", "--json", "--help"},
    "fit-ids": {
        *("--vectors", "--ids", "--user-vectors", "--user-ids", "--normalize"),
        *("--restart", "--wait", "--config", "--set", "--print-config", "--json", "--help"),
    },
    "align": {
        *("--variant", "--text-only"),
        *("--restart", "--wait", "--config", "--set", "--print-config", "--json", "--help"),
    },
    "compare": {
        *("--variants", "--seeds", "--part", "--output", "--jobs"),
        *("--restart", "--wait", "--json", "--help"),
    },
}


def call(*arguments):
    """Return the exit code and all that a command printed, in one line."""
    result = CliRunner().invoke(app, [str(part) for part in arguments])
    return result.exit_code, result.output


def printed(*arguments):
    """Return the settings that a command prints, by dotted name."""
    code, out = call(*arguments, "--print-config")
    assert code == 0, out
    return flatten(tomllib.loads(out))


def shown(default):
    """Return how a default is shown; False if it is not."""
    if default is None or default in ("", ()):
        return False
    return str(default).lower() if isinstance(default, bool) else str(default)


def value_of(settings, name):
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


@pytest.mark.parametrize("command", FLAGS)
def test_a_flag_shows_the_default_of_its_setting(command):
    settings, flags = FLAGS[command]
    group: Any = typer.main.get_command(app)
    options = {
        option.opts[0]: option
        for option in group.commands[command].params
        if option.param_type_name == "option"
    }
    # click adds --help when it parses
    assert {*options, "--help"} == {*flags, *OTHERS[command]}
    for flag, name in flags.items():
        assert options[flag].show_default == shown(value_of(settings, name)), flag
        assert options[flag].default is None, flag
        assert options[flag].help.endswith("."), flag


def test_the_help_of_a_flag_is_the_description_of_its_setting():
    option = setting(AlignSettings, "model.id_dropout")
    assert option.help.startswith("Share of the users and items whose ID vectors are left out")
    assert option.show_default == "0.0"
    both = setting(FitSettings, "ids.seed", also=["selection.seed"])
    assert both.help.endswith("and the negatives. Seed of the random choice.")
    assert setting(PrepareSettings, "split.kind").metavar == "leave-one-out|time"


@pytest.mark.parametrize(
    ("command", "given", "names"),
    [
        ("fit-ids", ("--model", "sasrec"), ["ids.model"]),
        ("fit-ids", ("--dim", 8), ["ids.dim"]),
        ("fit-ids", ("--text", "other"), ["ids.text"]),
        ("fit-ids", ("--max-epochs", 3), ["ids.max_epochs"]),
        ("fit-ids", ("--learning-rate", 0.5), ["ids.learning_rate"]),
        ("fit-ids", ("--fraction", 0.5), ["selection.fraction"]),
        ("fit-ids", ("--no-hold-out",), ["hold_out"]),
        ("fit-ids", ("--no-all-samples",), ["all_samples"]),
        ("fit-ids", ("--seed", 7), ["ids.seed", "selection.seed"]),
        ("align", ("--llm", "other"), ["llm"]),
        ("align", ("--name", "mine"), ["name"]),
        ("align", ("--steps", 4), ["training.max_steps"]),
        ("align", ("--batch-size", 4), ["training.per_device_train_batch_size"]),
        ("align", ("--learning-rate", 0.5), ["training.learning_rate"]),
        ("align", ("--layers", 1), ["model.layers"]),
        ("align", ("--layers", "all"), ["model.layers"]),
        ("align", ("--seed", 7), ["seed"]),
    ],
)
def test_a_flag_changes_its_setting_and_no_other(command, given, names):
    before, after = printed(command, "run"), printed(command, "run", *given)
    assert sorted(name for name in before if before[name] != after[name]) == sorted(names)
    if len(given) == 2:
        assert {after[name] for name in names} == {given[1]}


@pytest.mark.parametrize(
    ("command", "declared", "options"),
    [
        ("fit-ids", FitSettings, ["--model", "comirec", "--set", "ids.options.n_interests=2"]),
        ("align", AlignSettings, ["--variant", "paper", "--set", "prompts.separator= und "]),
        ("align", AlignSettings, ["--text-only", "--set", "training.other.adam_beta2=0.9"]),
        ("align", AlignSettings, ["--set", "pooling=last", "--set", "loss.chunk_size=8"]),
    ],
)
def test_printed_settings_are_complete_and_give_the_same_settings(
    tmp_path, command, declared, options
):
    file = tmp_path / "settings.toml"
    code, out = call(command, "run", *options, "--print-config")
    assert code == 0
    file.write_text(out, encoding="utf-8")
    assert call(command, "run", "--config", file, "--print-config") == (0, out)
    assert to_toml(from_dict(declared, tomllib.loads(out))) == out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_named_by_a_flag_or_by_a_file(tmp_path, name):
    file = tmp_path / "settings.toml"
    file.write_text(f'variant = "{name}"\nseed = 3\n')
    expected = flatten(tomllib.loads(to_toml(variant(name, seed=3))))
    assert printed("align", "run", "--variant", name, "--seed", 3) == expected
    assert printed("align", "run", "--config", file) == expected


def test_flags_count_more_than_the_file_and_set_counts_most(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text(
        'variant = "paper"\n[training]\nmax_steps = 5\nsave_steps = 6\n[model]\nlayers = 2\n'
    )
    found = printed("align", "run", "--config", file)
    assert (found["training.max_steps"], found["model.layers"]) == (5, 2)
    assert (found["name"], found["loss.prediction"]) == ("paper", "bpr")
    given = ("--steps", 7, "--layers", 1, "--set", "model.layers=all")
    found = printed("align", "run", "--config", file, *given)
    assert (found["training.max_steps"], found["training.save_steps"]) == (7, 6)
    assert found["model.layers"] == "all"
    # a variant that a flag names takes the place of the one in the file
    found = printed("align", "run", "--config", file, "--variant", "text")
    assert (found["model.use_ids"], found["training.max_steps"]) == (False, 5)


def test_text_only_is_the_baseline_of_a_variant():
    expected = flatten(tomllib.loads(to_toml(variant("paper").without_ids())))
    assert printed("align", "run", "--variant", "paper", "--text-only") == expected
    named = printed("align", "run", "--text-only", "--set", "model.prefix_rate=2.0")
    assert named["model.prefix_rate"] == 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["align", "run", "--set", "model.layers"], "expected --set NAME=VALUE"),
        (["align", "run", "--set", "model.layer=1"], "did you mean 'layers'?"),
        (["align", "run", "--layers", "some"], "expected model.layers to be "),
        (["align", "run", "--variant", "best"], "expected a variant of "),
        (["align", "run", "--set", "quantization=2bit"], "expected quantization to be "),
        (["align", "run", "--config", "absent.toml"], "absent.toml: expected a settings file"),
        (["align", "run", "--config", "bad.toml"], "bad.toml: expected a field of AlignSettings"),
        (["fit-ids", "run", "--model", "bpr"], "expected ids.model to be "),
        (["fit-ids", "run", "--no-hold-out", "--no-all-samples"], "hold_out or all_samples"),
        (["fit-ids", "run", "--vectors", "a.npy"], "expected --vectors and --ids, got no --ids"),
        (["fit-ids", "run", "--user-ids", "a"], "got no --user-vectors"),
        (["fit-ids", "run", "--normalize"], "expected --vectors beside --normalize"),
        (["prepare", "a.csv", "-o", "run", "--split", "odd"], "expected split.kind to be "),
        (["prepare", "a.csv", "-o", "run", "--set", "read.repeats=x"], "expected read.repeats to"),
    ],
)
def test_bad_settings_are_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text("layers = 3\n")
    code, out = call(*arguments)
    assert code == 1
    assert out.startswith("error: ")
    assert message in out
    assert out.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "sasrec"], "expected --vectors or --model, got both"),
        (["--no-hold-out"], "expected --vectors or --hold-out, got both"),
        (["--set", "ids.patience=2"], "expected --vectors or ids.patience, got both"),
        (["--print-config"], "expected --vectors or --print-config, got both"),
    ],
)
def test_imported_vectors_have_no_settings_of_a_model(options, message):
    code, out = call("fit-ids", "run", "--vectors", "a.npy", "--ids", "a.txt", *options)
    assert code == 1
    assert message in out


@pytest.mark.parametrize("arguments", [["--help"], ["align", "--help"], ["prepare", "--help"]])
def test_help_is_quick(arguments):
    shown_help = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; from rarec.cli import main; sys.argv[1:] = {arguments};"
            "import atexit; atexit.register(lambda: print('torch' in sys.modules)); main()",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Usage" in shown_help.stdout
    # torch takes seconds to import, and help needs none of it
    assert shown_help.stdout.strip().endswith("False")
