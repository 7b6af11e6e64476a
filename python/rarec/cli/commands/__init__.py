"""The commands. What is slow to import is imported inside them, so that `--help` is quick."""

# in the order of `rarec --help`
from rarec.cli.commands import data, models, answers, studies  # noqa: F401, I001
