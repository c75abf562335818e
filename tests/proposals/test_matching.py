import os
from pathlib import Path

import numpy as np
import pytest
import torch

from proposals.anchors import decode_boxes, decode_landmarks, pyramid_anchors
from proposals.matching import BACKGROUND, FACE, IGNORED, MINED, Faces, MatchingConfig, match_anchors

VARIANCES = (0.1, 0.2)
ANCHORS = torch.tensor([[5.0, 5, 10, 10], [15, 5, 10, 10], [45, 45, 10, 10], [85, 85, 30, 30], [95, 5, 10, 10]])


def faces(boxes, ignored=None, landmarks=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    ignored = torch.tensor([False] * len(boxes) if ignored is None else ignored, dtype=torch.bool)
    points = torch.full((len(boxes), 10), torch.nan) if landmarks is None else torch.tensor(landmarks)
    return Faces(boxes, ignored, points)


def match(found, **settings):
    return match_anchors(found, ANCHORS, VARIANCES, MatchingConfig(**settings))


def test_anchors_on_a_face_are_faces_and_decode_to_it():
    # IoU with the first anchor: 80 / 120 = 0.67; the second sees 20 of 180: 0.11
    targets = match(faces([[2, 0, 12, 10]]))
    assert targets.labels.tolist() == [FACE, BACKGROUND, BACKGROUND, BACKGROUND, BACKGROUND]
    assert decode_boxes(targets.boxes[:1], ANCHORS[:1], VARIANCES)[0].tolist() == pytest.approx(
        [2, 0, 12, 10], abs=1e-4
    )
    assert (targets.boxes[1:] == 0).all() and targets.landmarks.isnan().all()


def test_an_iou_between_the_thresholds_is_ignored():
    found = faces([[2, 0, 12, 10], [42, 40, 52, 50]])  # 0.67 each
    assert match(found, positive_iou=0.9, negative_iou=0.5, rescue_iou=0.8).labels[[0, 2]].tolist() == [IGNORED] * 2


def test_a_face_no_anchor_reaches_gets_its_best_one():
    # 5 x 5 px in an anchor of 10: IoU 0.25, below 0.35 and above 0.2
    targets = match(faces([[40, 40, 45, 45]]))
    assert targets.labels[2] == FACE
    assert decode_boxes(targets.boxes[2:3], ANCHORS[2:3], VARIANCES)[0].tolist() == pytest.approx([40, 40, 45, 45])
    # 4 x 4 px: IoU 0.16 is too little to learn from, yet no background
    assert match(faces([[40, 40, 44, 44]])).labels[2] == IGNORED


def test_two_faces_at_one_anchor_each_keep_their_own():
    # Both overlap the first anchor most; the second face's best anchor is the second.
    targets = match(faces([[0, 0, 10, 10], [9, 0, 19, 10]]))
    assert targets.labels[:2].tolist() == [FACE, FACE]
    assert decode_boxes(targets.boxes[1:2], ANCHORS[1:2], VARIANCES)[0].tolist() == pytest.approx(
        [9, 0, 19, 10], abs=1e-4
    )


def test_background_on_a_hard_negative_is_told_apart():
    # The face's own anchor stays a face; the third's IoU with a hard negative is 80 / 120, the last's 40 / 100.
    mined = torch.tensor([[0.0, 0, 10, 10], [42, 40, 52, 50], [90, 0, 94, 10]])
    found = faces([[2, 0, 12, 10]])._replace(mined=mined)
    assert match(found).labels.tolist() == [FACE, BACKGROUND, MINED, BACKGROUND, BACKGROUND]
    assert match(found, mined_iou=0.4).labels[4] == MINED and match(found, mined_iou=0.7).labels[2] == BACKGROUND
    assert match(faces([])._replace(mined=mined)).labels.tolist() == [MINED, BACKGROUND, MINED, BACKGROUND, BACKGROUND]


def test_ignored_faces_are_neither():
    targets = match(faces([[0, 0, 10, 10], [40, 40, 43, 43]], ignored=[True, True]))
    assert targets.labels.tolist() == [IGNORED, BACKGROUND, IGNORED, BACKGROUND, BACKGROUND]


def test_a_face_wins_over_an_ignored_one_beside_it():
    assert match(faces([[0, 0, 10, 10], [1, 0, 11, 10]], ignored=[False, True])).labels[0] == FACE


def test_no_face_is_all_background():
    assert (match(faces([])).labels == BACKGROUND).all()


def test_landmarks_decode_to_themselves():
    points = [[3.0, 3, 8, 3, 5, 5, 3, 8, 8, 8]]
    targets = match(faces([[1, 1, 10, 10]], landmarks=points))
    assert decode_landmarks(targets.landmarks[:1], ANCHORS[:1], VARIANCES)[0].tolist() == pytest.approx(
        points[0], abs=1e-4
    )


def test_blocks_of_faces_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    centre, half = rng.integers(0, 100, (50, 2)), rng.integers(1, 20, (50, 2))  # whole numbers: many equal IoU
    found = faces(np.concatenate([centre - half, centre + half], axis=1).tolist(), (rng.random(50) < 0.3).tolist())
    anchors = pyramid_anchors([(20, 20)], (8,), [(10, 20)])

    def match_in(block):
        monkeypatch.setattr("proposals.matching.BLOCK", block)
        return match_anchors(found, anchors, VARIANCES, MatchingConfig())

    at_once, in_blocks = match_in(50), match_in(3)
    assert {FACE, BACKGROUND, IGNORED} == set(at_once.labels.tolist())
    assert all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in zip(at_once, in_blocks, strict=True))


def peak_mb():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's record of peak memory")
def test_a_crowd_takes_little_memory():
    centre, corner = torch.rand(68_250, 2) * 640, torch.rand(500, 2) * 600
    crowd = Faces(torch.cat([corner, corner + 30], dim=1), torch.rand(500) < 0.2, torch.rand(500, 10))
    anchors = torch.cat([centre, torch.full((68_250, 2), 24.0)], dim=1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is in use now
    before = peak_mb()
    match_anchors(crowd, anchors, VARIANCES, MatchingConfig())
    assert peak_mb() - before < 300, "all 500 faces at once took 1.1 GB"


@pytest.mark.parametrize("settings", [{"positive_iou": 0.3, "negative_iou": 0.4}, {"rescue_iou": 0.0}])
def test_thresholds_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="iou"):
        MatchingConfig(**settings)
