"""What the commands print: results on standard output, all else on standard error."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

output = Console()
errors = Console(stderr=True)


def say(text: str) -> None:
    """Print a message about what is done. Brackets in it stay as they are."""
    errors.print(escape(text), soft_wrap=True)


def write_json(values: Any, file: Path | None) -> None:
    """Write values as JSON.

    Args:
        values: The values.
        file: Where they are written, completely or not at all; `-` is standard output, and None
            writes nothing.
    """
    if file is None:
        return
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    if str(file) == "-":
        sys.stdout.write(text)
        return
    # imported here, so that help is shown at once
    from rarec.artifacts import write_text

    write_text(file, text)
