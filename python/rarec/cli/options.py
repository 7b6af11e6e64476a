"""Options of the commands. What an option says of a setting is read from the settings class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from rich.markup import escape

from rarec.settings import fields_of, parse_assignments, read_values, with_values

Settings = TypeVar("Settings")

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")]
# a text and no path: as paths, `-` and `./-` are the same
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Also write what is reported into this file; - is standard output.",
    ),
]
Restart = Annotated[
    bool,
    typer.Option("--restart", help="Begin this step again, and replace what it has made before."),
]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait",
        help="Wait for another process that makes the same thing in this run. Without it the "
        "command ends and says which process that is.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Settings file in TOML. Flags and --set change what it says.",
    ),
]
PrintConfig = Annotated[
    bool,
    typer.Option(
        "--print-config",
        help="Print the settings of the step as a settings file, and do nothing else.",
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting by its dotted name, with a value as TOML writes it. It can be repeated.",
    ),
]


def setting(
    declared: type, name: str, *flags: str, also: Sequence[str] = (), metavar: str | None = None
) -> Any:
    """Return the option of a setting. The option says the default and the meaning of the setting.

    The default of the parameter is None, which leaves the setting as it is.

    Args:
        declared: The settings class of the step.
        name: Dotted name of the setting.
        *flags: Names of the option; by default the name of the parameter.
        also: Dotted names of other settings that are given the same value.
        metavar: Name of the value in the help; by default the choices or the type.

    Example:
        >>> from rarec.settings import AlignSettings
        >>> setting(AlignSettings, "training.max_steps").help
        'Number of optimizer steps.'
    """
    fields = [_field(declared, one) for one in (name, *also)]
    return typer.Option(
        *flags,
        metavar=metavar or _choices(fields[0].annotation),
        help=escape(" ".join(" ".join((field.description or "").split()) for field in fields)),
        show_default=_shown(fields[0].get_default(call_default_factory=True)),
    )


def with_file(settings: Settings, values: Mapping[str, Any], file: Path | None) -> Settings:
    """Return settings with the values of a settings file.

    Args:
        settings: The settings that keep all other values.
        values: Values by dotted name.
        file: The file, for messages; None if there is none.

    Raises:
        ValueError: If a name is unknown, or a value is refused. The message names the file.
    """
    try:
        return with_values(settings, values)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def file_values(file: Path | None) -> dict[str, Any]:
    """Return the values of a settings file by dotted name; none without a file."""
    return {} if file is None else read_values(file)


def given_values(
    flags: Mapping[str, Any], assignments: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the values that the command line gives, by dotted name; `--set` counts most.

    Args:
        flags: Value of each flag by dotted name; None where the flag is not given.
        assignments: The texts of `--set`.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    return {**given, **parse_assignments(assignments or ())}


def _field(declared: type, name: str) -> FieldInfo:
    *outer, last = name.split(".")
    for one in outer:
        inner = fields_of(declared)[one].annotation
        assert isinstance(inner, type)
        declared = inner
    return fields_of(declared)[last]


def _choices(annotation: Any) -> str | None:
    is_choice = get_origin(annotation) is Literal
    return "|".join(map(str, get_args(annotation))) if is_choice else None


def _shown(default: Any) -> str | bool:
    # nothing is shown where the description says what happens by default
    if default is None or default in ("", ()):
        return False
    return str(default).lower() if isinstance(default, bool) else str(default)
