"""A run: a folder of artifacts, each with a record of what it was made from."""

from rarec.run.folder import RunFolder
from rarec.run.freshness import fresh_hash, fresh_record, why_not_fresh
from rarec.run.inspection import Inspected, inspect_run
from rarec.run.records import Record, read_record, write_record
from rarec.run.writing import write_artifact

__all__ = [
    "Inspected",
    "Record",
    "RunFolder",
    "fresh_hash",
    "fresh_record",
    "inspect_run",
    "read_record",
    "why_not_fresh",
    "write_artifact",
    "write_record",
]
