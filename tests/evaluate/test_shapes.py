"""Shapes of 5 and 13 pixels make IoU countable by hand: an ellipse of radii 1 or 2 is drawn as a diamond."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tinygan.detections import Detections
from tinygan.evaluate.shapes import PixelShape, draw_ellipse, draw_rectangle, pixel_iou


def found(*rows: list[float]) -> Detections:
    values = np.array(rows, dtype=float).reshape(-1, 5)
    return Detections(values[:, :4], values[:, 4])


def as_mask(shape: PixelShape, width: int, height: int) -> npt.NDArray[np.bool_]:
    x, y = np.arange(width), np.arange(height)[:, None]
    left, right = np.full((height, 1), 1), np.full((height, 1), 0)
    inside = shape.clipped((width, height))
    left[inside.top : inside.bottom + 1, 0] = inside.left
    right[inside.top : inside.bottom + 1, 0] = inside.right
    mask: npt.NDArray[np.bool_] = (x >= left) & (x <= right) & (y >= 0)
    return mask


# Drawn by cv2.ellipse(mask, (9, 8), (7, 4), 0.5 * 180 / pi, 0, 360, 1, -1), and the others in that way.
SLANTED = """
..................
..................
..................
.....####.........
....########......
...##########.....
...###########....
...############...
...#############..
....############..
.....###########..
......##########..
........#######...
..........####....
"""
UPRIGHT = """
..................
..................
.........####.....
........#######...
.......########...
......##########..
.....###########..
....############..
....############..
...#############..
...#############..
..##############..
..##############..
..#############...
.##############...
.##############...
.#############....
.#############....
.############.....
.############.....
.###########......
.###########......
..########........
..#######.........
...#####..........
"""
DIAMOND = """
.......
...#...
..###..
.#####.
..###..
...#...
"""


@pytest.mark.parametrize(
    ("ellipse", "drawn"),
    [
        ([7.9, 4.2, 0.5, 9.4, 8.2], SLANTED),
        ([12.0, 6.0, -1.2, 8.0, 13.0], UPRIGHT),
        ([2.5, 2.9, 0.0, 3.0, 3.0], DIAMOND),
    ],
)
def test_ellipses_are_drawn_as_opencv_does(ellipse: list[float], drawn: str) -> None:
    rows = drawn.split()
    expected = np.array([[pixel == "#" for pixel in row] for row in rows])
    shape = draw_ellipse(ellipse)
    assert np.array_equal(as_mask(shape, len(rows[0]), len(rows)), expected)
    assert shape.pixels == expected.sum() and shape.bottom == len(rows) - 1


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ([1, 2, 4, 6], 4 * 5),  # both corners included
        ([1.4, 2.4, 4.4, 6.4], 4 * 5),
        ([0.5, 1.5, 2.5, 2.5], 3 * 1),  # halves to even: 0..2, 2..2
        ([3, 3, 3, 3], 1),
        ([4, 6, 1, 2], 4 * 5),  # a negative size draws the same corners
        ([-3, -1, 1, 0], 2 * 1),  # cut off at 0
        ([-9, -9, -1, -1], 0),
        ([8, 8, 1e30, 1e30], 2 * 3),  # cut off by the image, 10 x 11
    ],
)
def test_rectangles_count_pixels(box: list[float], pixels: int) -> None:
    assert draw_rectangle(box).clipped((10, 11)).pixels == pixels


def test_iou_by_hand() -> None:
    faces = np.array([[2.9, 2.1, 0, 10.2, 9.8], [2, 2, 0, 12, 10]])
    iou = pixel_iou(found([9, 9, 12, 11, 0.9], [8, 8, 10, 12, 0.8], [50, 50, 60, 60, 0.7]), faces, None)
    assert iou == pytest.approx(np.array([[10 / 15, 7 / 18], [9 / 19, 1 / 27], [0, 0]]))
    assert pixel_iou(Detections.empty(), faces, None).shape == (0, 2)


def test_clipped_at_zero_and_by_the_image() -> None:
    # A diamond of 13 pixels around (0, 0): 6 of them lie in the image, 4 in one of 2 x 2.
    corner, box = np.array([[2.0, 2, 0, 0, 0]]), found([-5, -5, 2, 2, 1])
    assert pixel_iou(box, corner, None).item() == pytest.approx(6 / 9)
    assert pixel_iou(box, corner, (2, 2)).item() == 1
    assert pixel_iou(found([-5, -5, -1, -1, 1]), corner, None).item() == 0
