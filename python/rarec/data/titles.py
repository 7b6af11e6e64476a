"""Titles as a language model should read them."""

from __future__ import annotations

import html
import re
from functools import lru_cache

# only with its semicolon: "AT&T" and "R&B" are no entities
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# names of tags, not anything in angle brackets: "<Untitled>" is a title
_BLOCK_TAG = re.compile(
    r"</?(?:br|p|div|li|ul|ol|hr|h[1-6]|t[dr]|th|table|center|img|script|style)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_INLINE_TAG = re.compile(
    r"</?(?:a|b|i|u|s|em|strong|span|font|small|big|su[bp]|tt|code)(?:\s[^<>]*)?/?>", re.IGNORECASE
)
# text that went through two exports is escaped twice; nobody has seen it four times
_MAX_UNESCAPES = 4
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
# stands for an empty value in a template, until what belongs to it has gone too
_EMPTY = "\0"
_PUNCTUATION = r"[\s,.;:/|\u00b7\u2013\u2014\u3001-]*"
_OPEN, _CLOSE = r"[(\[\uff08\u3010]", r"[)\]\uff09\u3011]"
_EMPTY_BRACKETS = re.compile(
    rf"\s*{_OPEN}\s*{_EMPTY}(?:{_PUNCTUATION}{_EMPTY})*\s*{_CLOSE}",
)
_EMPTY_FIRST = re.compile(rf"(^|{_OPEN})(?:\s*{_EMPTY}{_PUNCTUATION})+")
_EMPTY_LATER = re.compile(rf"{_PUNCTUATION}{_EMPTY}")


def clean_title(text: str) -> str:
    """Return the text without HTML: entities unescaped, tags removed, each space a single one.

    Example:
        >>> clean_title("Tom &amp;amp; Jerry <b>DVD</b>")
        'Tom & Jerry DVD'
    """
    for _ in range(_MAX_UNESCAPES):
        if "&" not in text:
            break
        plain = _ENTITY.sub(lambda match: html.unescape(match.group()), text)
        if plain == text:
            break
        text = plain
    if "<" in text:
        text = _INLINE_TAG.sub("", _BLOCK_TAG.sub(" ", text))
    return " ".join(text.split())


def join_texts(columns: list[list[str]]) -> list[str]:
    """Return one text per item: its cleaned columns joined by ". ", empty ones left out.

    Args:
        columns: One list per column, each with a value per item.
    """
    cleaned = [[clean_title(value) for value in column] for column in columns]
    if len(cleaned) == 1:
        return cleaned[0]
    return [". ".join(filter(None, values)) for values in zip(*cleaned, strict=True)]


def template_columns(template: str) -> list[str]:
    """Return the names in braces, each once.

    Raises:
        ValueError: If there is none.
    """
    names = list(dict.fromkeys(_PLACEHOLDER.findall(template)))
    if not names:
        raise ValueError(f"expected a title template with a column in braces, got {template!r}")
    return names


def fill_template(template: str, columns: dict[str, list[str]]) -> list[str]:
    """Return one text per item: the template with the cleaned values of its columns.

    An empty value takes with it the brackets that hold nothing else, or the punctuation before it.
    Where all values are empty the text is.

    Args:
        template: A column's name in braces becomes its value.
        columns: A value per item of each column.

    Example:
        >>> columns = {"title": ["Solaris", "Stalker"], "year": ["1972", ""]}
        >>> fill_template("{title} ({year})", columns)
        ['Solaris (1972)', 'Stalker']
    """
    names = template_columns(template)
    filled = []
    for row in zip(*(columns[name] for name in names), strict=True):
        values = {name: clean_title(text) for name, text in zip(names, row, strict=True)}
        empty = frozenset(name for name in names if not values[name])
        filled.append("" if len(empty) == len(names) else _filled(template, values, empty))
    return filled


def _filled(template: str, values: dict[str, str], empty: frozenset[str]) -> str:
    text = _PLACEHOLDER.sub(lambda match: values[match.group(1)], _without(template, empty))
    return " ".join(text.split())


@lru_cache(maxsize=1024)
def _without(template: str, names: frozenset[str]) -> str:
    """Return a template without some of its columns and what belongs to them."""
    if not names:
        return template
    text = _PLACEHOLDER.sub(
        lambda match: _EMPTY if match.group(1) in names else match.group(), template
    )
    return _EMPTY_LATER.sub("", _EMPTY_FIRST.sub(r"\1", _EMPTY_BRACKETS.sub("", text)))
