"""The `rarec` command."""

from __future__ import annotations

import sys

from rarec.stopping import stop_on_signals

__all__ = ["main"]


def main() -> None:
    """Run the command line, and end the process with the exit code of the command.

    Ctrl-C ends it with exit code 130, and SIGTERM with 143, both with one sentence.
    """
    with stop_on_signals() as watch:
        try:
            # imported here, because a signal may come in the meantime
            from rarec.cli.application import run

            run()
        except BaseException:
            # a library may have turned the exception of a signal into another one
            if watch.number is None:
                raise
        finally:
            if watch.number is not None:
                sys.stderr.write("The step was stopped. The same command goes on from here.\n")
            watch.end_at_once()
    if watch.number is not None:
        sys.exit(watch.exit_code)
