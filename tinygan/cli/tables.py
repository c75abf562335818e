"""Tables of figures, as aligned text or as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NONE = "-"  # a figure that does not exist


@dataclass(frozen=True)
class Table:
    """A table to print.

    Attributes:
        title: the line above it.
        rows: equally long; the first is the heading.
        note: a line below it.
    """

    title: str
    rows: Sequence[Sequence[str]]
    note: str = ""


def format_tables(tables: Sequence[Table], markdown: bool) -> str:
    """The tables one after another, a blank line between them.

    Args:
        tables: what to print.
        markdown: as Markdown tables rather than as aligned columns.

    Returns:
        Text without a line break at its end.
    """
    return "\n\n".join(_markdown(table) if markdown else _plain(table) for table in tables)


def ap(value: float) -> str:
    """A figure in [0, 1] to four digits."""
    return f"{value:.4f}" if math.isfinite(value) else NONE


def points(value: float) -> str:
    """A difference in [-1, 1] in points (1/100), with its sign."""
    return f"{100 * value:+.2f}" if math.isfinite(value) else NONE


def interval(low: float, high: float) -> str:
    """An interval in points."""
    return f"[{points(low)}, {points(high)}]"


def count(value: float | None) -> str:
    """A count, in groups of three digits."""
    return NONE if value is None else f"{value:,}"


def _plain(table: Table) -> str:
    """Columns two blanks apart, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table.rows, strict=True)]
    lines = [table.title]
    for row in table.rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join([*lines, table.note] if table.note else lines)


def _markdown(table: Table) -> str:
    heading, *rows = [[cell.replace("|", "\\|") for cell in row] for row in table.rows]
    rule = [":--", *("--:" for _ in heading[1:])]
    lines = [f"**{table.title}**", "", *(f"| {' | '.join(row)} |" for row in (heading, rule, *rows))]
    return "\n".join([*lines, "", table.note] if table.note else lines)
