from __future__ import annotations

import numpy as np
import pytest

from tinygan.evaluate.curves import (
    Curve,
    Outcomes,
    average_precision,
    binned_curve,
    bootstrap_weights,
    exact_curve,
    resampled_ap,
)


def outcomes(scores: list[float], hits: list[int], counted: list[int] | None = None, faces: int = 2) -> Outcomes:
    flags = np.ones(len(scores), dtype=bool) if counted is None else np.array(counted, dtype=bool)
    images = np.zeros(len(scores), dtype=np.int64)
    return Outcomes(np.array(scores, dtype=float), np.array(hits, dtype=bool), flags, images, np.array([faces]))


def random_outcomes(seed: int, images: int = 12, count: int = 400) -> Outcomes:
    generator = np.random.default_rng(seed)
    scores = -np.sort(-np.round(generator.random(count), 2))  # many ties
    counted = generator.random(count) < 0.8
    hits = counted & (generator.random(count) < scores)
    of = generator.integers(0, images, count)
    faces = np.bincount(of[hits], minlength=images) + generator.integers(0, 3, images)
    return Outcomes(scores, hits, counted, of, faces)


def test_exact_curve_by_hand() -> None:
    curve = exact_curve(outcomes([0.9, 0.8, 0.7, 0.6], [1, 0, 0, 1], [1, 1, 0, 1], faces=4))
    np.testing.assert_array_equal(curve.thresholds, [0.9, 0.8, 0.7, 0.6])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 1 / 2, 2 / 3])
    np.testing.assert_allclose(curve.recall, [1 / 4, 1 / 4, 1 / 4, 1 / 2])
    assert average_precision(curve) == pytest.approx(1 / 4 + 1 / 4 * 2 / 3)


def test_the_envelope_takes_the_best_precision_further_right() -> None:
    curve = Curve(np.array([3.0, 2.0, 1.0]), np.array([0.2, 0.6, 0.4]), np.array([0.1, 0.5, 0.8]))
    assert average_precision(curve) == pytest.approx(0.5 * 0.6 + 0.3 * 0.4)


def test_equal_scores_form_one_point() -> None:
    first = exact_curve(outcomes([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 1]))
    second = exact_curve(outcomes([0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1]))
    assert first.precision.tolist() == second.precision.tolist() == [0.5]
    assert first.recall.tolist() == [1.0]


def test_nothing_detected_and_nothing_to_find() -> None:
    assert average_precision(exact_curve(outcomes([], []))) == 0
    none = exact_curve(outcomes([0.5], [0], faces=0))
    assert np.isnan(none.recall).all() and np.isnan(average_precision(none))


def test_ignored_detections_alone_have_no_precision() -> None:
    assert exact_curve(outcomes([0.5], [0], [0])).precision.tolist() == [0.0]


def test_binned_curve_by_hand() -> None:
    # Mapped to 1, 0.5 and 0; thresholds 0.75, 0.5, 0.25, 0.
    curve = binned_curve(outcomes([6.0, 4.0, 2.0], [1, 0, 1]), low=2.0, high=6.0, bins=4)
    np.testing.assert_allclose(curve.thresholds, [0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 1 / 2, 2 / 3])
    np.testing.assert_allclose(curve.recall, [0.5, 0.5, 0.5, 1])


def test_binned_curve_of_constant_scores_is_one_step() -> None:
    curve = binned_curve(outcomes([0.3, 0.3], [1, 0]), low=0.3, high=0.3)
    assert len(curve.recall) == 1000
    assert average_precision(curve) == pytest.approx(0.5 * 0.5)


def test_resampling_each_image_once_is_the_exact_ap() -> None:
    for seed in range(5):
        judged = random_outcomes(seed)
        once = resampled_ap(judged, np.ones((12, 1)))
        assert once[0] == pytest.approx(average_precision(exact_curve(judged)), abs=1e-12)


def test_resampling_equals_repeating_the_images() -> None:
    judged = random_outcomes(7)
    weights = bootstrap_weights(12, 100, seed=3)
    assert (weights.sum(axis=0) == 12).all()
    values = resampled_ap(judged, weights)
    for column in (0, 63, 64, 99):
        times = weights[:, column].astype(int)
        again = np.repeat(np.arange(len(judged.scores)), times[judged.images])
        repeated = Outcomes(
            judged.scores[again], judged.hits[again], judged.counted[again], judged.images[again], judged.faces * times
        )
        assert values[column] == pytest.approx(average_precision(exact_curve(repeated)), abs=1e-12)


def test_resamples_without_faces_are_nan() -> None:
    values = resampled_ap(outcomes([0.5], [1], faces=1), np.array([[0.0, 2.0]]))
    assert np.isnan(values[0]) and values[1] == 1


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="scores must fall"):
        outcomes([0.1, 0.2], [0, 0])
    with pytest.raises(ValueError, match="a hit must be counted"):
        outcomes([0.2, 0.1], [1, 0], [0, 1])
    with pytest.raises(ValueError, match="of one length"):
        outcomes([0.2, 0.1], [1])
    with pytest.raises(ValueError, match="expected weights for 1 images, got 2"):
        resampled_ap(outcomes([0.2], [1]), np.ones((2, 3)))
