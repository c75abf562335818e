import numpy as np
import pytest
from scipy.special import expit, logit

from tinygan.errors import DataError
from tinygan.fusion import Fusion, FusionConfig, fit_fusion, fuse, impute_face_logits, score_logit

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


def test_scores_are_clipped_and_logits_refused():
    assert score_logit(np.array([0.0, 1.0])) == pytest.approx([logit(1e-6), logit(1 - 1e-6)])
    with pytest.raises(DataError, match=r"must lie in \[0, 1\], got -2 to 5"):
        score_logit(np.array([-2.0, 5.0]))


def test_fit_recovers_the_weights_that_made_the_labels():
    rng = np.random.default_rng(0)
    scores, faces, sides = rng.uniform(0.02, 0.98, 20000), rng.normal(0, 2, 20000), rng.uniform(8, 64, 20000)
    true = Fusion(detector=1.2, judge=0.6, size=0.3, bias=-0.5)
    is_face = (rng.uniform(size=20000) < fuse("logit", true, scores, faces, sides)).astype(float)
    found = fit_fusion(scores, faces, sides, is_face, FusionConfig(ridge=0.0))
    assert (found.detector, found.judge, found.size, found.bias) == pytest.approx((1.2, 0.6, 0.3, -0.5), abs=0.1)
    assert found.fitted and Fusion.from_facts(found.to_facts()) == found
    assert fit_fusion(scores, faces, sides, is_face, FusionConfig(use_size=False)).size == 0


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
