"""How many proposals are judged, and what becomes of those that are not."""

import numpy as np
import pytest

from tinygan.detections import Detections
from tinygan.second_stage.calibration import Calibration, ScoreMap
from tinygan.second_stage.fusion import Fusion
from tinygan.second_stage.judging import Judged
from tinygan.second_stage.rescoring import RescoreConfig, one_per_face, rescore_judged

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


def test_images_are_rescored_together_as_one_by_one():
    rng = np.random.default_rng(0)
    found = PROPOSALS.boxes + rng.normal(0, 2, (3, 4, 4))
    several = [Judged(str(n), PROPOSALS, rng.normal(0, 2, 4), found[n]) for n in range(3)]
    config = RescoreConfig(fusion=Fusion(judge=0.5, move=0.5, merge_iou=0.5))
    for one, together in zip(several, rescore_judged(several, config), strict=True):
        alone = rescore_judged([one], config)[0]
        assert np.array_equal(alone.boxes, together.boxes) and np.array_equal(alone.scores, together.scores)
    assert rescore_judged([], config) == []
