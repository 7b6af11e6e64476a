"""Options of more than one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")]
Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Also write what is reported; - for stdout."),
]
Seed = Annotated[int, typer.Option(help="Same seed, same machine: same result.")]
Llm = Annotated[
    str,
    typer.Option(
        help="A folder, a GGUF file, all-MiniLM-L6-v2, smollm2-135m-instruct, or a name on the "
        "Hugging Face hub."
    ),
]
