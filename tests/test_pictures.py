import numpy as np
import pytest
from PIL import Image

from tinygan.detections import Detections, GroundTruth
from tinygan.pictures import (
    FALSE,
    HIT,
    IGNORED,
    MISSED,
    UNJUDGED,
    before_after,
    draw_boxes,
    loss_curves,
    save_png,
    sr_sheet,
)

GREY = np.full((120, 160, 3), 128, dtype=np.uint8)
FACES = GroundTruth(np.array([[10, 10, 30, 30], [60, 10, 80, 30], [110, 10, 130, 30]]), np.array([False, False, True]))


def colours_in(image):
    return {tuple(colour) for colour in image.reshape(-1, 3).tolist()}


def panels(image):
    half = (image.shape[1] - 8) // 2
    return image[-120:, :half], image[-120:, half + 8 :]


def test_outlines_lie_outside_the_box_and_leave_the_image_alone():
    drawn = draw_boxes(GREY, np.array([[20.0, 20.0, 28.0, 28.0]]), (255, 0, 0), width_px=2)
    assert (drawn[20:28, 20:28] == 128).all()
    assert (drawn[18:20, 18:30] == (255, 0, 0)).all() and (drawn[28:30, 18:30] == (255, 0, 0)).all()
    assert (GREY == 128).all()


def test_each_box_has_its_colour_and_label():
    boxes = np.array([[20.0, 40.0, 40.0, 60.0], [80.0, 40.0, 100.0, 60.0]])
    plain = draw_boxes(GREY, boxes, [(255, 0, 0), (0, 0, 255)])
    labelled = draw_boxes(GREY, boxes, [(255, 0, 0), (0, 0, 255)], labels=["0.9", "0.1"])
    assert {(255, 0, 0), (0, 0, 255)} <= colours_in(plain)
    assert (plain != labelled).any()


@pytest.mark.parametrize("boxes", [np.zeros((0, 4)), np.array([[-50.0, -50.0, 400.0, 400.0], [5.0, 5.0, 5.0, 5.0]])])
def test_no_boxes_and_boxes_beyond_the_image(boxes):
    assert draw_boxes(GREY, boxes, HIT).shape == GREY.shape


def test_wrong_numbers_of_colours_labels_and_channels_are_errors():
    box = np.array([[1.0, 1.0, 5.0, 5.0]])
    with pytest.raises(ValueError, match="1 boxes but 2 colours"):
        draw_boxes(GREY, box, [HIT, FALSE])
    with pytest.raises(ValueError, match="1 boxes but 0 labels"):
        draw_boxes(GREY, box, HIT, labels=[])
    with pytest.raises(ValueError, match=r"uint8 RGB image \[H, W, 3\], got float64 \[4, 4\]"):
        draw_boxes(np.zeros((4, 4)), box, HIT)


def test_before_and_after_show_hits_false_and_missed_faces():
    boxes = np.array([[10, 10, 30, 30], [60, 70, 80, 90]])
    before = Detections(boxes, np.array([0.1, 0.9]))
    after = Detections(boxes, np.array([0.9, 0.1]))
    left, right = panels(before_after(GREY, before, after, FACES, top=1))
    assert FALSE in colours_in(left) and HIT not in colours_in(left)
    assert HIT in colours_in(right) and FALSE not in colours_in(right)
    assert {MISSED, IGNORED} <= colours_in(left) & colours_in(right)


def test_a_second_box_on_a_face_is_false_and_an_ignored_face_is_neither():
    twice = Detections(np.array([[10, 10, 30, 30], [11, 11, 31, 31]]), np.array([0.9, 0.8]))
    ignored = Detections(np.array([[110, 10, 130, 30]]), np.array([0.9]))
    left, right = panels(before_after(GREY, twice, ignored, FACES, top=5))
    assert {HIT, FALSE} <= colours_in(left)
    assert not {HIT, FALSE} & colours_in(right)


def test_without_truth_boxes_are_not_judged():
    found = Detections(np.array([[10, 10, 30, 30]]), np.array([0.9]))
    left, right = panels(before_after(GREY, found, Detections.empty(), None, top=5))
    assert UNJUDGED in colours_in(left) and UNJUDGED not in colours_in(right)
    assert not {HIT, FALSE, MISSED} & colours_in(left)


@pytest.mark.parametrize("truth", [None, GroundTruth.empty(), FACES])
def test_before_and_after_of_nothing(truth):
    image = before_after(GREY, Detections.empty(), Detections.empty(), truth, top=10)
    assert image.dtype == np.uint8 and image.shape[1:] == (2 * 160 + 8, 3)


def test_a_sheet_has_a_row_a_patch_and_a_tile_for_what_is_absent():
    lr, hr = np.zeros((4, 4, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    one = sr_sheet([{"LR": lr, "HR": hr}], tile_px=32)
    two = sr_sheet([{"LR": lr, "HR": hr}, {"LR": lr, "HR": None}], tile_px=32)
    labelled = sr_sheet([{"LR": lr, "HR": hr}], tile_px=32, labels=["paired"])
    assert two.shape[0] > one.shape[0] and two.shape[1] == one.shape[1]
    assert labelled.shape[1] > one.shape[1]
    assert two[-10, -10].tolist() == [225, 225, 225]


def test_lr_is_enlarged_in_blocks_and_the_rest_smoothly():
    checks = np.kron(np.indices((2, 2)).sum(axis=0) % 2, np.ones((1, 1)))[..., None].repeat(3, axis=2)
    patch = (checks * 255).astype(np.uint8)
    blocks, smooth = sr_sheet([{"LR": patch}], tile_px=32), sr_sheet([{"G1": patch}], tile_px=32)
    assert len(colours_in(smooth[-40:-8, 4:36])) > len(colours_in(blocks[-40:-8, 4:36])) == 2


def test_a_sheet_without_rows_says_so():
    assert sr_sheet([]).ndim == 3
    with pytest.raises(ValueError, match="0 rows but 1 labels"):
        sr_sheet([], labels=["paired"])


ROWS = [{"step": step, "pixel": 1 / (1 + step)} | ({"psnr": 20.0} if step % 50 == 49 else {}) for step in range(200)]


@pytest.mark.parametrize(
    "metrics", [[], ROWS[:1], ROWS, [{"step": 0, "epoch": 0}]], ids=["none", "one", "many", "bare"]
)
def test_loss_curves_are_written(metrics, tmp_path):
    path = tmp_path / "new" / "curves.png"
    loss_curves(metrics, path)
    with Image.open(path) as image:
        assert image.width > 100
    assert [file.name for file in path.parent.iterdir()] == ["curves.png"]


def test_a_png_reads_back_equal(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    save_png(picture[:, ::-1], tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        assert (np.asarray(image) == picture[:, ::-1]).all()
