"""Settings of the texts that the language model reads."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, MinLen

from rarec.settings.declaration import CountOrZero, typed


@typed
class PromptSettings:
    """How the texts of users and items are made, in any language."""

    user: str = "A user liked: {titles}"
    """Text of a user. `{titles}` stands for the titles of the history. Other braces stay."""
    new_user: str = "A new user"
    """Text of a user whose history has no title. It may be empty."""
    item: str = "{title}"
    """Text of an item. `{title}` stands for its title."""
    untitled: Annotated[str, MinLen(1)] = "unknown"
    """Text in place of a missing title."""
    separator: Annotated[str, MinLen(1)] = "; "
    """Text between two titles."""
    n_titles: CountOrZero = 5
    """Number of newest titles in the text of a user."""
    newest_first: bool = True
    """Whether the newest title comes first."""
    max_tokens: Annotated[int, Ge(8)] = 128
    """Most tokens of a text, with those that the tokenizer or a chat template adds. Whole titles
    are left out, the oldest first, until the text fits. The last title is cut."""
    chat: bool = False
    """Put the text into the chat template of the tokenizer as the message of the user, up to where
    the answer would begin."""
    system: str = ""
    """System message of the chat template. By default there is none, or the one of the template."""

    def __post_init__(self) -> None:
        for name, text, mark in (("user", self.user, "{titles}"), ("item", self.item, "{title}")):
            if mark not in text:
                raise ValueError(f"expected {mark!r} in the {name} template, got {text!r}")
        if self.system and not self.chat:
            raise ValueError(f"expected chat with a system message, got plain and {self.system!r}")
