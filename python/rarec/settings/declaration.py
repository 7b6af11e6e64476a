"""How a settings class is declared: frozen, checked by pydantic, with errors of one line.

A settings class states each field once: its type with its range, its default, and below it a string
that says what it is. The command line takes its defaults and its help from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic
from annotated_types import Ge, Gt, Interval
from pydantic import BeforeValidator, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

Declared = TypeVar("Declared", bound=type)

Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
#: A share of something that may be left out, but not all of it.
Share = Annotated[float, Interval(ge=0, lt=1)]
Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]
#: Several texts; one text stands for itself, and a list is taken for a tuple.
Texts = Annotated[
    tuple[str, ...],
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else _as_tuple(value),
    ),
]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def typed(declared: Declared) -> Declared:
    """Return a class as a frozen dataclass whose wrong values are a `ValueError` of one line.

    Values are taken strictly: no text for a number, no number for true or false, no NaN, no
    infinity, and no field that is unknown.

    Args:
        declared: A class with annotated fields. Its `__post_init__` may raise `ValueError` where
            fields do not go together.

    Example:
        >>> @typed
        ... class Example:
        ...     rate: Positive = 0.1
        >>> Example(rate=-1)
        Traceback (most recent call last):
            ...
        ValueError: expected rate to be greater than 0, got -1
    """
    config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    made: Any = pydantic.dataclasses.dataclass(declared, frozen=True, kw_only=True, config=config)
    checked = made.__init__

    def __init__(self: Any, *arguments: Any, **values: Any) -> None:  # noqa: N807
        try:
            checked(self, *arguments, **values)
        except ValidationError as error:
            raise ValueError(_in_one_line(error, made)) from None

    made.__init__ = __init__
    return made


def fields_of(declared: type) -> Mapping[str, FieldInfo]:
    """Return the fields of a settings class by name: type, default, description."""
    return declared.__pydantic_fields__  # type: ignore[attr-defined, no-any-return]


def unknown_field(declared: type, name: str) -> str:
    """Return the message about a field that a settings class does not have."""
    names = [field.name for field in dataclasses.fields(declared)]
    close = get_close_matches(name, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"expected a field of {declared.__name__}, got {name!r}{hint}: {sorted(names)}"


def _in_one_line(error: ValidationError, declared: type) -> str:
    """Return what is wrong in the form `expected X, got Y`; alternatives are joined."""
    expected: dict[str, list[str]] = {}
    got: dict[str, str] = {}
    for fault in error.errors(include_url=False):
        names = [part for part in fault["loc"] if isinstance(part, str)]
        if fault["type"] == "value_error":
            return str(fault.get("ctx", {})["error"])
        if fault["type"].startswith("unexpected"):
            return unknown_field(declared, str(fault["loc"][-1]))
        name = names[0] if names else declared.__name__
        if fault["type"] == "missing":
            return f"expected {name} to be given, got nothing"
        what = fault["msg"].removeprefix("Input should be ")
        if what not in expected.setdefault(name, []):
            expected[name].append(what)
        got.setdefault(name, repr(fault["input"]))
    return "; ".join(
        f"expected {name} to be {' or '.join(what)}, got {got[name]}"
        for name, what in expected.items()
    )


def _as_tuple(value: Any) -> Any:
    is_list = isinstance(value, Sequence) and not isinstance(value, bytes)
    return tuple(value) if is_list else value
