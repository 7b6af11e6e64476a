"""The options of `rarec align` on the texts of users and items."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def _option(name: str, what: str) -> Any:
    return typer.Option(name, help=what, rich_help_panel="Text")


UserPrompt = Annotated[
    str | None,
    _option("--user-prompt", "A user's text; {titles} becomes the titles of the history."),
]
NewUserPrompt = Annotated[
    str | None, _option("--new-user-prompt", "Text of a user without a history.")
]
ItemPrompt = Annotated[
    str | None, _option("--item-prompt", "An item's text; {title} becomes its title.")
]
Separator = Annotated[str | None, _option("--separator", "Between titles.")]
Titles = Annotated[int | None, _option("--titles", "Newest titles in a user's text.")]
MaxTokens = Annotated[
    int | None, _option("--max-tokens", "Longest text; the oldest titles go first.")
]
Chat = Annotated[
    bool | None,
    _option("--chat/--plain", "As a message in the model's chat template, or alone."),
]
System = Annotated[str | None, _option("--system", "With --chat, the system message.")]
Pooling = Annotated[
    str | None,
    _option("--pooling", "mean, first or last token; by default what suits the model."),
]
