"""Titles as a language model should read them."""

from __future__ import annotations

import html
import re

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
