"""Write `docs/architectures.md` and `.json`: which language models take a prefix exactly.

`make architectures`, or `python -m benches.tools.architectures`. The status is 1 if a model is not
exact.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import transformers

from tests.prefix_reference import (
    EXACT,
    bfloat16_error,
    checkpointing_error,
    errors,
    in_float64,
    plain_error,
)
from tests.tiny_models import ALL, OUTSIDE, backbone_of, refusal

DOCS = Path(__file__).parents[2] / "docs"


def examine(name: str) -> dict[str, Any]:
    """Return the row of an architecture in the table."""
    with in_float64():
        found = [errors(name, padding) for padding in ("none", "right", "left")]
        # each part of the prefix alone, and texts that are not packed
        found += [errors(name, "none", shared=0), errors(name, "right", own=0)]
        found.append(errors(name, "right", packed=False))
        error = max(value for value, _ in found)
        plain_errors = [plain_error(name, padding) for padding in ("none", "right")]
    packs = backbone_of(name).packing is not None
    try:
        checkpointing = checkpointing_error(name) <= EXACT
    except ValueError:
        checkpointing = False
    notes = [ALL[name].notes, "" if packs else "padded"]
    return {
        "model_type": name,
        "exact": max(error, *plain_errors) <= EXACT,
        "error": max(error, *plain_errors),
        "gradient_error": max(value for _, value in found),
        "checkpointing": checkpointing,
        "bf16": bfloat16_error(name),
        "notes": "; ".join(filter(None, notes)),
    }


def document(rows: list[dict[str, Any]], refused: dict[str, str]) -> str:
    """Return the document in Markdown."""
    introduction = (
        f"`make architectures` wrote this with transformers {transformers.__version__}. The models "
        "are tiny and random and compute in float64. The reference is the model itself over prefix "
        "and text: the prefix overwrites the input of each attention "
        "(`tests/prefix_reference.py`). `error` and `gradient error` are the largest differences, "
        "relative to the largest value or 1. They cover texts without padding, padded on the right "
        "and padded on the left; packed texts and others; both parts of the prefix, one part alone "
        "and no prefix. `bf16` is the relative distance of the states in bfloat16 from those in "
        "float64. Models with the note `padded` cannot read packed texts."
    )
    lines = [
        "# Architectures",
        "",
        textwrap.fill(introduction, width=116),
        "",
        "| model type | exact | error | gradient error | checkpointing | bf16 | notes |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        marks = ["yes" if row[key] else "no" for key in ("exact", "checkpointing")]
        lines.append(
            f"| {row['model_type']} | {marks[0]} | {row['error']:.0e} | "
            f"{row['gradient_error']:.0e} | {marks[1]} | {row['bf16']:.1%} | {row['notes']} |"
        )
    lines += ["", "These are refused, each with the reason:", ""]
    lines += [f"- `{name}`: {reason}" for name, reason in refused.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Examine all architectures and write the document."""
    refused = {name: reason for name in OUTSIDE if (reason := refusal(name)) is not None}
    rows = [examine(name) for name in ALL if name not in refused]
    (DOCS / "architectures.json").write_text(json.dumps(rows, indent=1) + "\n")
    (DOCS / "architectures.md").write_text(document(rows, refused))
    exact = sum(row["exact"] for row in rows)
    print(f"{exact} of {len(rows)} architectures exact; docs/architectures.md written")
    if exact < len(rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
