"""Precision-recall and ROC curves as pictures, in the look of WIDER FACE's and FDDB's published ones.

One panel per subset; the legend says ``name-0.xxx``, best first.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tinygan.detections import FloatArray
from tinygan.evaluate.curves import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_POINTS = 4000  # more cannot be seen, and draw slowly
_TITLE_COLUMNS = 48  # characters over one panel
_OWN_COLOURS = ("#d7191c", "#111111", "#1f5fbf")
_OWN_STYLES = ("-", (0, (4, 1.5)), "-.")
_OTHER_COLOURS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf", "#4b0082",
)  # fmt: skip
_OTHER_STYLES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)))  # once all colours are used, the next


@dataclass(frozen=True, eq=False)
class Line:
    """One precision-recall curve of a panel.

    Attributes:
        label: name of the curve in the legend.
        curve: the points.
        ap: its average precision in [0, 1], shown in the legend.
        published: whether it is another method's curve, which is drawn thinner and behind.
    """

    label: str
    curve: Curve
    ap: float
    published: bool = False


@dataclass(frozen=True, eq=False)
class RocLine:
    """One ROC curve of a panel.

    Attributes:
        label: name of the curve in the legend.
        false_positives: [K], rising.
        true_positive_rate: [K] in [0, 1].
        value: figure in the legend, e.g. the rate at 1,000 false positives.
        published: whether it is another method's curve, which is drawn thinner and behind.
    """

    label: str
    false_positives: FloatArray
    true_positive_rate: FloatArray
    value: float
    published: bool = False


def draw_curves(panels: Mapping[str, Sequence[Line]], title: str = "") -> bytes:
    """Precision-recall curves, one panel per subset, side by side.

    Args:
        panels: ``{panel title: lines}``; the first line of a panel is drawn on top.
        title: heading of the picture.

    Returns:
        The picture as PNG.
    """
    figure, axes = _make_panels(list(panels), title)
    colours = _colours([(line.label, line.published) for lines in panels.values() for line in lines])
    for axis, lines in zip(axes, panels.values(), strict=True):
        for number, line in enumerate(lines):
            recall, precision = visible_points(line.curve.recall, line.curve.precision)
            _draw(axis, recall, precision, _Look(line.label, line.ap, line.published, number), colours)
        axis.set(xlabel="recall", xlim=(0, 1), ylim=(0, 1.015))
        axis.set_xticks(np.linspace(0, 1, 6))
        axis.set_yticks(np.linspace(0, 1, 6))
        _draw_legend(axis, [line.ap for line in lines], "lower left")
    axes[0].set_ylabel("precision")
    return _png(figure)


def draw_rocs(panels: Mapping[str, Sequence[RocLine]], title: str = "", max_false_positives: float = 2000.0) -> bytes:
    """ROC curves, true positive rate over the number of false positives, one panel per kind of score.

    Args:
        panels: ``{panel title: lines}``; the first line of a panel is drawn on top.
        title: heading of the picture.
        max_false_positives: right end of the axis.

    Returns:
        The picture as PNG.
    """
    figure, axes = _make_panels(list(panels), title)
    colours = _colours([(line.label, line.published) for lines in panels.values() for line in lines])
    for axis, lines in zip(axes, panels.values(), strict=True):
        for number, line in enumerate(lines):
            shown = np.asarray(line.false_positives, dtype=np.float64) <= max_false_positives
            across = np.asarray(line.false_positives, dtype=np.float64)[shown]
            up = np.asarray(line.true_positive_rate, dtype=np.float64)[shown]
            if len(across):  # a detector that stops early keeps its rate
                across, up = np.append(across, max_false_positives), np.append(up, up[-1])
            across, up = visible_points(across, up, max_false_positives)
            _draw(axis, across, up, _Look(line.label, line.value, line.published, number), colours)
        axis.set(xlabel="false positives", xlim=(0, max_false_positives), ylim=(0, 1.015))
        axis.set_yticks(np.linspace(0, 1, 11))
        _draw_legend(axis, [line.value for line in lines], "lower right")
    axes[0].set_ylabel("true positive rate")
    return _png(figure)


@dataclass(frozen=True)
class _Look:
    label: str
    value: float
    published: bool
    number: int  # position in its panel


def _make_panels(names: Sequence[str], title: str) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.8 + 4.2 * len(names), 4.9), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    axes: Sequence[Axes] = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        axis.set_title(name)
        axis.grid(color="#dddddd", linewidth=0.7)
        axis.set_axisbelow(True)
    if title:
        figure.suptitle(textwrap.fill(title, _TITLE_COLUMNS * len(names)), fontsize=12)
    return figure, axes


def _colours(lines: Sequence[tuple[str, bool]]) -> dict[str, tuple[str, object]]:
    """A colour and a style for each label, the same in every panel."""
    chosen: dict[str, tuple[str, object]] = {}
    for published, colours, styles in ((False, _OWN_COLOURS, _OWN_STYLES), (True, _OTHER_COLOURS, _OTHER_STYLES)):
        labels = list(dict.fromkeys(label for label, is_published in lines if is_published == published))
        for number, label in enumerate(sorted(labels) if published else labels):
            style = styles[number // len(colours) % len(styles)] if published else styles[number % len(styles)]
            chosen.setdefault(label, (colours[number % len(colours)], style))
    return chosen


def _draw(axis: Axes, x: FloatArray, y: FloatArray, look: _Look, colours: Mapping[str, tuple[str, object]]) -> None:
    colour, style = colours[look.label]
    axis.plot(
        x,
        y,
        color=colour,
        linestyle=style,
        linewidth=1.2 if look.published else 2.2,
        zorder=(2.5 if look.published else 5.0) - look.number / 100,
        label=f"{look.label}-{look.value:.3f}" if math.isfinite(look.value) else look.label,
    )


def _draw_legend(axis: Axes, values: Sequence[float], corner: Literal["lower left", "lower right"]) -> None:
    handles, labels = axis.get_legend_handles_labels()
    order = sorted(range(len(handles)), key=lambda k: -values[k] if math.isfinite(values[k]) else math.inf)
    axis.legend(
        [handles[k] for k in order],
        [labels[k] for k in order],
        loc=corner,
        framealpha=0.9,
        edgecolor="#999999",
        fancybox=False,
        fontsize=9 if len(order) <= 6 else 7.5,
    )


def visible_points(
    x: FloatArray, y: FloatArray, x_end: float = 1.0, most: int = _MAX_POINTS
) -> tuple[FloatArray, FloatArray]:
    """The points of a curve, ``most`` at most, which lie evenly along it; without those where x is unknown."""
    known = np.flatnonzero(np.isfinite(x))
    if len(known) > most:
        # Evenly along the curve's way through the picture, so that no part of it is left out.
        steps = np.abs(np.diff(x[known])) / x_end + np.abs(np.diff(y[known]))
        way = np.concatenate([[0.0], np.cumsum(steps)])
        known = known[np.unique(np.searchsorted(way, np.linspace(0, way[-1], most)))]
    return x[known], y[known]


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()
