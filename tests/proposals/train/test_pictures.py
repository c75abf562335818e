import numpy as np
import pytest
import torch
from PIL import Image

from proposals.anchors import decode_boxes, decode_landmarks
from proposals.matching import FACE, MINED
from proposals.retinaface import RetinaFaceConfig
from proposals.train.pictures import (
    MEAN_RGB,
    Photograph,
    PictureSource,
    cut_picture,
    patch_side,
    photographs,
    place_patch,
    with_teachers,
)
from proposals.train.recipe import PictureConfig, ProposerRecipe, TeacherConfig
from tinygan.detections import Detections, GroundTruth
from tinygan.errors import DataError
from tinygan.formats.retinaface import LANDMARKS

STILL = {"mirror": 0.0, "colour": 0.0, "grey": 0.0, "smallest_scale": 1.0, "largest_scale": 1.0}
POINTS = np.array([[24.0, 24], [36, 24], [30, 30], [25, 36], [35, 36]])


def photo(path="none.png", boxes=((20.0, 20, 40, 40),), invalid=None):
    boxes = np.array(boxes, dtype=float).reshape(-1, 4)
    invalid = np.zeros(len(boxes), bool) if invalid is None else np.array(invalid)
    return Photograph(path, boxes, invalid, np.broadcast_to(POINTS, (len(boxes), 5, 2)))


def white_square(width=160, height=120):
    """White where the face is."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[20:40, 20:40] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "more",
    [{}, {"mirror": 1.0}, {"smallest_scale": 2.0, "largest_scale": 2.0}, {"smallest_scale": 0.5, "largest_scale": 0.5}],
)
def test_boxes_and_points_stay_on_what_they_mark(seed, more):
    config = PictureConfig(size=64, **{**STILL, "face_share": 1.0, **more})
    picture, faces = cut_picture(white_square(), photo(), config, np.random.default_rng(seed))
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert len(faces.boxes) == 1 and not faces.ignored.any()
    rows, columns = np.nonzero(picture.min(axis=2) > 128)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert faces.boxes[0].tolist() == pytest.approx(seen, abs=1.01)
    points = faces.landmarks[0].reshape(5, 2)
    assert points[0, 0] < points[1, 0] and points[3, 0] < points[4, 0]  # left stays left in the picture
    x1, y1, x2, y2 = faces.boxes[0].tolist()
    scale = config.smallest_scale
    if x1 > 0 and y1 > 0 and x2 < 64 and y2 < 64:  # whole: the points lie as they lay
        assert (points[0, 1] - y1).item() == pytest.approx(4 * scale, abs=1e-3)
        assert (points[2, 0] - x1).item() == pytest.approx(10 * scale, abs=1e-3)


def test_a_window_larger_than_the_photograph_is_filled_up():
    config = PictureConfig(size=64, **{**STILL, "smallest_scale": 0.25, "largest_scale": 0.25, "min_face_px": 1.0})
    picture, faces = cut_picture(white_square(), photo(), config, np.random.default_rng(0))
    assert len(faces.boxes) == 1
    assert (picture == np.array(MEAN_RGB)).all(axis=2).sum() == 64 * 64 - 40 * 30


def test_patches_by_hand():
    # 400 x 300 px enlarged 1.5 times: 600 x 450 px; a face of 20 px at 1024 px
    assert 20 * 1024 / patch_side((400, 300), 1.5, 1.0) == pytest.approx(45.51, abs=0.005)
    assert patch_side((400, 300), 1.5, 0.6) == pytest.approx(270)
    assert 20 * 1024 / patch_side((400, 300), 1.5, 0.6) == pytest.approx(75.85, abs=0.005)


def test_patches_lie_in_the_photograph_and_what_surrounds_it():
    rng = np.random.default_rng(0)
    found = [place_patch((400, 300), PictureConfig(), rng) for _ in range(2000)]
    corners, sides = np.array([corner for corner, _ in found]), np.array([side for _, side in found])
    assert sides.min() >= 150 and 590 < sides.max() <= 600
    assert (corners >= (-400, -300)).all() and (corners + sides[:, None] <= (800, 600)).all()
    assert corners.min() < -250 and (corners + sides[:, None]).max() > 650


@pytest.mark.parametrize("seed", range(12))
def test_faces_stay_on_what_they_mark_in_patches(seed):
    config = PictureConfig(size=64, mode="patches", mirror=0.0, colour=0.0, grey=0.0, min_face_px=1.0)
    picture, faces = cut_picture(white_square(), photo(), config, np.random.default_rng(seed))
    assert picture.shape == (64, 64, 3)
    rows, columns = np.nonzero(picture.min(axis=2) > 150)
    assert len(rows) == 0 or len(faces.boxes) == 1
    if len(faces.boxes):
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert faces.boxes[0].tolist() == pytest.approx(seen, abs=1.5)


def test_faces_cut_off_invalid_or_tiny_are_ignored():
    config = PictureConfig(size=32, **{**STILL, "face_share": 0.0}, min_face_px=6.0)
    boxes = [[10, 10, 20, 20], [10, 10, 14, 14], [28, 5, 60, 25], [100, 100, 110, 110], [0, 20, 10, 30]]
    _, faces = cut_picture(
        Image.new("RGB", (32, 32)), photo(boxes=boxes, invalid=[0, 0, 0, 0, 1]), config, np.random.default_rng(0)
    )
    assert faces.ignored.tolist() == [False, True, True, True]  # the fourth is not in the picture
    assert faces.boxes[2].tolist() == [28, 5, 32, 25]


@pytest.fixture
def source_of(tmp_path):
    def make(names=("a.png", "b.png"), **more):
        for name in names:
            white_square().save(tmp_path / name)
        recipe = ProposerRecipe(pictures=PictureConfig(size=64), **more)
        return lambda photos=None: PictureSource(photos or [photo(tmp_path / name) for name in names], recipe, 3)

    return make


def test_a_batch_is_a_function_of_seed_and_step(source_of):
    first, second = source_of()(), source_of()()
    for step in (4, 0):
        assert torch.equal(first.draw(step).pictures, second.draw(step).pictures)
    assert not torch.equal(first.draw(0).pictures, first.draw(1).pictures)
    assert not torch.equal(first.draw(0).pictures, source_of(seed=1)().draw(0).pictures)


def test_targets_decode_to_the_face(source_of):
    source = source_of()()
    batch, anchors = source.draw(0), RetinaFaceConfig().anchors_of_picture(64)
    assert batch.pictures.shape == (3, 3, 64, 64) and batch.targets.labels.shape == (3, len(anchors))
    rows = batch.targets.labels[0] == FACE
    assert rows.any()
    anchors = anchors[rows]
    boxes = decode_boxes(batch.targets.boxes[0][rows], anchors, (0.1, 0.2))
    points = decode_landmarks(batch.targets.landmarks[0][rows], anchors, (0.1, 0.2))
    assert torch.allclose(boxes, boxes[:1].expand_as(boxes), atol=1e-3)  # one face: all tell of the same
    assert torch.allclose(points, points[:1].expand_as(points), atol=1e-3)


def test_sizes_are_drawn_by_the_step(tmp_path):
    white_square().save(tmp_path / "a.png")
    recipe = ProposerRecipe(pictures=PictureConfig(sizes=(64, 96)))
    first, second = (PictureSource([photo(tmp_path / "a.png")], recipe, 1, rank) for rank in (0, 1))
    sizes = [first.draw(step).pictures.shape[-1] for step in range(12)]
    assert set(sizes) == {64, 96} and sizes == [second.draw(step).pictures.shape[-1] for step in range(12)]
    again = first.draw(3)
    assert torch.equal(again.pictures, first.draw(3).pictures)
    assert again.targets.labels.shape[1] == len(RetinaFaceConfig().anchors_of_picture(sizes[3]))


def test_every_photograph_comes_once_in_turn(tmp_path):
    shades = [0, 80, 160, 240]
    for shade in shades:
        Image.new("RGB", (64, 64), (shade,) * 3).save(tmp_path / f"{shade}.png")
    photos = [photo(tmp_path / f"{shade}.png", boxes=()) for shade in shades]
    recipe = ProposerRecipe(pictures=PictureConfig(size=32, **STILL))
    source = PictureSource(photos, recipe, 2)
    for turn in range(3):
        seen = torch.cat([source.draw(2 * turn + half).pictures for half in range(2)])
        assert sorted(int(picture.float().median()) for picture in seen) == shades


def test_an_unreadable_image_is_passed_over_and_remembered(source_of, tmp_path):
    make = source_of()
    (tmp_path / "broken.png").write_bytes(b"no image")
    source = make([photo(tmp_path / "broken.png"), photo(tmp_path / "a.png")])
    for step in range(4):
        source.draw(step)
    assert len(source.unreadable) == 1 and "broken.png" in next(iter(source.unreadable))
    with pytest.raises(DataError, match="cannot be read"):
        make([photo(tmp_path / "broken.png")]).draw(0)


def test_landmarks_are_those_of_the_same_box(tmp_path):
    boxes = np.array([[1.0, 2, 11, 12], [30, 30, 40, 40], [5, 5, 5, 9]])
    truth = GroundTruth(boxes, np.array([False, True, False]))
    labels = {"a.jpg": GroundTruth(boxes[1:2], np.zeros(1, bool), {LANDMARKS: POINTS[None]})}
    (found,) = photographs(tmp_path, {"a.jpg": truth}, ["a.jpg"], labels)
    assert found.boxes.tolist() == boxes[:2].tolist() and found.invalid.tolist() == [False, True]  # no area, no face
    assert np.isnan(found.landmarks[0]).all() and np.array_equal(found.landmarks[1], POINTS)


@pytest.mark.parametrize("mode", ["windows", "patches"])
@pytest.mark.parametrize("seed", range(4))
def test_pictures_around_a_hard_negative_show_it(mode, seed):
    mistaken = photo(boxes=((100.0, 60, 120, 80),))._replace(mined=np.array([[20.0, 20, 40, 40]]))  # the white square
    config = PictureConfig(size=64, mode=mode, **{**STILL, "mirror": seed % 2})
    picture, faces = cut_picture(white_square(), mistaken, config, np.random.default_rng(seed), around_mined=True)
    rows, columns = np.nonzero(picture.min(axis=2) > 150)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert faces.mined[0].tolist() == pytest.approx(seen, abs=1.5)


def test_a_share_of_the_pictures_lies_around_hard_negatives(tmp_path):
    for name in ("a.png", "b.png"):
        white_square().save(tmp_path / name)
    photos = [photo(tmp_path / "a.png"), photo(tmp_path / "b.png", ())._replace(mined=np.array([[20.0, 20, 40, 40]]))]
    still = PictureConfig(size=64, mined_share=1.0, **STILL)
    batch = PictureSource(photos, ProposerRecipe(pictures=still), 12).draw(0)
    assert all(len(faces.mined) == 1 and not len(faces.boxes) for faces in batch.faces)
    assert ((batch.targets.labels == MINED).sum(dim=1) > 0).all() and not (batch.targets.labels == FACE).any()
    quarter = ProposerRecipe(pictures=PictureConfig(size=64, **{**STILL, "face_share": 1.0}))
    source = PictureSource([photos[0]] * 9 + [photos[1]], quarter, 40)
    shares = [len(faces.mined) for step in range(5) for faces in source.draw(step).faces]
    assert 0.2 < np.mean(shares) < 0.45  # a quarter, and some of the tenth that has one


def test_faces_that_teachers_found_are_added():
    known = photo(boxes=[[20, 20, 40, 40]])
    boxes = [[21, 20, 41, 40], [60, 20, 80, 40], [61, 20, 81, 40], [100, 20, 110, 30], [5, 5, 9, 9], [50, 50, 50, 60]]
    found = Detections(np.array(boxes, dtype=float), np.array([0.99, 0.7, 0.95, 0.6, 0.2, 0.99]))
    config = TeacherConfig(face_score=0.9, ignored_score=0.5)
    added, untouched = with_teachers([known, known], [found, Detections.empty()], config)
    # The first is known, the second a worse box of the third's, the fifth too unsure, the last has no area.
    assert added.boxes.tolist() == [[20, 20, 40, 40], [61, 20, 81, 40], [100, 20, 110, 30]]
    assert added.invalid.tolist() == [False, False, True]
    assert np.isnan(added.landmarks[1:]).all() and np.array_equal(added.landmarks[0], POINTS)
    assert untouched.boxes.tolist() == known.boxes.tolist() and len(untouched.invalid) == 1
    (alone,) = with_teachers([photo(boxes=())], [found], config)
    assert len(alone.boxes) == 3
