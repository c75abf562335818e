from __future__ import annotations

import numpy as np
import pytest

from tinygan.detections import Detections, GroundTruth
from tinygan.evaluate.curves import Outcomes, bootstrap_weights, exact_curve, kept_at_precision, resampled_recall
from tinygan.evaluate.groups import compare_groups
from tinygan.evaluate.truth import truth_of_faces
from tinygan.evaluate.wider import evaluate_wider

HITS = np.array([1, 1, 0, 1, 0, 0, 1], dtype=bool)
ONCE = np.ones((2, 1))


def outcomes_of(scores: list[float], hits=HITS) -> Outcomes:
    images = np.arange(len(hits)) % 2
    return Outcomes(np.array(scores), hits, np.ones(len(hits), bool), images, np.array([3, 2]))


def test_threshold_with_the_largest_recall_at_a_precision():
    outcomes = outcomes_of([7, 6, 5, 4, 3, 2, 1])
    # Precision after each: 1, 1, 2/3, 3/4, 3/5, 1/2, 4/7.
    kept = {p: kept_at_precision(outcomes, ONCE, p).tolist() for p in (1.0, 0.75, 0.7, 0.6, 0.57, 0.1)}
    assert kept == {1.0: [2], 0.75: [4], 0.7: [4], 0.6: [4], 0.57: [7], 0.1: [7]}
    assert resampled_recall(outcomes, ONCE, np.array([4])).tolist() == [3 / 5]
    # Equal scores stand or fall together.
    assert kept_at_precision(outcomes_of([7, 6, 6, 4, 3, 2, 1]), ONCE, 0.9).tolist() == [1]


def test_no_threshold_reaches_the_precision():
    nothing = outcomes_of([2, 1], np.zeros(2, dtype=bool))
    never = outcomes_of([2, 1], np.array([False, True]))
    for outcomes in (nothing, never, outcomes_of([], np.zeros(0, dtype=bool))):
        kept = kept_at_precision(outcomes, ONCE, 0.9)
        assert kept.tolist() == [0] and resampled_recall(outcomes, ONCE, kept).tolist() == [0.0]


def test_a_resample_is_the_evaluation_of_its_images():
    rng = np.random.default_rng(0)
    count, images = 400, 12
    hits = rng.random(count) < np.linspace(1, 0.4, count)
    outcomes = Outcomes(
        np.sort(rng.integers(0, 90, count) / 90)[::-1], hits, hits | (rng.random(count) < 0.8),
        rng.integers(0, images, count), rng.integers(30, 60, images),
    )  # fmt: skip
    weights = bootstrap_weights(images, 20, 1)
    kept = kept_at_precision(outcomes, weights, 0.8)
    recall = resampled_recall(outcomes, weights, kept)
    assert len(set(kept.tolist())) > 3  # thresholds are chosen anew
    for column in range(20):
        times = weights[outcomes.images, column].astype(int)
        rows = np.repeat(np.arange(count), times)
        drawn = Outcomes(
            outcomes.scores[rows], outcomes.hits[rows], outcomes.counted[rows], outcomes.images[rows],
            (outcomes.faces * weights[:, column]).astype(int),
        )  # fmt: skip
        curve = exact_curve(drawn)
        assert recall[column] == pytest.approx(curve.recall[curve.precision >= 0.8].max(initial=0.0))


def face(x: float) -> list[float]:
    return [x, 0, x + 20, 20]


@pytest.fixture
def two_images():
    """Image a: faces at 0, 100, and an invalid one at 200; image b: a face at 0."""
    faces = {
        "a": GroundTruth(np.array([face(0), face(100), face(200)]), np.array([False, False, True])),
        "b": GroundTruth(np.array([face(0)]), np.array([False])),
        "empty": GroundTruth(np.zeros((0, 4)), np.zeros(0, bool)),
    }
    members = {"skin": {"I": [("a", 0), ("a", 2)], "VI": [("a", 1), ("b", 0)]}, "age": {"Not Sure": [("b", 0)]}}
    return faces, members


def evaluate(faces, names=None, **rows):
    found = {name: Detections([row[:4] for row in rows], [row[4] for row in rows]) for name, rows in rows.items()}
    return evaluate_wider(found, truth_of_faces(faces), names)


def test_groups_by_hand(two_images):
    faces, members = two_images
    stray = [*face(300), 0.6]
    before = evaluate(faces, a=[[*face(0), 0.9], stray, [*face(100), 0.5]], b=[[*face(0), 0.8]])
    after = evaluate(faces, a=[[*face(0), 0.9], stray, [*face(100), 0.7]], b=[[*face(0), 0.8], [*face(50), 0.1]])
    compared = compare_groups({"detections": after, "baseline": before}, faces, members, 0.9, resamples=200)
    assert list(compared.groups) == ["all", "skin", "age"]
    assert compared.thresholds == {"detections": 0.7, "baseline": 0.8}
    every, first, sixth = compared.groups["all"]["valid faces"], *compared.groups["skin"].values()
    assert (every.faces, every.images, first.faces, sixth.faces, sixth.images) == (3, 2, 1, 2, 2)  # one is invalid
    assert [every.before.value, every.after.value] == pytest.approx([2 / 3, 1])
    assert (first.before.value, first.after.value, first.difference.value) == (1, 1, 0)
    assert (sixth.before.value, sixth.after.value, sixth.difference.value) == (0.5, 1, 0.5)
    assert 0 <= sixth.difference.low <= 0.5 <= sixth.difference.high
    assert first.is_small and (first.difference.low, first.difference.high) == (0, 0)


def test_without_baseline_and_on_a_subset(two_images):
    faces, members = two_images
    after = evaluate(faces, ["b", "empty"], b=[[*face(0), 0.8]])
    compared = compare_groups({"detections": after}, faces, members, 0.9, resamples=20)
    group = compared.groups["skin"]["VI"]
    assert (group.faces, group.after.value, group.before, group.difference) == (1, 1.0, None, None)
    none = compared.groups["skin"]["I"]
    assert none.faces == 0 and np.isnan([none.after.value, none.after.low]).all()


def test_results_of_other_images_are_refused(two_images):
    faces, members = two_images
    results = {"detections": evaluate(faces, ["a"]), "baseline": evaluate(faces, ["b"])}
    with pytest.raises(ValueError, match="of the same images"):
        compare_groups(results, faces, members, 0.9)
