"""Table 2 as Markdown: the baseline, then each row with its gains and their paired 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from experiments.lite.report import Row
from tinygan.files import write_atomically

PRINTED = {  # Bai et al. 2018, Table 2: easy, medium, hard on WIDER FACE's whole validation set
    "Baseline": (0.932, 0.922, 0.858),
    "w/o refinement": (0.940, 0.929, 0.863),
    "w/o adv": (0.935, 0.925, 0.867),
    "w/o clc": (0.936, 0.927, 0.865),
    "ours": (0.944, 0.933, 0.873),
}
SCORES = {"logit": "fitted fusion", "replace": "face probability alone"}
Table = Mapping[str, Mapping[str, Mapping[str, Row]]]  # {row: {score: {subset: figures}}}


def format_table(table: Table) -> str:
    """The table for people.

    Args:
        table: of each row and way to score, the figures of :func:`experiments.lite.report.compare` by subset.
    """
    first = next(iter(next(iter(table.values())).values()))
    subsets = list(first)
    lines = [_line("row", *subsets), _line(*["---"] * (len(subsets) + 1))]
    lines.append(_line("MB-FCN alone (baseline)", *(f"{first[subset]['before']:.3f}" for subset in subsets)))
    for row, scores in table.items():
        for score, figures in scores.items():
            cells = (_cell(figures[subset]) for subset in subsets)
            lines.append(_line(f"{row}, {SCORES[score]}", *cells))
    if len(subsets) == 3:
        for row, values in PRINTED.items():
            if row == "Baseline" or row in table:
                lines.append(_line(f"printed: {row}", *(f"{value:.3f}" for value in values)))
    return "\n".join(lines)


def write_table(file: Path, table: Table) -> str:
    """Write the table, and return it."""
    text = format_table(table)
    write_atomically(file, (text + "\n").encode())
    return text


def _cell(figures: Row) -> str:
    """AP after, and the gain in points with its interval."""
    return f"{figures['after']:.3f} ({figures['points']:+.2f} [{figures['low']:+.2f}, {figures['high']:+.2f}])"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
