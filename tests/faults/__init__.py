"""Disturbs real commands of rarec at each of their file events, and says what comes of it.

`python -m tests.faults --help` shows how. A command is driven from outside, over its command line,
so that the same code can drive another installation of rarec.
"""
