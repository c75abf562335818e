"""Fusion is fitted for average precision: a judge that knows helps, one that guesses is not listened to."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from tinygan.boxes import longer_side
from tinygan.data.rois import RoiConfig
from tinygan.detections import Detections, GroundTruth
from tinygan.errors import DataError
from tinygan.evaluate.truth import truth_by_height, truth_of_faces
from tinygan.evaluate.wider import evaluate_wider
from tinygan.second_stage.fusion import Fusion, FusionConfig, fuse
from tinygan.second_stage.judging import Judged
from tinygan.second_stage.rescoring import calibrate_detector, judged_columns
from tinygan.training.fusion import fitted_gains
from tinygan.training.fusion_fit import _Trials, calibration_of, fit_fusion, mean_log_error, rescored

TRUTHS: dict[str, GroundTruth] = {}


def judged_images(knows: float, seed: int, top: float = 1.0, count: int = 60) -> dict[str, Judged]:
    """Images of 8 faces and 16 non-faces; scores end at ``top``, and ``knows`` is how much the judge knows.

    Their faces are in ``TRUTHS``.
    """
    rng = np.random.default_rng(seed)
    images = {}
    for number in range(count):
        corners = np.stack(np.meshgrid(np.arange(6) * 100.0, np.arange(4) * 100.0), axis=-1).reshape(-1, 2)
        sides = rng.choice([10.0, 20.0, 40.0, 80.0], (24, 1))
        boxes = np.concatenate([corners, corners + sides], axis=1)
        is_face = np.arange(24) % 3 == 0
        scores = top * expit(rng.normal(np.where(is_face, 1.0, -1.0), 1.5))
        face_logits = rng.normal(np.where(is_face, knows, -knows), 1.0) + 2 * np.log2(sides[:, 0] / 16)
        name = f"{seed}/{number}"
        TRUTHS[name] = GroundTruth(boxes[is_face], np.zeros(is_face.sum(), bool))
        images[name] = Judged(name, Detections(boxes, scores), face_logits, np.full((24, 4), np.nan))
    return images


def gain(fusion: Fusion, judged: dict[str, Judged]) -> float:
    truth = truth_of_faces({name: TRUTHS[name] for name in judged})
    calibration = calibrate_detector(judged.values(), fusion)
    after = {
        name: Detections(one.proposals.boxes, fuse("logit", fusion, *judged_columns([one]), calibration))
        for name, one in judged.items()
    }
    before = {name: one.proposals for name, one in judged.items()}
    results = [evaluate_wider(detections, truth).subsets["all"].ap_exact for detections in (before, after)]
    return results[1] - results[0]


def test_a_judge_that_knows_helps_detectors_it_never_met():
    fusion = fit_fusion([judged_images(1.0, 0), judged_images(1.0, 1)], TRUTHS, RoiConfig(), FusionConfig())
    assert fusion.fitted and fusion.judge > 0.1
    assert gain(fusion, judged_images(1.0, 2)) > 0.05
    assert gain(fusion, judged_images(1.0, 3, top=0.6)) > 0.05  # scores on another scale


def test_a_judge_that_guesses_is_not_listened_to():
    fusion = fit_fusion([judged_images(0.0, 0)], TRUTHS, RoiConfig(), FusionConfig())
    assert abs(gain(fusion, judged_images(0.0, 2))) < 0.02


def test_final_scores_are_shares_of_faces():
    judged = judged_images(1.0, 0)
    fusion = fit_fusion([judged], TRUTHS, RoiConfig(), FusionConfig())
    scores, face_logits, sides = judged_columns(judged.values())
    fused = fuse("logit", fusion, scores, face_logits, sides, calibrate_detector(judged.values(), fusion))
    assert fused.mean() == pytest.approx(1 / 3, abs=0.01)


def test_one_class_alone_is_an_error():
    judged = judged_images(1.0, 0, count=2)
    none = dict.fromkeys(judged, GroundTruth.empty())
    with pytest.raises(DataError, match="needs both faces and non-faces.*got 0 faces in 48 proposals"):
        fit_fusion([judged], none, RoiConfig(), FusionConfig())


def loose(judged: dict[str, Judged], shift: float) -> dict[str, Judged]:
    """The same, every box drawn beside its face, and a judge that knows where the faces are."""
    moved = {}
    for name, one in judged.items():
        boxes = one.proposals.boxes
        side = (boxes[:, 2] - boxes[:, 0])[:, None]
        aside = boxes + shift * side * [1, 0, 1, 0]
        moved[name] = replace(one, proposals=Detections(aside, one.proposals.scores), boxes=boxes)
    return moved


def test_boxes_move_when_the_judge_knows_where_the_faces_are():
    judged = loose(judged_images(1.0, 0), 0.45)  # IoU 0.38
    fusion = fit_fusion([judged], TRUTHS, RoiConfig(), FusionConfig(looks=2))
    assert fusion.move >= 0.5 and fusion.looks == 2
    truth = truth_of_faces({name: TRUTHS[name] for name in judged})
    after = rescored(judged, fusion, calibration_of(judged, fusion))
    assert evaluate_wider(after, truth).subsets["all"].ap_exact > 0.5
    before = {name: one.proposals for name, one in judged.items()}
    assert evaluate_wider(before, truth).subsets["all"].ap_exact < 0.05


def test_gains_are_told_by_height_and_iou():
    images = loose(judged_images(1.0, 0), 0.45)
    faces = np.concatenate([longer_side(TRUTHS[name].boxes) for name in images])
    config = FusionConfig(heights_px=(0.0, 0.0, faces.max() + 1))
    rows = fitted_gains({"mine": images}, TRUTHS, Fusion(move=1.0, resize=1.0, merge_iou=0.5, fitted=True), config)[
        "mine"
    ]
    assert rows.keys() == {"0 px, IoU 0.5", "0 px, IoU 0.7"}  # no face is as high as the last
    assert rows["0 px, IoU 0.5"].before < 0.05 and rows["0 px, IoU 0.7"].after > 0.3


def test_boxes_stay_when_the_judge_only_guesses_where_faces_are():
    judged = {
        name: replace(one, boxes=one.proposals.boxes + 0.6 * longer_side(one.proposals.boxes)[:, None])
        for name, one in judged_images(1.0, 0).items()
    }
    assert fit_fusion([judged], TRUTHS, RoiConfig(), FusionConfig()).move == 0


def test_error_counts_by_its_share():
    """Two points at 0.92 are a quarter of its error and weigh more than eight at 0.5, a sixth of its."""
    assert mean_log_error([0.94, 0.5]) < mean_log_error([0.92, 0.58]) < mean_log_error([0.92, 0.5])
    assert np.isfinite(mean_log_error([1.0, 0.0])) and mean_log_error([0.0]) == 0


def test_what_is_searched_is_what_a_user_gets():
    """The fast evaluation inside the search equals the protocol on what rescoring returns."""
    judged = loose(judged_images(1.0, 0, count=12), 0.3)
    config = FusionConfig(heights_px=(0.0, 24.0))
    basis = fit_fusion([judged], TRUTHS, RoiConfig(), config)
    truth = truth_by_height({name: TRUTHS[name] for name in judged}, config.heights_px)
    calibration = calibration_of(judged, basis)
    trials = _Trials(judged, TRUTHS, calibration, config)
    for changes in ({}, {"judge": 0.2}, {"move": 0.25, "merge_iou": 0.3}, {"merge_iou": None}):
        fusion = replace(basis, **changes)
        found = rescored(judged, fusion, calibration)
        results = [evaluate_wider(found, truth, iou_threshold=iou).subsets for iou in config.ious]
        expected = [result[subset].ap_exact for subset in truth.subsets for result in results]
        assert trials.average_precisions(fusion) == pytest.approx(expected, abs=1e-12)


def repeated(judged: dict[str, Judged], times: int) -> dict[str, Judged]:
    """Every proposal so many times, the further ones a little aside and of low scores; the judge sees through it."""
    made = {}
    for name, one in judged.items():
        boxes, scores, logits = [one.proposals.boxes], [one.proposals.scores], [one.face_logits]
        for at in range(1, times):
            side = longer_side(one.proposals.boxes)[:, None]
            boxes.append(one.proposals.boxes + 0.03 * at * side)
            scores.append(0.02 + 0.03 * one.proposals.scores)
            logits.append(one.face_logits)
        every = Detections(np.concatenate(boxes), np.concatenate(scores))
        order = np.argsort(-every.scores, kind="stable")
        found = np.tile(one.proposals.boxes, (times, 1))[order]
        made[name] = Judged(name, every[order], np.concatenate(logits)[order], found)
    return made


def test_a_detector_that_repeats_every_face_is_read_as_if_it_did_not():
    fusion = fit_fusion([judged_images(1.0, 0), judged_images(1.0, 1)], TRUTHS, RoiConfig(), FusionConfig())
    once = judged_images(1.0, 2)
    once = {name: replace(one, boxes=one.proposals.boxes) for name, one in once.items()}
    plain, flooded = (calibrate_detector(images.values(), fusion) for images in (once, repeated(once, 6)))
    scores = np.linspace(0.1, 0.95, 9)
    assert flooded.score_map.log_odds(scores) == pytest.approx(plain.score_map.log_odds(scores), abs=0.3)
