import numpy as np
import pytest

from tinygan.data.rois import (
    FACE,
    IGNORED,
    NON_FACE,
    RoiConfig,
    choose_rois,
    in_holdout,
    label_boxes,
    nearest_faces,
    shift_rois,
    split_holdout,
)
from tinygan.detections import Detections, GroundTruth

TRUTH = GroundTruth(
    np.array([[0, 0, 20, 20], [100, 100, 120, 120], [50, 50, 53, 53], [60, 0, 60, 10]]),
    np.array([False, True, False, False]),
)


def test_labels_follow_iou_by_hand():
    boxes = np.array(
        [
            [0, 0, 20, 20],  # IoU 1
            [0, 0, 20, 10],  # IoU 0.5 exactly: a face
            [0, 0, 20, 9],  # IoU 0.45, between the thresholds
            [0, 0, 20, 7],  # IoU 0.35: a non-face
            [200, 200, 220, 220],  # nothing near
            [100, 100, 120, 107],  # IoU 0.35 to an invalid face
            [100, 100, 120, 105],  # IoU 0.25 to an invalid face: a non-face
            [50, 50, 53, 53],  # a face too small to be a target
        ],
        dtype=float,
    )
    labels = label_boxes(boxes, TRUTH, RoiConfig())
    assert labels.tolist() == [FACE, FACE, IGNORED, NON_FACE, NON_FACE, IGNORED, NON_FACE, IGNORED]


def test_no_boxes_and_no_faces():
    assert len(label_boxes(np.zeros((0, 4)), TRUTH, RoiConfig())) == 0
    assert label_boxes(np.array([[0.0, 0, 5, 5]]), GroundTruth.empty(), RoiConfig()).tolist() == [NON_FACE]


def test_hardest_negatives_come_first_and_quota_holds():
    corners = np.arange(10)[:, None] * 30.0 + 300
    boxes = np.concatenate([corners, corners, corners + 20, corners + 20], axis=1)
    detections = Detections(boxes, np.linspace(0.1, 0.9, 10))
    config = RoiConfig(negatives_per_image=3, jitters_per_face=0, backgrounds_per_image=0)
    rois = choose_rois([detections], TRUTH, (900, 900), config, np.random.default_rng(0))
    assert (rois.labels == NON_FACE).all()
    assert rois.scores.tolist() == pytest.approx(np.linspace(0.1, 0.9, 10)[:-4:-1].tolist())


def test_negatives_scored_like_faces_are_left_out():
    boxes = np.array([[300.0, 0, 320, 20], [340, 0, 360, 20], [0, 0, 20, 20]])
    detections = Detections(boxes, np.array([0.95, 0.5, 0.99]))
    config = RoiConfig(unlabelled_score=0.9, jitters_per_face=0, backgrounds_per_image=0)
    rois = choose_rois([detections], TRUTH, (900, 900), config, np.random.default_rng(0))
    assert sorted(zip(rois.labels.tolist(), rois.scores.tolist(), strict=True)) == [(NON_FACE, 0.5), (FACE, 0.99)]


def test_by_default_no_negative_is_left_out():
    detections = Detections(np.array([[300.0, 0, 320, 20]]), np.array([1.0]))
    config = RoiConfig(jitters_per_face=0, backgrounds_per_image=0)
    assert choose_rois([detections], TRUTH, (900, 900), config, np.random.default_rng(0)).labels.tolist() == [NON_FACE]


def test_jitter_only_around_usable_faces_and_backgrounds_away_from_them():
    config = RoiConfig(jitters_per_face=20, backgrounds_per_image=20)
    rois = choose_rois([], TRUTH, (400, 300), config, np.random.default_rng(0))
    faces = rois.boxes[rois.labels == FACE]
    assert 5 < len(faces) <= 20 and faces.max() < 35
    assert np.array_equal(label_boxes(rois.boxes, TRUTH, config), rois.labels)
    assert (rois.labels == NON_FACE).sum() > 5


def test_holdout_is_fixed_by_name_and_about_the_share():
    names = [f"event/{number}.jpg" for number in range(2000)]
    training, holdout = split_holdout(names, 0.15)
    assert 0.12 < len(holdout) / 2000 < 0.18
    assert sorted(training + holdout) == sorted(names)
    assert all(in_holdout(name, 0.15) for name in holdout)
    assert split_holdout(names, 0.0)[1] == []


def test_thresholds_are_checked():
    with pytest.raises(ValueError, match="negative_iou <= positive_iou"):
        RoiConfig(negative_iou=0.6)
    with pytest.raises(ValueError, match="holdout must lie in"):
        RoiConfig(holdout=1.0)


def test_every_region_knows_the_face_it_overlaps_most():
    truth = GroundTruth(np.array([[0.0, 0, 20, 20], [15, 0, 35, 20]]), np.zeros(2, bool))
    boxes = np.array([[2.0, 0, 22, 20], [14, 0, 34, 20], [100, 100, 120, 120]])
    nearest = nearest_faces(boxes, truth, RoiConfig())
    assert nearest[:2].tolist() == truth.boxes.tolist() and np.isnan(nearest[2]).all()
    assert np.isnan(nearest_faces(boxes, GroundTruth.empty(), RoiConfig())).all()
    assert nearest_faces(np.array([[100.0, 100, 120, 120]]), TRUTH, RoiConfig()) == pytest.approx(np.nan, nan_ok=True)


def test_shifted_regions_are_labelled_anew():
    detections = Detections(np.repeat([[0.0, 0, 20, 20], [300, 300, 320, 320]], 100, axis=0), np.full(200, 0.5))
    config = RoiConfig(jitters_per_face=0, backgrounds_per_image=0, negatives_per_image=200)
    rng = np.random.default_rng(0)
    rois = choose_rois([detections], TRUTH, (400, 400), config, rng)
    assert len(rois.boxes) == 200
    shifted = shift_rois(rois, TRUTH, config, 0.3, rng)
    assert 50 < len(shifted.boxes) <= 100  # those on background stay as they are
    assert {FACE, NON_FACE} == set(shifted.labels.tolist())
    assert np.array_equal(shifted.labels, label_boxes(shifted.boxes, TRUTH, config))


def test_regions_beyond_the_quota_of_an_image_are_drawn_at_random():
    corners = np.arange(40)[:, None] * 30.0 + 300
    detections = Detections(np.concatenate([corners, corners, corners + 20, corners + 20], axis=1), np.full(40, 0.5))
    few, all_of_them = (
        choose_rois([detections], TRUTH, (2000, 2000), RoiConfig(regions_per_image=count), np.random.default_rng(0))
        for count in (15, None)
    )
    assert len(few.boxes) == len(few.labels) == len(few.scores) == len(few.targets) == 15 < len(all_of_them.boxes)
    whole = {tuple(box) for box in all_of_them.boxes}
    assert all(tuple(box) in whole for box in few.boxes)
    with pytest.raises(ValueError, match="regions_per_image must be at least 1"):
        RoiConfig(regions_per_image=0)
