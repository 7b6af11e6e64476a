"""Titles of items, cleaned and put together for a language model."""

from __future__ import annotations

import html
import re
from functools import lru_cache

# the semicolon is required, because "AT&T" and "R&B" are not entities
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# only known tags are removed, because "<Untitled>" can be a title
_BLOCK_TAG = re.compile(
    r"</?(?:br|p|div|li|ul|ol|hr|h[1-6]|t[dr]|th|table|center|img|script|style)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_INLINE_TAG = re.compile(
    r"</?(?:a|b|i|u|s|em|strong|span|font|small|big|su[bp]|tt|code)(?:\s[^<>]*)?/?>", re.IGNORECASE
)
# each export of a text can escape it once more; more than four times has not been seen
_MAX_UNESCAPES = 4
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
# marks an empty value in a template until its brackets or punctuation are removed as well
_EMPTY = "\0"
_PUNCTUATION = r"[\s,.;:/|\u00b7\u2013\u2014\u3001-]*"
_OPEN, _CLOSE = r"[(\[\uff08\u3010]", r"[)\]\uff09\u3011]"
_EMPTY_BRACKETS = re.compile(
    rf"\s*{_OPEN}\s*{_EMPTY}(?:{_PUNCTUATION}{_EMPTY})*\s*{_CLOSE}",
)
_EMPTY_FIRST = re.compile(rf"(^|{_OPEN})(?:\s*{_EMPTY}{_PUNCTUATION})+")
_EMPTY_LATER = re.compile(rf"{_PUNCTUATION}{_EMPTY}")


def clean_title(text: str) -> str:
    """Return the text without HTML entities and tags, and with single spaces between words.

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
    """Return one text per item: its cleaned columns that are not empty, joined by ". ".

    Args:
        columns: One list per column, with one value per item.
    """
    cleaned = [[clean_title(value) for value in column] for column in columns]
    if len(cleaned) == 1:
        return cleaned[0]
    return [". ".join(filter(None, values)) for values in zip(*cleaned, strict=True)]


def template_columns(template: str) -> list[str]:
    """Return the distinct column names that stand in braces in a template.

    Raises:
        ValueError: If the template has no column name.
    """
    names = list(dict.fromkeys(_PLACEHOLDER.findall(template)))
    if not names:
        raise ValueError(f"expected a title template with a column in braces, got {template!r}")
    return names


def fill_template(template: str, columns: dict[str, list[str]]) -> list[str]:
    """Return one text per item: the template with the cleaned values of its columns.

    If a value is empty, the brackets around it or the punctuation before it are removed as well.
    If all values are empty, the text is empty.

    Args:
        template: A text with column names in braces, which are replaced by the values.
        columns: For each column name, one value per item.

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
        filled.append("" if len(empty) == len(names) else _fill_row(template, values, empty))
    return filled


def _fill_row(template: str, values: dict[str, str], empty: frozenset[str]) -> str:
    shortened = _without_columns(template, empty)
    text = _PLACEHOLDER.sub(lambda match: values[match.group(1)], shortened)
    return " ".join(text.split())


@lru_cache(maxsize=1024)
def _without_columns(template: str, names: frozenset[str]) -> str:
    """Return a template without the given columns and their brackets or punctuation."""
    if not names:
        return template
    text = _PLACEHOLDER.sub(
        lambda match: _EMPTY if match.group(1) in names else match.group(), template
    )
    return _EMPTY_LATER.sub("", _EMPTY_FIRST.sub(r"\1", _EMPTY_BRACKETS.sub("", text)))
