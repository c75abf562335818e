"""Drawings of the report as inline SVG: precision and recall, gains with their intervals, terms of training.

What came before is dashed and grey, what comes after is solid: they differ without colour too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinygan.detections import FloatArray
from tinygan.evaluate.curves import Curve, Difference
from tinygan.evaluate.fddb import RocCurve
from tinygan.evaluate.plots import visible_points
from tinygan.report.page import text

_MOST_POINTS = 300  # of a line
_WIDTH, _HEIGHT = 360, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 14, 34, 40  # margins
_FIFTHS = (0, 0.2, 0.4, 0.6, 0.8, 1)
_ROW, _LABEL, _VALUE = 22, 96, 64  # height of a row of gains, widths of its label and its figure


@dataclass(frozen=True)
class _Frame:
    """The axes of a drawing: which values lie at its edges."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def path(self, x: FloatArray, y: FloatArray) -> str:
        """The way of a line through the drawing, as SVG's ``d``."""
        return "M" + "L".join(f"{self.x(one):.1f} {self.y(other):.1f}" for one, other in zip(x, y, strict=True))

    def x(self, value: float) -> float:
        """The place of a value across, in pixels."""
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1.0)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """The place of a value upwards, in pixels from the top."""
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def draw_precision_recall(before: Curve, after: Curve, title: str) -> str:
    """Both precision-recall curves of a subset.

    Args:
        before: of the first stage, drawn dashed.
        after: of both stages, drawn solid.
        title: what readers who do not see the drawing are told.
    """
    frame = _Frame(0, 1, 0, 1)
    parts = _axes(frame, _FIFTHS, _FIFTHS, "recall", "precision")
    for style, curve in (("before", before), ("after", after)):
        recall, precision = visible_points(curve.recall, curve.precision, most=_MOST_POINTS)
        if len(recall):
            parts.append(f'<path class="line {style}" d="{frame.path(recall, precision)}"/>')
    return _svg([*parts, *_legend()], _HEIGHT, title)


def draw_roc(before: RocCurve, after: RocCurve, most: int, title: str) -> str:
    """Both ROC curves of the FDDB protocol.

    Args:
        before: of the first stage, drawn dashed.
        after: of both stages, drawn solid.
        most: number of false positives at the right edge.
        title: what readers who do not see the drawing are told.
    """
    frame = _Frame(0, most, 0, 1)
    parts = _axes(frame, [0, most], _FIFTHS, "false positives", "true positive rate")
    for style, curve in (("before", before), ("after", after)):
        within = curve.false_positives <= most
        x, y = visible_points(curve.false_positives[within].astype(float), curve.tpr[within], most, _MOST_POINTS)
        if len(x):
            parts.append(f'<path class="line {style}" d="{frame.path(x, y)}"/>')
    return _svg([*parts, *_legend()], _HEIGHT, title)


def draw_gains(gains: Sequence[tuple[str, Difference]], title: str) -> str:
    """Differences in exact AP as dots with their intervals, a row for each.

    Args:
        gains: label and difference; those that are not finite are left out.
        title: what readers who do not see the drawing are told.
    """
    rows = [(label, gain) for label, gain in gains if np.isfinite([gain.value, gain.low, gain.high]).all()]
    ends = 100 * np.array([0.0, *(end for _, gain in rows for end in (gain.low, gain.high, gain.value))])
    low, high = float(ends.min()), float(ends.max())
    span = (high - low) or 1.0
    height = _ROW * len(rows) + 30

    def across(points: float) -> float:
        return _LABEL + (points - low) / span * (_WIDTH - _LABEL - _VALUE - 8)

    parts = [f'<path class="rule" d="M{across(0):.1f} 4V{height - 20}"/>']
    parts.append(f'<text x="{across(0):.1f}" y="{height - 6}" text-anchor="middle">0</text>')
    for row, (label, gain) in enumerate(rows):
        y = _ROW * row + 16
        left, middle, right = (across(100 * value) for value in (gain.low, gain.value, gain.high))
        parts.append(f'<text x="0" y="{y + 4}">{text(label)}</text>')
        parts.append(f'<path class="line after" d="M{left:.1f} {y}H{right:.1f}"/>')
        parts.append(f'<circle class="dot" cx="{middle:.1f}" cy="{y}" r="4.5"/>')
        parts.append(f'<text x="{_WIDTH}" y="{y + 4}" text-anchor="end">{100 * gain.value:+.2f}</text>')
    return _svg(parts, height, title)


def draw_term(steps: FloatArray, values: FloatArray, title: str) -> str:
    """A term of training over its steps: the values faint, their running mean on top.

    Args:
        steps: float64 [N], rising, at least two.
        values: float64 [N], finite.
        title: what readers who do not see the drawing are told.
    """
    low, high = float(values.min()), float(values.max())
    if low == high:  # a level line in the middle
        low, high = low - 1, high + 1
    frame = _Frame(float(steps.min()), float(steps.max()), low, high)
    parts = _axes(frame, [frame.x_low, frame.x_high], [frame.y_low, frame.y_high], "step", "")
    for style, line in (("faint", values), ("after", _running_mean(values))):
        x, y = steps, line
        if len(x) > _MOST_POINTS:
            kept = np.linspace(0, len(x) - 1, _MOST_POINTS).astype(np.int64)
            x, y = x[kept], y[kept]
        parts.append(f'<path class="line {style}" d="{frame.path(x, y)}"/>')
    return _svg(parts, _HEIGHT, title)


def _legend() -> list[str]:
    places = (("before", _WIDTH - 170), ("after", _WIDTH - 80))
    return [
        f'<path class="line {style}" d="M{left} 12h26"/><text x="{left + 32}" y="16">{style}</text>'
        for style, left in places
    ]


def _running_mean(values: FloatArray) -> FloatArray:
    window = np.ones(1 + 2 * (len(values) // 40))
    mean: FloatArray = np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
    return mean


def _axes(frame: _Frame, across: Sequence[float], up: Sequence[float], x_title: str, y_title: str) -> list[str]:
    parts = []
    for value in across:
        x = frame.x(value)
        anchor = "middle" if len(across) > 2 else ("start" if value == frame.x_low else "end")
        parts.append(f'<path class="rule" d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="{anchor}">{value:.6g}</text>')
    for value in up:
        y = frame.y(value)
        parts.append(f'<path class="rule" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 4}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{x_title}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_TOP - 18}">{y_title}</text>')
    return parts


def _svg(parts: Sequence[str], height: int, title: str) -> str:
    body = "\n".join(parts)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{text(title)}">\n{body}\n</svg>'
