import numpy as np
import pytest
from scipy.special import expit, logit

from tinygan.errors import DataError
from tinygan.formats.plausible import score_logit
from tinygan.second_stage.calibration import (
    IDENTITY,
    PLAIN,
    Calibration,
    RankCurve,
    ScoreMap,
    fit_calibration,
    fit_monotone,
    fit_rank_curve,
    fit_usual_calibration,
    rank_feature,
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
    # Beyond its knots no steeper than scores themselves.
    assert drawn.log_odds(expit(np.array([-4.0, -1.0, 1.0, 3.0]))) == pytest.approx([-2.0, -0.5, 2.0, 5.0])
    assert IDENTITY.log_odds(np.array([0.1, 0.9])) == pytest.approx(logit([0.1, 0.9]))


def test_scores_are_clipped_and_logits_refused():
    assert score_logit(np.array([0.0, 1.0])) == pytest.approx([logit(1e-6), logit(1 - 1e-6)])
    with pytest.raises(DataError, match=r"must lie in \[0, 1\], got -2 to 5"):
        score_logit(np.array([-2.0, 5.0]))


def test_sizes_are_octaves_from_16_px():
    assert size_feature(np.array([16.0, 64.0, 0.0])) == pytest.approx([0.0, 2.0, -3.0])


def curve(seed: int = 9) -> RankCurve:
    is_face, _, scores, face_logits = proposals(20_000, 0.0, 1.0, seed)
    return fit_rank_curve([(scores, face_logits, is_face)])


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.0), (1.0, 2.5), (-1.0, 0.6), (0.0, 12.0), (3.0, 0.2)])
def test_an_unknown_detectors_scores_are_read_without_labels_on_any_scale(shift, stretch):
    _, odds, scores, face_logits = proposals(20_000, shift, stretch)
    found = fit_calibration(scores, face_logits, np.zeros(20_000), curve())
    assert found is not None
    unclipped = (np.abs(odds + 1) < 4) & (scores > 1e-6) & (scores < 1 - 1e-6)
    assert np.abs(found.score_map.log_odds(scores) - odds)[unclipped].mean() < 0.3
    assert (np.diff(found.score_map.log_odds(np.linspace(0.001, 0.999, 500))) > 0).all()  # ranks are kept


def test_a_flood_of_low_scores_is_read_as_what_it_is():
    """A detector that writes ten times as many boxes of no face, all of low scores, is believed less there alone."""
    _, _, scores, face_logits = proposals(5000, 0.0, 1.0)
    rng = np.random.default_rng(3)
    flood = np.concatenate([scores, rng.uniform(0.02, 0.05, 50_000)])
    seen = np.concatenate([face_logits, rng.normal(-2.0, 1.0, 50_000)])
    calm, flooded = (
        fit_calibration(scores, seen, np.zeros(len(scores)), curve())
        for scores, seen in ((scores, face_logits), (flood, seen))
    )
    low, high = np.array([0.03]), np.array([0.9])
    assert flooded.score_map.log_odds(low)[0] < calm.score_map.log_odds(low)[0] - 1.5
    assert abs(flooded.score_map.log_odds(high)[0] - calm.score_map.log_odds(high)[0]) < 0.7


def test_too_little_to_find_a_calibration_from():
    _, _, scores, face_logits = proposals(499, 0.0, 1.0)
    assert fit_calibration(scores, face_logits, np.zeros(499), curve()) is None
    assert fit_calibration(np.full(1000, 0.5), np.zeros(1000), np.zeros(1000), curve()) is None


def test_scores_of_two_levels_and_of_many_equal_ones():
    _, _, _, face_logits = proposals(1000, 0.0, 1.0)
    two = np.where(np.arange(1000) < 200, 0.9, 0.1)
    rounded = np.round(np.linspace(0.02, 0.99, 1000), 1)
    for scores in (two, rounded):
        found = fit_calibration(scores, face_logits, np.zeros(1000), curve())
        assert (np.diff(found.score_map.log_odds(np.unique(scores))) > 0).all()


def test_rank_is_relative_to_the_faces_seen_and_ties_share_it():
    scores, face_logits = np.array([0.9, 0.5, 0.5, 0.1]), np.array([3.0, 1.0, -1.0, -2.0])
    assert np.exp(-rank_feature(scores, face_logits)) == pytest.approx([0.5, 1.25, 1.25, 2.0])


def test_a_proposal_of_weight_three_counts_as_three():
    _, _, scores, face_logits = proposals(1000, 0.0, 1.0)
    size = np.linspace(-2, 2, 1000)
    often = np.where(np.arange(1000) % 4 == 0, 3, 1)
    repeated = [np.repeat(column, often) for column in (scores, face_logits, size)]
    weighted = fit_calibration(scores, face_logits, size, curve(), often.astype(float))
    assert rank_feature(scores, face_logits, often.astype(float)) == pytest.approx(
        rank_feature(*repeated[:2])[np.cumsum(often) - 1]
    )
    expected = fit_calibration(*repeated, curve())
    assert weighted.score_map.log_odds(scores) == pytest.approx(expected.score_map.log_odds(scores), abs=1e-6)
    assert weighted.expected == pytest.approx(expected.expected, abs=1e-6)


def test_ignored_proposals_have_a_rank_but_teach_nothing():
    is_face, _, scores, face_logits = proposals(5000, 0.0, 1.0)
    known = fit_rank_curve([(scores, face_logits, is_face)])
    ignored = np.where(np.arange(5000) % 5 == 0, np.nan, is_face)
    assert fit_rank_curve([(scores, face_logits, ignored)]).values == pytest.approx(known.values, abs=0.6)


def test_a_rising_function_is_found_and_never_falls():
    rng = np.random.default_rng(0)
    positions = rng.uniform(-3, 3, 20_000)
    is_face = (rng.uniform(size=20_000) < expit(2 * positions)).astype(float)
    knots, weights = np.array([-2.0, 0.0, 2.0]), np.full(20_000, 1 / 20_000)
    assert fit_monotone(positions, is_face, weights, knots) == pytest.approx([-4.0, 0.0, 4.0], abs=0.4)
    assert (np.diff(fit_monotone(positions, 1 - is_face, weights, knots)) > 0).all()


def test_a_calibration_expects_what_scores_and_sizes_tell():
    rng = np.random.default_rng(0)
    _, _, scores, noise = proposals(5000, 0.0, 1.0)
    size = rng.uniform(-1, 3, 5000)
    calibration = fit_calibration(scores, noise + 2 * size, size, curve())
    assert calibration is not None
    surprise = noise + 2 * size - calibration.expected_logits(calibration.score_map.log_odds(scores), size)
    for part in (size < 0, size > 2, scores < 0.1, scores > 0.7):
        assert abs(surprise[part].mean()) < 0.35  # nothing is lifted as a whole, by size or by score
    assert np.corrcoef(surprise, noise)[0, 1] > 0.8


def test_the_usual_calibration_is_of_all_detectors_alike():
    parts = [proposals(4000, shift, 1.0, seed) for seed, shift in enumerate((0.0, 0.5))]
    usual = fit_usual_calibration([(scores, seen, np.zeros(4000), is_face) for is_face, _, scores, seen in parts])
    for _, odds, scores, _ in parts:
        assert np.abs(usual.score_map.log_odds(scores) - odds).mean() < 0.5


def test_a_plain_calibration_expects_nothing():
    assert Calibration() == PLAIN
    assert PLAIN.expected_logits(np.array([1.0, -2.0]), np.array([0.0, 1.0])).tolist() == [0.0, 0.0]
    too_few = np.full(400, 0.5)
    assert fit_calibration(too_few, too_few, too_few, curve()) is None


def test_map_is_checked():
    with pytest.raises(ValueError, match="must rise"):
        ScoreMap(knots=(0.0, 1.0), values=(1.0, 0.0))
    with pytest.raises(ValueError, match="as many values as knots"):
        ScoreMap(knots=(0.0, 1.0), values=(1.0,))
