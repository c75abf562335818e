"""Precision-recall curves as a picture."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinygan.detections import FloatArray
from tinygan.evaluate.curves import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_POINTS = 4000  # more cannot be seen, and draw slowly
_TITLE_COLUMNS = 48  # characters over one panel
_COLOURS = ("#0b6e99", "#8a8a8a", "#c0392b", "#5b8c3a", "#7d5ba6")
_STYLES = ("-", (0, (4, 1.5)), "-.", ":", "-")


@dataclass(frozen=True, eq=False)
class Line:
    """One curve of a panel.

    Attributes:
        label: what it is, for the legend.
        curve: its points.
        ap: its average precision in [0, 1], for the legend.
    """

    label: str
    curve: Curve
    ap: float


def draw_curves(panels: Mapping[str, Sequence[Line]], title: str = "") -> bytes:
    """Precision-recall curves, one panel a subset, side by side.

    Args:
        panels: ``{panel title: lines}``; the first line of a panel is drawn on top.
        title: heading of the picture.

    Returns:
        The picture as PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.8 + 4.2 * len(panels), 4.9), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (name, lines) in zip(axes, panels.items(), strict=True):
        _draw_panel(axis, name, lines)
    axes[0].set_ylabel("precision")
    if title:
        figure.suptitle(textwrap.fill(title, _TITLE_COLUMNS * len(panels)), fontsize=12)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _draw_panel(axis: Axes, name: str, lines: Sequence[Line]) -> None:
    for number, line in enumerate(lines):
        recall, precision = _visible_points(line.curve)
        axis.plot(
            recall,
            precision,
            color=_COLOURS[number % len(_COLOURS)],
            linestyle=_STYLES[number % len(_STYLES)],
            linewidth=1.8,
            zorder=10 - number,
            label=f"{line.label}: AP {line.ap:.3f}",
        )
    axis.set(title=name, xlabel="recall", xlim=(0, 1), ylim=(0, 1.015))
    axis.set_xticks(np.linspace(0, 1, 6))
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.grid(color="#dddddd", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower left", framealpha=0.95, edgecolor="none", fontsize=9)


def _visible_points(curve: Curve) -> tuple[FloatArray, FloatArray]:
    """Recall and precision at no more points than a picture can show."""
    known = np.flatnonzero(np.isfinite(curve.recall))
    if len(known) > _MAX_POINTS:
        # Evenly along the curve's way through the picture, so that no part of it is left out.
        steps = np.abs(np.diff(curve.recall[known])) + np.abs(np.diff(curve.precision[known]))
        way = np.concatenate([[0.0], np.cumsum(steps)])
        known = known[np.unique(np.searchsorted(way, np.linspace(0, way[-1], _MAX_POINTS)))]
    return curve.recall[known], curve.precision[known]
