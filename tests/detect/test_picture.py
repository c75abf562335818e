import numpy as np
import pytest

from tinygan.detect.picture import COLOURS, DROPPED, OUTCOMES, Tile, detection_picture, mark_faces
from tinygan.detections import Detections

GREY = np.full((700, 900, 3), 128, np.uint8)
BOXES = np.array(
    [[50.0, 50, 60, 62], [200, 80, 212, 95], [400, 300, 480, 400], [600, 500, 620, 530], [99, 500, 129, 530]]
)
NONE = np.zeros((0, 4))
LR, SR = (200, 20, 60), (10, 90, 30)


def found(boxes=BOXES, outcomes=tuple(COLOURS)):
    return Detections(boxes, np.linspace(0.9, 0.4, len(boxes)), {"outcome": np.array(outcomes)[: len(boxes)]})


def colours_in(image):
    return {tuple(colour) for colour in image.reshape(-1, 3).tolist()}


def tiles(count):
    return [Tile(row, np.full((16, 16, 3), LR, np.uint8), np.full((64, 64, 3), SR, np.uint8)) for row in range(count)]


def test_each_outcome_has_its_colour_and_faces_stay_visible():
    drawn = mark_faces(GREY, found(), NONE)
    for box, colour in zip(BOXES.astype(int), COLOURS.values(), strict=True):
        x1, y1, x2, y2 = box
        assert (drawn[y1:y2, x1:x2] == 128).all() and (drawn[y1 - 1, x1:x2] == colour).all()
    assert DROPPED not in colours_in(drawn) and (GREY == 128).all()


def test_dropped_boxes_are_thinner():
    box = np.array([[300.0, 300, 340, 340]])
    dropped, kept = mark_faces(GREY, found(NONE), box), mark_faces(GREY, found(box), NONE)
    thin, thick = (dropped == DROPPED).all(axis=2).sum(), (kept == COLOURS["kept"]).all(axis=2).sum()
    assert 0 < thin < thick


def test_boxes_grow_with_the_picture():
    large = np.full((1400, 1800, 3), 128, np.uint8)
    small, big = (mark_faces(image, found(BOXES[:1]), NONE) for image in (GREY, large))
    assert (big == COLOURS["kept"]).all(axis=2).sum() > (small == COLOURS["kept"]).all(axis=2).sum()


def test_labels_cover_no_box_and_are_left_out_where_there_is_no_room():
    drawn = mark_faces(GREY, found(), NONE, {0: "1", 1: "2"})
    bare = mark_faces(GREY, found(), NONE)
    assert (drawn != bare).any()
    for x1, y1, x2, y2 in BOXES.astype(int):
        assert (drawn[y1 - 3 : y2 + 3, x1 - 3 : x2 + 3] == bare[y1 - 3 : y2 + 3, x1 - 3 : x2 + 3]).all()
    stacked = found(np.array([[100.0, 100, 140, 140], [100, 145, 140, 185]]))
    labelled = mark_faces(GREY, stacked, NONE, {1: "0.99"})
    assert (labelled[100:140, 100:140] == 128).all() and (labelled != mark_faces(GREY, stacked, NONE)).any()
    whole = found(np.array([[0.0, 0, 900, 700]]))
    assert (mark_faces(GREY, whole, NONE, {0: "1"}) == mark_faces(GREY, whole, NONE)).all()


def test_small_pictures_are_enlarged_and_boxes_with_them():
    tiny = np.full((64, 64, 3), 128, np.uint8)
    shown = detection_picture(tiny, found(np.array([[20.0, 20, 30, 30]])), NONE)
    assert shown.shape[1] == 640
    blue = (shown == COLOURS["kept"]).all(axis=2)
    columns = np.flatnonzero(blue[200:].any(axis=0))  # below the legend
    assert abs(columns.min() - 200) <= 4 and abs(columns.max() - 299) <= 4


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (5000, 300), (200, 100)])
def test_pictures_of_any_shape(size):
    shown = detection_picture(np.full((*size, 3), 128, np.uint8), found(NONE), NONE)
    assert shown.dtype == np.uint8 and shown.shape[1] >= 480 and shown.shape[0] <= 4096 + 200


def test_small_faces_stand_below_as_many_as_fit():
    plain = detection_picture(GREY, found(), NONE)
    two, four = (detection_picture(GREY, found(), NONE, tiles(count)) for count in (2, 4))
    assert two.shape[0] > plain.shape[0] and two.shape[1] == plain.shape[1] == 900
    for colour in (LR, SR):
        assert (four == colour).all(axis=2).sum() == 2 * (two == colour).all(axis=2).sum() > 0
    assert np.argwhere((four == LR).all(axis=2)).max(axis=0)[0] < np.argwhere((four == SR).all(axis=2)).min(axis=0)[0]
    narrow = np.full((700, 300, 3), 128, np.uint8)
    crowd = found(np.tile(BOXES[:1], (12, 1)), ("kept",) * 12)
    assert detection_picture(narrow, crowd, NONE, tiles(12)).shape[1] == 480


def test_the_legend_counts_outcomes():
    one, other = (detection_picture(GREY, found(BOXES[:1]), boxes)[:40] for boxes in (NONE, BOXES[1:]))
    assert (one != other).any()  # 0 dropped, 3 dropped
    assert {*(COLOURS[name] for name in OUTCOMES), DROPPED} <= colours_in(one)
    assert COLOURS["found"] not in colours_in(one)  # an outcome of the page alone, named where it is
    new = detection_picture(GREY, found(BOXES[:1], ("found",)), NONE)[:40]
    assert COLOURS["found"] in colours_in(new)


def test_what_is_no_image_is_an_error():
    with pytest.raises(ValueError, match=r"uint8 RGB image \[H, W, 3\]"):
        mark_faces(np.zeros((4, 4)), found(NONE), NONE)
