"""`rarec doctor`: what this machine has, and which implementations will run on it."""

from __future__ import annotations

from rarec.cli.printing import output


def doctor() -> None:
    """Show what this machine has, which implementations will run on it, and why."""
    # imported here, so that help is shown at once
    from rarec.cli.machine import examine

    examine(output)
