"""What the commands print: results on standard output, all else on standard error."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

# without markup and emoji: brackets and colons in a name are what they are
output = Console(markup=False, emoji=False)
errors = Console(stderr=True, markup=False, emoji=False)
# also the characters that end a line or a paragraph
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def print_any_text() -> None:
    """Print with escapes what the terminal cannot encode, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def in_one_line(text: str) -> str:
    r"""Return a text with escapes in place of line ends and other control characters.

    Example:
        >>> in_one_line("a" + chr(10) + "b")
        'a\\nb'
    """
    return _CONTROL.sub(lambda found: repr(found.group())[1:-1], text)


def say(text: str) -> None:
    """Print a message about what is done, in one line."""
    errors.print(in_one_line(text), soft_wrap=True)


def write_json(values: Any, file: str | None) -> None:
    """Write values as JSON.

    Args:
        values: The values.
        file: Where they are written, completely or not at all; `-` is standard output (a file of
            that name is `./-`), and None writes nothing.
    """
    if file is None:
        return
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    if file == "-":
        sys.stdout.write(text)
        return
    place = Path(file)
    is_special = place.exists() and not place.is_file() and not place.is_dir()
    if is_special or place.absolute().is_relative_to("/dev"):
        # a pipe or a device, such as /dev/stdout, is written to and not replaced
        sys.stdout.flush()
        with place.open("a", encoding="utf-8") as stream:
            stream.write(text)
        return
    # imported here, so that help is shown at once
    from rarec.artifacts import write_text

    write_text(place, text)
