import numpy as np
import pytest
from scipy.special import expit, logit

from tinygan.errors import ConfigError
from tinygan.second_stage.calibration import Calibration, RankCurve, ScoreMap
from tinygan.second_stage.fusion import (
    Fusion,
    FusionConfig,
    best_of_face,
    calibrate,
    fuse,
    impute_face_logits,
    move_boxes,
    same_face,
    search_weights,
)

SCORES = np.array([0.9, 0.5, 0.02])
FACES = np.array([-1.0, 0.0, 3.0])
SIDES = np.array([32.0, 16.0, 8.0])


def test_three_methods_by_hand():
    assert fuse("replace", Fusion(), SCORES, FACES, SIDES) == pytest.approx(expit(FACES))
    assert fuse("product", Fusion(), SCORES, FACES, SIDES) == pytest.approx(SCORES * expit(FACES))
    weights = Fusion(detector=2.0, judge=0.5, size=0.1, bias=-1.0)
    expected = expit(2 * logit(SCORES) + 0.5 * FACES + 0.1 * np.array([1.0, 0.0, -1.0]) - 1)
    assert fuse("logit", weights, SCORES, FACES, SIDES) == pytest.approx(expected)


def test_weight_zero_gives_back_the_scores_exactly():
    scores = np.array([1.0, 0.9999999, 1e-9, 0.3])
    same = fuse("logit", Fusion(judge=0.0), scores, np.zeros(4), np.ones(4))
    assert np.array_equal(same, scores) and same is not scores


def test_weight_zero_with_fitted_detector_weight_keeps_the_rank():
    scores = np.linspace(0.001, 0.999, 50)
    fused = fuse("logit", Fusion(detector=0.7, judge=0.0, bias=2.0), scores, np.zeros(50), np.ones(50))
    assert (np.diff(fused) > 0).all()


def test_view_brings_scores_to_one_scale_and_only_surprise_counts():
    doubled = ScoreMap(knots=(-20.0, 20.0), values=(-40.0, 40.0))
    calibration = Calibration(score_map=doubled, expected=(0.5, 0.0, 1.0, 0.0, 0.0, 0.0))
    fused = fuse("logit", Fusion(judge=0.5), SCORES, FACES, SIDES, calibration)
    size = np.array([1.0, 0.0, -1.0])
    assert fused == pytest.approx(expit(2 * logit(SCORES) + 0.5 * (FACES - 0.5 - size)))
    assert fuse("logit", Fusion(judge=0.5, usual_calibration=calibration), SCORES, FACES, SIDES) == pytest.approx(fused)


def test_judge_fades_with_size_but_never_turns_against_itself():
    fading = Fusion(judge=0.5, judge_by_size=-0.5)
    fused = fuse("logit", fading, np.full(3, 0.5), np.ones(3), np.array([8.0, 16.0, 64.0]))
    assert logit(fused) == pytest.approx([1.0, 0.5, 0.0])


def test_judge_counts_half_where_the_detector_is_this_sure():
    fused = fuse("logit", Fusion(judge=1.0, sure=2.0), expit(np.array([-2.0, 2.0])), np.ones(2), np.full(2, 16.0))
    assert logit(fused) == pytest.approx([-1.0, 2.5])
    with pytest.raises(ValueError, match="sure must be above 0"):
        Fusion(sure=0.0)


def test_search_finds_the_best_of_the_values():
    def quality(trial: Fusion) -> float:
        return -((trial.judge - 0.75) ** 2) - (trial.judge_by_size + 0.2) ** 2 - (trial.size - 0.1) ** 2

    found = search_weights(quality, Fusion(judge=0.0), FusionConfig())
    assert (found.judge, found.judge_by_size, found.size) == (0.75, -0.2, 0.1)
    assert search_weights(lambda trial: 0.0, Fusion(judge=0.5), FusionConfig()).judge == 0.5  # ties change nothing


def test_calibration_keeps_ranks_and_says_shares():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, 20000)
    is_face = (rng.uniform(size=20000) < expit(0.5 * logits - 1)).astype(float)
    found = calibrate(Fusion(judge=0.8, judge_by_size=-0.2, size=0.4), logits, is_face)
    assert (found.detector, found.bias) == pytest.approx((0.5, -1.0), abs=0.05)
    assert (found.judge, found.judge_by_size, found.size) == pytest.approx((0.4, -0.1, 0.2), abs=0.05)


def test_facts_come_back_and_those_of_an_earlier_version_too(caplog):
    usual = Calibration(score_map=ScoreMap(knots=(-20.0, 20.0), values=(-40.0, 40.0)))
    kept = Fusion(curve=RankCurve(knots=(-1.0, 1.0), values=(-2.0, 2.0)), usual_calibration=usual, fitted=True)
    assert Fusion.from_facts(kept.to_facts()) == kept and not caplog.text
    facts = kept.to_facts()
    del facts["curve"]
    earlier = {**facts, "usual_view": facts.pop("usual_calibration"), "evidence": {"judge": 1.0}}
    assert Fusion.from_facts(earlier) == Fusion(usual_calibration=usual, fitted=True)
    assert "fit stage fusion again" in caplog.text


def test_imputed_logits_follow_the_judged_ones():
    judged, some = np.linspace(0.5, 0.95, 20), np.array([16.0])
    logits = 2 * logit(judged) - 3
    assert impute_face_logits(np.array([0.1]), some, judged, logits) == pytest.approx(2 * logit([0.1]) - 3)
    assert impute_face_logits(np.array([0.1]), some, judged[:3], logits[:3]) == pytest.approx(logit([0.1]))
    falling = impute_face_logits(np.array([0.01, 0.02]), np.full(2, 16.0), judged, -logits)
    assert falling[0] == falling[1]  # never a reward for a lower score


def test_with_a_calibration_unjudged_boxes_bring_no_surprise():
    calibration = Calibration(expected=(1.0, 0.5, 0.0, 0.0, 0.0, 0.0))
    imputed = impute_face_logits(SCORES, SIDES, SCORES[:1], FACES[:1], calibration)
    assert imputed == pytest.approx(1 + 0.5 * logit(SCORES))
    assert fuse("logit", Fusion(judge=0.9), SCORES, imputed, SIDES, calibration) == pytest.approx(SCORES)


def test_facts_that_lack_a_key_are_an_error():
    with pytest.raises(ConfigError, match="missing 1 required"):
        Fusion.from_facts({"curve": {"knots": [1.0]}})


def test_large_boxes_move_less():
    boxes = np.array([[0.0, 0, 8, 8], [0, 0, 16, 16], [0, 0, 64, 64], [0, 0, 512, 512]])
    sides = boxes[:, 2:3]
    moved = move_boxes(Fusion(move=1.0, fade=0.25), boxes, boxes + sides)
    assert (moved - boxes)[:, 0] / sides[:, 0] == pytest.approx([1, 1, 0.5, 0])
    assert np.array_equal(move_boxes(Fusion(), boxes, boxes + sides), boxes)
    four_times = boxes + sides * np.array([-1.5, -1.5, 1.5, 1.5])
    larger = move_boxes(Fusion(resize=0.5), boxes, four_times)
    assert (larger[:, 2] - larger[:, 0]) / sides[:, 0] == pytest.approx([2, 2, 2, 2])


def test_boxes_on_either_side_of_a_face_are_one_by_the_face_that_the_judge_sees():
    boxes = np.array([[0.0, 0, 10, 10], [8, 0, 18, 10], [40, 0, 50, 10], [41, 0, 51, 10]])
    found = np.array([[4.0, 0, 14, 10], [5, 0, 15, 10], [np.nan] * 4, [np.nan] * 4])
    scores, sureness = np.array([0.6, 0.7, 0.2, 0.1]), np.array([0.9, 0.5, 0.3, 0.3])

    def stay(merge_iou, leads=None):
        stays = same_face(boxes, found, sureness, merge_iou, leads)
        positions = np.flatnonzero(stays == np.arange(4))
        return positions.tolist(), best_of_face(scores, stays)[positions].tolist()

    assert stay(0.5) == ([0, 2], [0.7, 0.2])  # the detector is surest of the first, its twin has the better score
    assert stay(None) == ([0, 1, 2, 3], scores.tolist())
    assert stay(0.5, np.array([True, True, False, False])) == ([0, 2, 3], [0.7, 0.2, 0.1])


@pytest.mark.parametrize("bad", [{"move": 1.5}, {"resize": -0.1}, {"merge_iou": 0.0}, {"looks": 0}])
def test_shares_of_the_way_are_checked(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Fusion(**bad)
