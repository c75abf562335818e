"""How many proposals are judged, and what becomes of those that are not."""

from dataclasses import replace

import numpy as np
import pytest

from tinygan.detections import Detections
from tinygan.second_stage.calibration import Calibration, RankCurve, ScoreMap
from tinygan.second_stage.fusion import Fusion
from tinygan.second_stage.judging import Judged
from tinygan.second_stage.rescoring import (
    RescoreConfig,
    calibrate_detector,
    one_per_face,
    refine_calibration,
    rescore_judged,
)

CORNERS = np.arange(4)[:, None] * 100.0 * [1, 0, 1, 0]
PROPOSALS = Detections(CORNERS + np.array([0.0, 0, 20, 20]), np.array([0.9, 0.5, 0.2, 0.05]))


def test_a_budget_is_the_least_of_its_limits():
    assert RescoreConfig().count_judged(PROPOSALS, None) == 4
    assert RescoreConfig(max_rois=3).count_judged(PROPOSALS, None) == 3
    assert RescoreConfig(min_score=0.2).count_judged(PROPOSALS, None) == 3
    config = RescoreConfig(least_log_odds=-1.0)
    assert config.count_judged(PROPOSALS, None) == 4  # nothing is known of this detector yet
    assert config.count_judged(PROPOSALS, Calibration()) == 2
    flood = Calibration(score_map=ScoreMap(knots=(-1.0, 1.0), values=(-6.0, 6.0)))
    assert config.count_judged(PROPOSALS, flood) == 2
    with pytest.raises(ValueError, match="min_score must lie in"):
        RescoreConfig(min_score=7.0)


def test_unjudged_boxes_stay_where_they_are_and_keep_their_score():
    found = PROPOSALS.boxes + 5.0
    judged = Judged("a", PROPOSALS, np.array([3.0, -3.0, 3.0, 3.0]), found)
    config = RescoreConfig(fusion=Fusion(judge=0.5, move=1.0, merge_iou=0.5))
    calibration = Calibration(expected=(0.5, 0.0, 0.0, 0.0, 0.0, 0.0))
    whole, part = (rescore_judged([one], config, calibration)[0] for one in (judged, judged.first(2)))
    assert whole.boxes == pytest.approx(found)
    assert part.boxes == pytest.approx(np.concatenate([found[:2], PROPOSALS.boxes[2:]]))
    assert part.scores[:2] == pytest.approx(whole.scores[:2])
    assert part.scores[2:] == pytest.approx(PROPOSALS.scores[2:])


def test_of_proposals_of_one_face_a_calibration_sees_the_surest():
    found = np.concatenate([PROPOSALS.boxes[:1]] * 3 + [PROPOSALS.boxes[3:]])
    left = one_per_face(Judged("a", PROPOSALS, np.arange(4.0), found))
    assert left.proposals.scores.tolist() == [0.9, 0.05] and left.face_logits.tolist() == [0.0, 3.0]


def crowd(number: int) -> Judged:
    """Forty proposals far from each other, of which one in eight is a face."""
    rng = np.random.default_rng(number)
    is_face = rng.random(40) < 0.125
    odds = np.where(is_face, 1.0, -3.0) + rng.normal(0, 1.5, 40)
    boxes = np.arange(40)[:, None] * 50.0 + np.array([0.0, 0, 20, 20])
    sorted_by_score = np.argsort(-odds)
    logits = np.where(is_face, 3.0, -3.0) + rng.normal(0, 1, 40)
    proposals = Detections(boxes, 1 / (1 + np.exp(-odds)))[sorted_by_score]
    return Judged(str(number), proposals, logits[sorted_by_score], proposals.boxes)


def test_proposals_that_are_hardly_faces_need_not_be_judged_in_all_images_for_a_calibration():
    images = [crowd(number) for number in range(200)]
    curve = RankCurve(knots=(-4.0, -2.0, 0.0, 2.0), values=(-9.0, -5.0, 0.0, 3.0))
    config = RescoreConfig(fusion=Fusion(curve=curve), least_log_odds=-3.0)
    expected = calibrate_detector(images, config.fusion)
    rough = calibrate_detector(images[::8], config.fusion)
    others = [one for number, one in enumerate(images) if number % 8]
    partly = [one.first(config.count_judged(one.proposals, rough)) for one in others]
    judged = sum(len(one.best) for one in partly)
    assert judged < 0.6 * sum(len(one.best) for one in others)
    scores = np.linspace(0.001, 0.999, 200)
    unread = Judged("unread", images[0].proposals, np.zeros(0), np.zeros((0, 4)), "unread: damaged")
    found = refine_calibration(rough, [*images[::8], unread], [*partly, unread], config)
    wrong = calibrate_detector([*images[::8], *partly], config.fusion)  # as if nobody stood for those left out
    for part in (
        lambda one: one.score_map.log_odds(scores),
        lambda one: one.expected_logits(np.linspace(-6, 3, 50), np.zeros(50)),
    ):
        error, of_wrong, of_rough = (np.abs(part(one) - part(expected)).mean() for one in (found, wrong, rough))
        assert error < 0.5 * of_rough and error < 0.5 * of_wrong
    everything = replace(config, least_log_odds=None)
    same = refine_calibration(rough, images[::8], others, everything)
    assert same.score_map.log_odds(scores) == pytest.approx(expected.score_map.log_odds(scores))
    assert refine_calibration(rough, images, [], replace(config, fusion=Fusion())) is None


def test_images_are_rescored_together_as_one_by_one():
    rng = np.random.default_rng(0)
    found = PROPOSALS.boxes + rng.normal(0, 2, (3, 4, 4))
    several = [Judged(str(n), PROPOSALS, rng.normal(0, 2, 4), found[n]) for n in range(3)]
    config = RescoreConfig(fusion=Fusion(judge=0.5, move=0.5, merge_iou=0.5))
    for one, together in zip(several, rescore_judged(several, config), strict=True):
        alone = rescore_judged([one], config)[0]
        assert np.array_equal(alone.boxes, together.boxes) and np.array_equal(alone.scores, together.scores)
    assert rescore_judged([], config) == []
