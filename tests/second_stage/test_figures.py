"""Figures of faces in one's own pictures: what is cut, what counts as hard, and which boxes are failures."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage import data

from tinygan.detections import Detections, GroundTruth
from tinygan.second_stage.figures import (
    HARDNESS,
    bad_light,
    blur,
    compare,
    cut_faces,
    found_picture,
    hard_row,
    most_failures,
    shrunk_row,
)


class Twice:
    """In the place of a generator with two parts."""

    def stages(self, pixels):
        large = pixels.repeat(4, axis=0).repeat(4, axis=1)
        return {"G1": large, "G2": 255 - large}


def test_crops_are_native_twice_as_wide_and_moved_inside():
    image = Image.fromarray(data.astronaut())
    middle, corner = cut_faces("a", image, np.array([[200.0, 100, 230, 120], [0, 0, 10, 20]]))
    assert middle.pixels.shape == (60, 60, 3)
    assert np.array_equal(middle.pixels, data.astronaut()[80:140, 185:245])
    assert np.array_equal(corner.pixels, data.astronaut()[:40, :40])
    (whole,) = cut_faces("b", image.crop((0, 0, 90, 60)), None)
    assert np.array_equal(whole.pixels, data.astronaut()[:60, 15:75])
    (huge,) = cut_faces("c", image, np.array([[0.0, 0, 500, 500]]))
    assert huge.pixels.shape == (512, 512, 3)


def test_blurred_dark_and_small_faces_are_hard():
    face = Image.fromarray(data.astronaut()[60:160, 180:280])
    blurred, pixels = np.asarray(face.filter(ImageFilter.GaussianBlur(3))), np.asarray(face)
    assert blur(blurred) > blur(pixels) and blur(pixels // 3) < blur(blurred)  # darkness is not blur
    arm = np.linspace(150, 230, 100)[:, None, None] + np.random.default_rng(0).normal(0, 3, (100, 100, 1))
    assert blur(arm.repeat(3, axis=2).astype(np.uint8)) < blur(pixels), "smooth skin is no blurred face"
    framed = pixels.copy()
    framed[:, :20] = framed[:, 80:] = framed[:20] = framed[80:] = 255
    assert blur(framed) == pytest.approx(blur(pixels)), "what lies around the face does not count"
    assert bad_light(pixels // 4) > bad_light(pixels) < bad_light(255 - (255 - pixels) // 8)
    assert HARDNESS["size"](pixels[:20, :20]) > HARDNESS["size"](pixels)
    assert all(np.isfinite(one(pixels[:2, :2])) for one in HARDNESS.values())


def test_rows_have_the_figures_columns():
    (face,) = cut_faces("a", Image.fromarray(data.astronaut()[:80, :80]), None)
    row = shrunk_row(face, 8, {"lite": Twice()})
    assert list(row) == ["LR", "bilinear", "lite G1", "lite G2", "HR"]
    assert [one.shape[0] for one in row.values()] == [8, 32, 32, 32, 32]
    row = hard_row(face, {"": Twice()})
    assert list(row) == ["LR", "bilinear", "G1", "G2"] and row["G2"].shape == (320, 320, 3)


def test_failures_are_missed_faces_and_boxes_on_none():
    truth = GroundTruth(
        np.array([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]), np.array([False, False, True])
    )  # the last is ignored
    found = Detections(
        np.array([[0.0, 0, 10, 9], [0, 0, 10, 10], [40, 0, 50, 10], [60, 0, 70, 10]]), np.array([0.6, 0.9, 0.8, 0.7])
    )
    judged = compare(found, truth)
    assert judged.wrong.tolist() == [True, False, False, True] and judged.missed.tolist() == [False, True, False]
    none = compare(Detections.empty(), truth)
    assert none.missed.tolist() == [True, True, False] and not len(none.wrong)
    assert most_failures({"a": none, "b": judged, "c": none}, 2) == ["b", "a"]


def test_true_faces_are_green_and_ours_red_with_the_failures_below():
    image = Image.new("RGB", (512, 300))
    truth = GroundTruth(np.array([[20.0, 20, 60, 60], [200, 100, 240, 150]]), np.zeros(2, bool))
    found = Detections(np.array([[300.0, 200, 330, 230]]), np.array([0.9]))
    picture = found_picture("a.jpg", image, found, truth)
    photo, below = picture[28 : 28 + 600], picture[28 + 600 :]
    assert picture.shape[1] == 1024 and len(below) == 2 * (96 + 28 + 6)

    def count(pixels, colour):
        return int((pixels == colour).all(axis=2).sum())

    assert count(photo[38:124, 36:124], (50, 225, 80)) > 300 and count(photo[396:464, 596:664], (240, 45, 45)) > 200
    assert count(photo, (240, 45, 45)) == count(photo[396:464, 596:664], (240, 45, 45))
    clean = found_picture("a.jpg", image, Detections(truth.boxes, np.ones(2)), truth)
    assert clean.shape == (628, 1024, 3)  # no failures


@pytest.mark.parametrize("size", [(3000, 400), (200, 900)])
def test_any_shape_of_picture_is_drawn_at_one_width(size):
    truth = GroundTruth(np.array([[1.0, 1, 9, 9]]), np.zeros(1, bool))
    assert found_picture("a", Image.new("RGB", size), Detections.empty(), truth).shape[1] == 1024
