import numpy as np
import pytest
from scipy.special import expit, logit

from tinygan.errors import DataError
from tinygan.second_stage.calibration import (
    IDENTITY,
    PLAIN,
    Calibration,
    Evidence,
    ScoreMap,
    certain,
    fit_calibration,
    fit_evidence,
    fit_score_map,
    score_logit,
    size_feature,
)


def proposals(count: int, shift: float, stretch: float, seed: int = 0):
    """Labels, honest log-odds, scores on a scale of their own, and face logits that know the label's class."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-1, 2, count)
    is_face = (rng.uniform(size=count) < expit(odds)).astype(float)
    scores = expit((odds - shift) / stretch)
    face_logits = rng.normal(np.where(is_face == 1, 1.0, -1.0), 1.0)  # log likelihood ratio is 2 c
    return is_face, odds, scores, face_logits


def test_map_is_straight_between_and_beyond_its_knots():
    drawn = ScoreMap(knots=(-2.0, 0.0, 2.0), values=(-1.0, 0.0, 4.0))
    assert drawn.log_odds(expit(np.array([-4.0, -1.0, 1.0, 3.0]))) == pytest.approx([-2.0, -0.5, 2.0, 6.0])
    assert IDENTITY.log_odds(np.array([0.1, 0.9])) == pytest.approx(logit([0.1, 0.9]))


def test_scores_are_clipped_and_logits_refused():
    assert score_logit(np.array([0.0, 1.0])) == pytest.approx([logit(1e-6), logit(1 - 1e-6)])
    with pytest.raises(DataError, match=r"must lie in \[0, 1\], got -2 to 5"):
        score_logit(np.array([-2.0, 5.0]))


def test_sizes_are_octaves_from_16_px():
    assert size_feature(np.array([16.0, 64.0, 0.0])) == pytest.approx([0.0, 2.0, -3.0])


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.0), (1.0, 2.5), (-1.0, 0.6), (0.0, 12.0)])
def test_map_of_an_unknown_detector_is_found_without_labels(shift, stretch):
    is_face, odds, scores, face_logits = proposals(20_000, shift, stretch)
    blind = fit_score_map(scores, 2 * face_logits)
    seeing = fit_score_map(scores, certain(is_face))
    usual = np.abs(odds + 1) < 4
    for found in (blind, seeing):
        assert found is not None
        assert np.abs(found.log_odds(scores) - odds)[usual].mean() < 0.15
        assert (np.diff(found.log_odds(np.linspace(0.001, 0.999, 500))) > 0).all()  # ranks are kept


def test_too_little_to_find_a_map_from():
    _, _, scores, face_logits = proposals(499, 0.0, 1.0)
    assert fit_score_map(scores, face_logits) is None
    assert fit_score_map(np.full(1000, 0.5), np.zeros(1000)) is None


def test_evidence_recovers_what_a_face_logit_is_worth():
    parts = [proposals(20_000, 0.0, 1.0, seed) for seed in (1, 2)]
    is_face = np.concatenate([part[0] for part in parts])
    face_logits = np.concatenate([part[3] for part in parts])
    size = np.random.default_rng(0).uniform(-1, 2, len(is_face))
    evidence = fit_evidence(face_logits, size, is_face, np.repeat([0, 1], 20_000))
    values = np.array([-1.0, 0.0, 1.0])
    assert evidence.log_ratio(values, np.zeros(3)) == pytest.approx(2 * values, abs=0.25)


def test_evidence_of_one_size_alone():
    is_face, _, _, face_logits = proposals(2000, 0.0, 1.0)
    evidence = fit_evidence(face_logits, np.zeros(2000), is_face, np.zeros(2000, int))
    assert len(evidence.sizes) == 1 and np.isfinite(evidence.log_ratio(face_logits, np.zeros(2000))).all()


def test_view_expects_what_scores_and_sizes_tell():
    rng = np.random.default_rng(0)
    _, _, scores, noise = proposals(5000, 0.0, 1.0)
    size = rng.uniform(-1, 3, 5000)
    evidence = Evidence(judge=1.0, judge_by_size=0.0, sizes=(0.0,), offsets=(0.0,))
    calibration = fit_calibration(scores, noise + 2 * size, size, evidence)
    assert calibration is not None
    surprise = noise + 2 * size - calibration.expected_logits(calibration.score_map.log_odds(scores), size)
    assert abs(surprise.mean()) < 1e-6  # nothing is lifted as a whole
    for part in (size < 0, size > 2, scores < 0.1, scores > 0.7):
        assert abs(surprise[part].mean()) < 0.15  # nor by size or by score
    assert np.corrcoef(surprise, noise)[0, 1] > 0.8


def test_plain_view_expects_nothing():
    assert Calibration() == PLAIN
    assert PLAIN.expected_logits(np.array([1.0, -2.0]), np.array([0.0, 1.0])).tolist() == [0.0, 0.0]
    too_few = np.full(400, 0.5)
    evidence = Evidence(judge=1.0, judge_by_size=0.0, sizes=(0.0,), offsets=(0.0,))
    assert fit_calibration(too_few, too_few, too_few, evidence) is None


def test_map_is_checked():
    with pytest.raises(ValueError, match="must rise"):
        ScoreMap(knots=(0.0, 1.0), values=(1.0, 0.0))
    with pytest.raises(ValueError, match="as many values as knots"):
        ScoreMap(knots=(0.0, 1.0), values=(1.0,))
