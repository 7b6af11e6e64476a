"""Settings by dotted names: what a study file or `--set` says, put into configurations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")


def flatten(nested: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return the values of nested tables by their dotted names.

    Example:
        >>> flatten({"model": {"layers": 3}, "seed": 1})
        {'model.layers': 3, 'seed': 1}
    """
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """Return a configuration with other values.

    Args:
        config: A frozen dataclass, with others inside.
        settings: Values by dotted name, such as `{"model.layers": 3}`. A field that is a mapping
            takes any name below it: `training.max_steps`.

    Raises:
        ValueError: If a name is unknown, a value is of another type than its field, or the
            configuration refuses it.

    Example:
        >>> from rarec.recommender import AlignConfig
        >>> with_settings(AlignConfig(), {"model.layers": 3}).model.layers
        3
    """
    # together: a value may only be allowed beside another
    by_field: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        field, _, rest = name.partition(".")
        by_field.setdefault(field, {})[rest] = value
    kinds = get_type_hints(type(config))
    names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for field, values in by_field.items():
        if field not in names:
            close = get_close_matches(field, names, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(
                f"expected a field of {type(config).__name__}, got {field!r}{hint}: {sorted(names)}"
            )
        before = getattr(config, field)
        if "" in values:
            changes[field] = _checked(field, values[""], kinds[field])
        elif dataclasses.is_dataclass(before):
            changes[field] = with_settings(before, values)
        elif isinstance(before, Mapping):
            changes[field] = {**before, **values}
        else:
            raise ValueError(f"expected {field!r} to have no parts, got {sorted(values)}")
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _checked(name: str, value: Any, kind: Any) -> Any:
    """Return a value as its field wants it: a list becomes a tuple, 1 becomes 1.0."""
    wanted = tuple(_plain(kind))
    if isinstance(value, list) and tuple in wanted:
        return tuple(value)
    # a bool is an int for Python, not for people
    if isinstance(value, bool) and bool not in wanted:
        fits = False
    elif isinstance(value, int) and float in wanted and int not in wanted:
        return float(value)
    else:
        fits = isinstance(value, wanted)
    if not fits:
        names = " or ".join(one.__name__ for one in wanted)
        raise ValueError(f"expected {name} as {names}, got {value!r}")
    return value


def _plain(kind: Any) -> Iterator[type]:
    """Yield the types a field may have, without what they hold."""
    if get_origin(kind) in (Union, UnionType):
        for part in get_args(kind):
            yield from _plain(part)
    else:
        yield get_origin(kind) or kind
