import numpy as np
import pytest
from scipy.special import expit, logit

from tinygan.errors import DataError
from tinygan.fusion import Fusion, FusionConfig, fit_fusion, fuse, impute_face_logits, map_scores
from tinygan.score_map import Evidence, ScoreMap

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


def test_fit_recovers_the_weights_that_made_the_labels():
    rng = np.random.default_rng(0)
    scores, faces, sides = rng.uniform(0.02, 0.98, 20000), rng.normal(0, 2, 20000), rng.uniform(8, 64, 20000)
    true = Fusion(detector=1.2, judge=0.6, size=0.3, detector_by_size=-0.2, judge_by_size=0.1, bias=-0.5)
    is_face = (rng.uniform(size=20000) < fuse("logit", true, scores, faces, sides)).astype(float)
    found = fit_fusion(logit(scores), faces, sides, is_face, FusionConfig(ridge=0.0))
    assert found.weights == pytest.approx(true.weights, abs=0.1)
    assert found.fitted and Fusion.from_facts(found.to_facts()) == found
    blind = fit_fusion(logit(scores), faces, sides, is_face, FusionConfig(use_size=False))
    assert blind.size == blind.detector_by_size == blind.judge_by_size == 0


def test_importance_counts_proposals_more_often():
    rng = np.random.default_rng(0)
    odds, faces, sides = rng.normal(0, 2, 200), rng.normal(0, 2, 200), rng.uniform(8, 64, 200)
    is_face = (rng.uniform(size=200) < 0.5).astype(float)
    twice = np.concatenate([np.arange(200), np.arange(100)])
    importance = np.where(np.arange(200) < 100, 2.0, 1.0)
    weighed = fit_fusion(odds, faces, sides, is_face, FusionConfig(), importance)
    repeated = fit_fusion(odds[twice], faces[twice], sides[twice], is_face[twice], FusionConfig())
    assert weighed.weights == pytest.approx(repeated.weights, abs=1e-3)


def test_map_brings_scores_to_the_scale_of_the_fit():
    doubled = ScoreMap(knots=(0.0, 1.0), values=(0.0, 2.0))
    fused = fuse("logit", Fusion(judge=0.0), SCORES, FACES, SIDES, doubled)
    assert fused == pytest.approx(expit(2 * logit(SCORES)))
    assert fuse("logit", Fusion(judge=0.0, usual_map=doubled), SCORES, FACES, SIDES) == pytest.approx(fused)
    evidence = Evidence(judge=1.0, judge_by_size=0.0, sizes=(0.0,), offsets=(0.0,))
    assert map_scores(Fusion(), SCORES, FACES, SIDES) is None
    assert map_scores(Fusion(evidence=evidence), SCORES, FACES, SIDES) is None  # too few
    found = map_scores(
        Fusion(evidence=evidence), np.linspace(0.01, 0.99, 600), np.linspace(-3, 3, 600), np.full(600, 16.0)
    )
    kept = Fusion(evidence=evidence, usual_map=doubled, fitted=True)
    assert found is not None and Fusion.from_facts(kept.to_facts()) == kept


def test_fit_without_both_classes_is_an_error():
    with pytest.raises(DataError, match="needs both faces and non-faces"):
        fit_fusion(SCORES, FACES, SIDES, np.ones(3), FusionConfig())


def test_imputed_logits_follow_the_judged_ones():
    judged = np.linspace(0.5, 0.95, 20)
    logits = 2 * logit(judged) - 3
    assert impute_face_logits(np.array([0.1]), judged, logits) == pytest.approx(2 * logit([0.1]) - 3)
    assert impute_face_logits(np.array([0.1]), judged[:3], logits[:3]) == pytest.approx(logit([0.1]))
    falling = impute_face_logits(np.array([0.01, 0.02]), judged, -logits)
    assert falling[0] == falling[1]  # never a reward for a lower score
