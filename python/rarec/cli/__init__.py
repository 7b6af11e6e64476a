"""The `rarec` command."""

from rarec.cli.application import main

__all__ = ["main"]
