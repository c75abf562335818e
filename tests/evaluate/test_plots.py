from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tinygan.evaluate import plots
from tinygan.evaluate.curves import Curve
from tinygan.evaluate.plots import Line, RocLine, draw_curves, draw_rocs


def curve(height: float = 1.0, points: int = 50) -> Curve:
    recall = np.linspace(0, 1, points)
    return Curve(np.linspace(1, 0, points), height * (1 - recall**4), recall)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Figure]]:
    """The figure that was drawn last."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    yield lambda: figures[-1]


def legend_of(figure: Figure, panel: int = 0) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].get_legend().get_texts()]


def colours_of(figure: Figure, panel: int) -> dict[str, object]:
    lines = figure.axes[panel].get_lines()
    return {str(line.get_label()).rpartition("-")[0]: (line.get_color(), line.get_linestyle()) for line in lines}


def test_the_legend_is_sorted_by_ap(drawn: Callable[[], Figure]) -> None:
    lines = [Line("ours", curve(), 0.8731), Line("SFD", curve(0.9), 0.859, published=True)]
    lines += [Line("SRN", curve(0.95), 0.9017, published=True), Line("none", curve(), float("nan"), published=True)]
    draw_curves({"hard": lines})
    assert legend_of(drawn()) == ["SRN-0.902", "ours-0.873", "SFD-0.859", "none"]


def test_a_panel_a_subset_of_one_size(drawn: Callable[[], Figure]) -> None:
    one = draw_curves({"hard": [Line("a", curve(), 0.5)]}, "title")
    three = draw_curves({name: [Line("a", curve(), 0.5)] for name in ("easy", "medium", "hard")}, "title")
    assert [axis.get_title() for axis in drawn().axes] == ["easy", "medium", "hard"]
    assert drawn().axes[0].get_xlim() == (0, 1)
    with Image.open(io.BytesIO(one)) as first, Image.open(io.BytesIO(three)) as second:
        assert first.format == "PNG" and second.width > 2 * first.width


def test_a_method_has_one_look_in_all_panels_and_no_other_has_it(drawn: Callable[[], Figure]) -> None:
    names = [f"method {number}" for number in range(25)]
    looks = plots._colours([("after", False), ("before", False), *((name, True) for name in names)])
    assert len(looks) == len({repr(look) for look in looks.values()}) == 27
    published = [Line(name, curve(), 0.5, published=True) for name in names]
    own = [Line("after", curve(), 0.6), Line("before", curve(), 0.4)]
    draw_curves({"easy": own + published, "hard": own + published[::-1][:20]})
    easy, hard = colours_of(drawn(), 0), colours_of(drawn(), 1)
    assert len(easy) == 27
    assert hard.items() <= easy.items()


def test_our_lines_are_thicker_and_in_front(drawn: Callable[[], Figure]) -> None:
    draw_curves({"hard": [Line("SFD", curve(), 0.9, published=True), Line("ours", curve(), 0.8)]})
    other, own = drawn().axes[0].get_lines()
    assert own.get_linewidth() > other.get_linewidth() and own.get_zorder() > other.get_zorder()


def test_long_and_unknown_curves(drawn: Callable[[], Figure]) -> None:
    unknown = Curve(np.ones(3), np.zeros(3), np.full(3, np.nan))
    empty = Curve(np.zeros(0), np.zeros(0), np.zeros(0))
    draw_curves(
        {"all": [Line("long", curve(points=100_000), 0.8), Line("a", unknown, float("nan")), Line("b", empty, 0)]}
    )
    long, *others = drawn().axes[0].get_lines()
    assert 100 < len(long.get_xdata()) <= plots._MAX_POINTS
    np.testing.assert_allclose([long.get_xdata()[0], long.get_xdata()[-1]], [0, 1])
    assert [len(line.get_xdata()) for line in others] == [0, 0]


def test_roc(drawn: Callable[[], Figure]) -> None:
    far = RocLine("far", np.array([0.0, 10, 5000]), np.array([0.2, 0.8, 0.9]), 0.8)
    short = RocLine("short", np.array([0.0, 4]), np.array([0.5, 0.85]), 0.85)
    none = RocLine("none", np.zeros(0), np.zeros(0), float("nan"))
    draw_rocs({"discrete": [far, short, none], "continuous": [far]}, "FDDB", max_false_positives=1000)
    first = drawn().axes[0]
    assert legend_of(drawn()) == ["short-0.850", "far-0.800", "none"]
    assert first.get_xlim() == (0, 1000)
    shown = {str(line.get_label()): line for line in first.get_lines()}
    assert shown["short-0.850"].get_xdata().tolist() == [0, 4, 1000]  # it keeps its last rate
    assert shown["short-0.850"].get_ydata().tolist() == [0.5, 0.85, 0.85]
    assert shown["far-0.800"].get_xdata().tolist() == [0, 10, 1000]
