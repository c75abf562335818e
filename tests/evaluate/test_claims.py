from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tinygan.detections import Detections
from tinygan.evaluate.claims import Claims, claim_faces, score_claims

FACES = {"a": np.array([[0.0, 0, 10, 10], [20, 0, 30, 10]]), "b": np.zeros((0, 4)), "c": np.array([[0.0, 0, 10, 10]])}
NAMES = ["a", "b", "c"]


def found(*rows: list[float]) -> Detections:
    values = np.array(rows, dtype=float).reshape(-1, 5)
    return Detections(values[:, :4], values[:, 4])


def flags(*values: int) -> npt.NDArray[np.bool_]:
    return np.array(values, dtype=bool)


@pytest.fixture
def claims() -> Claims:
    return claim_faces(
        {
            "a": found([20, 0, 30, 5, 0.2], [0, 0, 10, 10, 0.9], [50, 50, 60, 60, 0.5]),
            "b": found([0, 0, 10, 10, 7.0]),
            "c": found([0, 0, 10, 8, 0.6]),
        },
        FACES,
        NAMES,
    )


def test_every_detection_has_its_face(claims: Claims) -> None:
    np.testing.assert_array_equal(claims.scores, [0.9, 0.6, 0.5, 0.2])
    np.testing.assert_allclose(claims.overlaps, [1, 0.8, 0, 0.5])
    np.testing.assert_array_equal(claims.faces[[0, 1, 3]], [0, 2, 1])
    np.testing.assert_array_equal(claims.images, [0, 2, 0, 0])


def test_an_image_without_faces_is_skipped_but_its_scores_and_boxes_count(claims: Claims) -> None:
    assert (claims.low, claims.high, claims.boxes) == (0.2, 7.0, 5)


@pytest.mark.parametrize(
    ("iou", "hits", "counted"),
    [(0.5, [1, 1, 0, 1], [1, 1, 1, 1]), (0.6, [1, 1, 0, 0], [1, 1, 1, 1]), (0.9, [1, 0, 0, 0], [1, 1, 1, 1])],
)
def test_one_claim_is_judged_at_every_threshold(
    claims: Claims, iou: float, hits: list[int], counted: list[int]
) -> None:
    outcomes = score_claims(claims, [flags(1, 1), flags(), flags(1)], iou)
    assert outcomes.hits.astype(int).tolist() == hits
    assert outcomes.counted.astype(int).tolist() == counted
    assert outcomes.faces.tolist() == [2, 0, 1]


def test_faces_that_do_not_count_are_ignored_at_their_threshold_only(claims: Claims) -> None:
    members = [flags(1, 0), flags(), flags(0)]
    assert score_claims(claims, members, 0.5).counted.tolist() == [True, False, True, False]
    assert score_claims(claims, members, 0.6).counted.tolist() == [True, False, True, True]  # 0.5 is now a miss


def test_the_first_of_two_detections_hits() -> None:
    twice = claim_faces({"c": found([0, 0, 10, 10, 0.3], [0, 0, 10, 9, 0.8])}, FACES, ["c"])
    assert score_claims(twice, [flags(1)], 0.5).hits.tolist() == [True, False]
    # At IoU 0.95 the better placed one does, though the other scores higher.
    assert score_claims(twice, [flags(1)], 0.95).hits.tolist() == [False, True]


def test_one_more_pixel() -> None:
    half = {"c": found([0, 0, 10, 4.5, 0.3])}
    assert claim_faces(half, FACES, ["c"]).overlaps[0] == pytest.approx(0.45)
    assert claim_faces(half, FACES, ["c"], extra_px=1.0).overlaps[0] == pytest.approx(0.5)


def test_nothing_detected() -> None:
    claims = claim_faces({}, FACES, NAMES)
    outcomes = score_claims(claims, [flags(1, 1), flags(), flags(1)], 0.5)
    assert (claims.boxes, len(outcomes.scores), outcomes.positives) == (0, 0, 3)
    assert np.isinf([claims.low, claims.high]).all()
