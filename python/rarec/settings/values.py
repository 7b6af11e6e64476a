"""Settings by dotted names and as TOML: what a settings file, a study or `--set` says.

A dotted name goes from a settings class into those inside it: `model.layers` of `AlignSettings` is
the field `layers` of its field `model`.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from rarec.settings.declaration import fields_of, unknown_field

Settings = TypeVar("Settings")


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested tables by their dotted names.

    Example:
        >>> flatten({"model": {"layers": 3}, "seed": 1})
        {'model.layers': 3, 'seed': 1}
    """
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Return settings with other values.

    Args:
        settings: The settings that keep all other values.
        values: New values by dotted name, such as `{"model.layers": 3}`, or as nested tables. A
            field that is a mapping takes any name below it, such as `training.other.adam_beta2`.

    Raises:
        ValueError: If a name is unknown, or a value is refused. The message names the field.

    Example:
        >>> from rarec.settings import AlignSettings
        >>> with_values(AlignSettings(), {"model.layers": 2}).model.layers
        2
    """
    # values of one class are set together: one may only be allowed beside another
    by_field: dict[str, dict[str, Any]] = {}
    for name, value in flatten(values).items():
        field, _, rest = name.partition(".")
        by_field.setdefault(field, {})[rest] = value
    changes: dict[str, Any] = {}
    for field, inner in by_field.items():
        if field not in fields_of(type(settings)):
            raise ValueError(unknown_field(type(settings), field))
        before = getattr(settings, field)
        if "" in inner:
            value = inner[""]
            # TOML and JSON have lists where settings have tuples
            changes[field] = tuple(value) if isinstance(value, list) else value
        elif dataclasses.is_dataclass(before):
            changes[field] = _inside(field, before, inner)
        elif isinstance(before, Mapping):
            changes[field] = {**before, **inner}
        else:
            raise ValueError(f"expected {field!r} to have no parts, got {sorted(inner)}")
    return dataclasses.replace(settings, **changes)  # type: ignore[type-var]


def as_dict(settings: Any) -> dict[str, Any]:
    """Return settings as nested dicts that JSON and TOML can hold; a field that is None is absent.

    None is the default of each field that can be None, so `from_dict` gives the same settings back.
    """
    return _without_none(dataclasses.asdict(settings))


def from_dict(declared: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Return the settings that `as_dict` was given; what is absent has its default.

    Args:
        declared: The settings class.
        values: Nested dicts.

    Raises:
        ValueError: If a name is unknown, or a value is refused.
    """
    return with_values(declared(), values)


def to_toml(settings: Any) -> str:
    """Return the text of a settings file that describes the settings completely."""
    return tomli_w.dumps(as_dict(settings))


def read_values(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the values in a settings file, a TOML file, by dotted name.

    Raises:
        ValueError: If the file cannot be read or is no TOML. The message names the file.
    """
    file = Path(path)
    try:
        return flatten(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{file}: expected a settings file in TOML ({error})") from error


def parse_assignments(texts: Iterable[str]) -> dict[str, Any]:
    """Return the values of `NAME=VALUE` texts by dotted name.

    Args:
        texts: Each a dotted name and a value as TOML writes it; a value that TOML does not know is
            a text.

    Raises:
        ValueError: If a text has no `=` or no name.

    Example:
        >>> parse_assignments(["model.layers=2", "llm=./my-model"])
        {'model.layers': 2, 'llm': './my-model'}
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise ValueError(f"expected --set NAME=VALUE, got {text!r}")
        try:
            read = tomllib.loads(f"value = {value}")
        except tomllib.TOMLDecodeError:
            read = {}
        # a text with a line end may read as more than one value
        found[name] = read["value"] if read.keys() == {"value"} else value
    return found


def differences(wanted: Any, stored: Any) -> list[str]:
    """Return in which values two settings of one class differ: `NAME (STORED, now WANTED)`.

    Args:
        wanted: The settings of this call.
        stored: The settings of an earlier call.
    """
    new, old = (flatten(dataclasses.asdict(one)) for one in (wanted, stored))
    return [
        f"{name} ({old.get(name)!r}, now {new.get(name)!r})"
        for name in sorted(new.keys() | old.keys())
        if new.get(name) != old.get(name)
    ]


def _inside(field: str, before: Any, values: Mapping[str, Any]) -> Any:
    try:
        return with_values(before, values)
    except ValueError as error:
        # the class inside does not know where it stands
        message = str(error).replace("expected ", f"expected {field}.", 1)
        known = any(
            message.startswith(f"expected {field}.{name} ") for name in fields_of(type(before))
        )
        raise ValueError(message if known else str(error)) from error


def _without_none(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {name: _without_none(v) for name, v in values.items() if v is not None}
    return [_without_none(v) for v in values] if isinstance(values, (list, tuple)) else values
