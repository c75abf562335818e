"""Both stages in one call."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tinygan
from tinygan.boxes import iou
from tinygan.checkpoint import load_checkpoint, packaged_weights, save_checkpoint
from tinygan.detect.detector import FaceDetector, fitted_fusion, outcomes
from tinygan.detections import Detections
from tinygan.errors import CheckpointError, DataError
from tinygan.proposers import DEFAULT, DEFAULT_ROIS, choose_proposer
from tinygan.runtime import RuntimeOptions
from tinygan.second_stage.fusion import Fusion

CPU = RuntimeOptions(device="cpu", precision="32", threads=1)
BOXES = np.array([[10.0, 10, 20, 22], [40, 30, 44, 36], [48, 30, 60, 42]])


class Fixed:
    """A first stage that finds the same boxes in every image."""

    def propose(self, images):
        landmarks = np.arange(30.0).reshape(3, 10)
        return [Detections(BOXES, np.array([0.9, 0.5, 0.1]), {"landmarks": landmarks}) for _ in images]


@pytest.fixture(scope="module")
def detector():
    """What ships, on one thread."""
    return FaceDetector.open(choose_proposer("retinaface"), options=CPU)


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


def best(found: Detections) -> Detections:
    assert len(found)
    return found[:1]


def test_a_tiny_face_is_found_without_a_setting(astronaut):
    picture, face = astronaut
    found = best(tinygan.FaceDetector().detect(picture))
    assert iou(found.boxes, face)[0, 0] >= 0.4 and found.scores[0] > 0.5
    assert set(found.fields) == {"proposal_box", "proposal_score", "face_logit", "outcome", "landmarks"}


def test_as_many_boxes_are_judged_as_by_the_command():
    by_default, opened = FaceDetector(), FaceDetector.open(choose_proposer(DEFAULT))
    assert by_default._second._config == opened._second._config
    assert by_default._second._config.max_rois == DEFAULT_ROIS


def test_building_and_detecting_leave_the_threads_alone(two_threads, astronaut):
    tinygan.FaceDetector().detect(astronaut[0])
    assert torch.get_num_threads() == two_threads


def test_boxes_refer_to_the_upright_picture(detector, astronaut, tmp_path):
    picture, face = astronaut
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn to the left
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    turned, plain = best(detector.detect(tmp_path / "turned.png")), best(detector.detect(picture))
    assert np.allclose(turned.boxes, plain.boxes) and iou(turned.boxes, face)[0, 0] >= 0.4


@pytest.mark.parametrize("kind", ["L", "RGBA", "I;16"])
def test_grey_transparent_and_deep_files(detector, astronaut, tmp_path, kind):
    picture, face = astronaut
    if kind == "I;16":
        deep = np.asarray(picture.convert("L")).astype(np.uint16) * 257
        Image.fromarray(deep).save(tmp_path / "a.png")
    else:
        picture.convert(kind).save(tmp_path / "a.png")
    assert iou(best(detector.detect(str(tmp_path / "a.png"))).boxes, face)[0, 0] >= 0.4


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 2)])
def test_images_of_hardly_a_pixel(detector, size):
    found = detector.detect(np.full((*size, 3), 90, np.uint8), min_score=0.0)
    assert (found.boxes >= 0).all() and (found.boxes <= [size[1], size[0], size[1], size[0]]).all()


def test_no_face_gives_no_box(detector):
    found = detector.detect(np.full((64, 80, 3), 128, np.uint8))
    assert len(found) == 0 and "outcome" in found.fields


def test_columns_pass_and_boxes_are_moved_cut_and_sorted(finding_checkpoint, picture):
    second = tinygan.SecondStage(finding_checkpoint, device="cpu")
    found = FaceDetector(Fixed(), second).detect(picture, min_score=0.0)
    assert len(found) == 3 and (np.diff(found.scores) <= 0).all()
    rows = [int(mark[0]) // 10 for mark in found.fields["landmarks"]]
    assert np.array_equal(found.fields["proposal_box"], BOXES[rows])
    assert (found.boxes[:, 1] > BOXES[rows, 1] + 1).all()  # below, where this judge sees every face
    assert found.boxes[:, 3].max() <= 48 and found.boxes[rows.index(2), 3] == 48  # was moved beyond the border


def test_the_least_score_leaves_out_boxes(checkpoint, picture):
    detector = FaceDetector(Fixed(), tinygan.SecondStage(checkpoint, device="cpu"))
    every = detector.detect(picture, min_score=0.0)
    middle = float(every.scores[1])
    assert np.array_equal(detector.detect(picture, min_score=middle).scores, every.scores[:2])
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(DataError, match=r"min_score lies in \[0, 1\]"):
            detector.detect(picture, min_score=wrong)


def test_outcomes_by_hand():
    moved, near = [0.0, 3, 10, 13], [0.0, 1, 10, 11]  # IoU 0.54 and 0.82 with the box
    box = [0.0, 0, 10, 10]
    fields = {
        "proposal_score": np.array([0.5, 0.5, 0.5, 0.5, 0.9]),
        "proposal_box": np.array([moved, moved, moved, near, box]),
    }
    found = Detections(np.array([box] * 5), np.array([0.61, 0.39, 0.59, 0.5, 0.9]), fields)
    assert outcomes(found).tolist() == ["raised", "lowered", "moved", "kept", "kept"]
    assert outcomes(found[:0]).shape == (0,)


def with_fusion(path: Path, fusion: Fusion) -> Path:
    shipped = load_checkpoint(packaged_weights("retinaface_mobilenet025"), ("proposer",))
    save_checkpoint(path, replace(shipped, fusion=fusion.to_facts()))
    return path


def test_the_fusion_of_the_first_stage_is_used_with_lite_alone(astronaut, checkpoint, tmp_path):
    picture, _ = astronaut
    as_it_is = Fusion(judge=0.0, fitted=True)
    chosen = choose_proposer("retinaface", with_fusion(tmp_path / "first.safetensors", as_it_is))
    assert fitted_fusion(chosen.weights) == as_it_is and fitted_fusion(None) is None
    for name in ("lite", packaged_weights("lite")):
        found = FaceDetector.open(chosen, name, options=CPU).detect(picture, 0.0)
        assert np.array_equal(found.scores, found.fields["proposal_score"]) and set(found.fields["outcome"]) == {"kept"}
    other = FaceDetector.open(chosen, checkpoint, options=CPU).detect(picture, 0.0)
    assert not np.allclose(other.scores, other.fields["proposal_score"])


def test_boxes_may_be_left_where_they_are(astronaut, finding_checkpoint):
    chosen = choose_proposer("retinaface")
    found = FaceDetector.open(chosen, finding_checkpoint, move_boxes=False, options=CPU).detect(astronaut[0], 0.0)
    assert len(found) and np.allclose(found.boxes, found.fields["proposal_box"])


def test_small_faces_alone_are_enlarged_by_what_is_made_to_be_looked_at(checkpoint, picture):
    detector = FaceDetector(Fixed(), tinygan.SecondStage(checkpoint, device="cpu"), device="cpu")
    boxes = np.array([[5.0, 5, 38, 30], [40, 30, 44, 36], [10, 10, 15, 15], [2, 2, 6, 6]])
    faces = Detections(boxes, np.array([0.9, 0.8, 0.7, 0.6]))
    assert detector.enlarge(picture, faces[:1]) == [] and "_resolver" not in vars(detector), "loaded when needed"
    first, second = detector.enlarge(picture, faces, most=2)
    assert (first.row, second.row) == (1, 2)
    assert first.lr.shape == (12, 12, 3) and second.lr.shape == (10, 10, 3), "twice the face, at its own resolution"
    assert np.array_equal(first.refined, np.asarray(tinygan.SuperResolver(device="cpu").upscale(first.lr)))


def test_absent_weights_and_images_are_named(detector, tmp_path):
    with pytest.raises(DataError, match="no such image"):
        detector.detect(tmp_path / "absent.jpg")
    with pytest.raises(CheckpointError, match="no such file, folder or shipped checkpoint"):
        FaceDetector.open(choose_proposer("retinaface"), "nowhere", options=CPU)


def test_the_first_stage_alone_is_asked(astronaut, detector, picture):
    alone = detector.propose(astronaut[0])
    both = detector.detect(astronaut[0], min_score=0.0)
    assert (
        set(both.fields["proposal_score"].tolist()) <= set(alone.scores.tolist()) and (np.diff(alone.scores) <= 0).all()
    )
    fixed = FaceDetector(Fixed(), second_stage=detector._second).propose(picture)
    assert fixed.boxes.tolist() == BOXES.tolist() and fixed.scores.tolist() == [0.9, 0.5, 0.1]
