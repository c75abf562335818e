import numpy as np
import pytest

from tinygan.detections import Detections, GroundTruth

BOXES = np.array([[0, 0, 2, 2], [1, 1, 3, 4], [5, 5, 6, 6]])


def test_types_are_made_one():
    detections = Detections([[0, 0, 2, 2]], [1])
    assert detections.boxes.dtype == detections.scores.dtype == np.float64 and len(detections) == 1


def test_sorting_is_stable_and_takes_fields_along():
    ordered = Detections(BOXES, np.array([0.1, 0.9, 0.1]), {"face_logit": np.array([1, 2, 3])}).sorted()
    assert ordered.scores.tolist() == [0.9, 0.1, 0.1] and ordered.fields["face_logit"].tolist() == [2, 1, 3]


def test_rows_by_mask_slice_and_positions():
    detections = Detections(BOXES, np.arange(3.0))
    assert detections[np.array([True, False, True])].scores.tolist() == [0, 2]
    assert detections[:2].scores.tolist() == [0, 1] and detections[np.array([2])].boxes.tolist() == [[5, 5, 6, 6]]


def test_no_detection_is_0_by_4():
    assert Detections.empty().boxes.shape == Detections([], []).boxes.shape == (0, 4)
    assert GroundTruth.empty().usable.shape == (0,)


def test_with_fields_replaces_and_keeps():
    detections = Detections(BOXES, np.arange(3.0), {"a": np.zeros(3)}).with_fields(b=np.ones(3))
    assert set(detections.fields) == {"a", "b"}


@pytest.mark.parametrize(
    ("boxes", "scores", "fields", "message"),
    [
        (np.zeros((2, 4)), [1], {}, "got 2 boxes but 1 scores"),
        (np.zeros((2, 5)), [1, 1], {}, r"must have shape \[N, 4\], got \[2, 5\]"),
        ([[0, 0, np.nan, 1]], [1], {}, "boxes must be finite"),
        ([[0, 0, 1, 1]], [np.inf], {}, "scores must be finite"),
        ([[0, 0, 1, 1]], [1], {"a": np.zeros(2)}, "field 'a' has 2 rows, expected 1"),
    ],
)
def test_what_does_not_fit_is_refused(boxes, scores, fields, message):
    with pytest.raises(ValueError, match=message):
        Detections(boxes, scores, fields)


def test_usable_faces_are_valid_and_have_area():
    truth = GroundTruth([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 0, 5], [0, 0, 5, -1]], [False, True, False, False])
    assert truth.usable.tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="got 1 boxes but 2 invalid flags"):
        GroundTruth([[0, 0, 1, 1]], [True, False])
