"""Paths and names are literal: what a folder can be called, and files whose path is no UTF-8."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# "/" and "\" part folders, "," parts names on the command line, ":" parts names of rows in results
_FOLDER_NAME = re.compile(r"(?![\s.])[^/\\,:\x00-\x1f\x7f-\x9f\u2028\u2029]+(?<!\s)")
# file systems allow 255 bytes, of which temporary names need a part
_LONGEST_NAME = 100


def require_folder_name(name: str) -> str:
    r"""Return a name that becomes the name of a folder and stands in results.

    Args:
        name: Any text that UTF-8 has, of at most 100 bytes, without control characters and
            `/ \ , :`, that does not begin with a point or a space or end with a space.

    Raises:
        ValueError: If the name is another one.

    Example:
        >>> require_folder_name("[b]x *%s")
        '[b]x *%s'
    """
    if not _is_utf8(name) or len(name.encode()) > _LONGEST_NAME or not _FOLDER_NAME.fullmatch(name):
        raise ValueError(
            f"expected a name that a folder can have (at most {_LONGEST_NAME} bytes, no control "
            f"characters, none of / \\ , : and no point or space before it), got {name!r}"
        )
    return name


@contextmanager
def utf8_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path by which a library can read a file or a folder if it takes only UTF-8.

    Only systems with `/proc` allow names that are no UTF-8, so only there is the path another one.

    Args:
        path: A path; its text has surrogate escapes where it is no UTF-8.

    Raises:
        OSError: If the path is no UTF-8 and cannot be opened.
    """
    if _is_utf8(os.fspath(path)):
        yield Path(path)
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        yield Path(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
