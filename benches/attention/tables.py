"""Results to read: lines for a terminal, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benches.attention.measure import Row
from benches.attention.model import PASSES

#: The providers that the fused kernels are compared with.
PEERS = ("sdpa", "merged", "flex")


def unmeasured(rows: Sequence[Row]) -> list[str]:
    """Return a line for each reason why a provider was not measured, with the number of rows."""
    keys = [(x.status, x.provider, x.reason) for x in rows if x.status != "measured"]
    return [
        f"{status.upper()} {provider}: {reason} ({keys.count((status, provider, reason))} rows)"
        for status, provider, reason in distinct(keys)
    ]


def lines_of(rows: Sequence[Row]) -> list[str]:
    """Return the lines of what was not measured, then a line for each measured row."""
    lines = unmeasured(rows)
    for row in rows:
        if row.median_ms is None:
            continue
        padding = "padded" if row.padded else "full"
        case = f"{row.shape} B{row.n_batch} T{row.n_text} P{row.n_shared}+{row.n_own} {padding}"
        ratio = "" if row.against_sdpa is None else f"{row.against_sdpa:.2f}x"
        lines.append(
            f"{row.median_ms:9.3f} ms  [{row.p20_ms:.3f}, {row.p80_ms:.3f}]  {ratio:>6}  "
            f"{row.tflops:8.3f} TFLOP/s  {row.gbs:7.1f} GB/s  {row.provider} {row.part}  {case}"
        )
    return lines


def ratio_tables(rows: Sequence[Row]) -> str:
    """Return Markdown tables of the time of each peer divided by that of the fused kernels.

    There is one table for each shape. In brackets is the same ratio of the bytes that they move, as
    `benches.attention.model` calculates them.
    """
    found = {
        (x.shape, x.n_text, x.padded, x.n_shared + x.n_own, x.part, x.provider): x for x in rows
    }
    sections = []
    for shape in distinct(row.shape for row in rows):
        columns = [f"{part} / {peer}" for part in PASSES for peer in PEERS]
        lines = [f"### {shape}", "", "| T | P | texts | " + " | ".join(columns) + " |"]
        lines.append("| --- " * (3 + len(columns)) + "|")
        cases = distinct(key[1:4] for key in found if key[0] == shape)
        for n_text, padded, n_prefix in cases:
            cells = [
                _ratio(found, (shape, n_text, padded, n_prefix, part), peer)
                for part in PASSES
                for peer in PEERS
            ]
            kind = "padded" if padded else "full"
            lines.append(f"| {n_text} | {n_prefix} | {kind} | " + " | ".join(cells) + " |")
        sections.append("\n".join(lines))
    return "\n\n".join(sections) + "\n"


def _ratio(found: Mapping[Any, Row], key: tuple[Any, ...], peer: str) -> str:
    ours, theirs = found.get((*key, "fused")), found.get((*key, peer))
    if ours is None or theirs is None or not ours.median_ms or not theirs.median_ms:
        return "-"
    assert ours.model_mb is not None
    assert theirs.model_mb is not None
    return f"{theirs.median_ms / ours.median_ms:.2f} ({theirs.model_mb / ours.model_mb:.2f})"


def distinct(values: Iterable[Any]) -> list[Any]:
    """Return the values without repetition, in the order of their first one."""
    return list(dict.fromkeys(values))
