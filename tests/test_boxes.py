import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tinygan.boxes import (
    area,
    clip,
    decode_boxes,
    encode_boxes,
    greedy_groups,
    interpolate,
    intersection,
    iou,
    longer_side,
    square_crops,
    xywh_to_xyxy,
    xyxy_to_xywh,
)

A = np.array([[0.0, 0, 10, 10], [20, 20, 20, 30]])
B = np.array([[5.0, 0, 15, 10], [100, 100, 110, 110], [0, 0, 10, 10]])


def test_corners_and_sizes_by_hand():
    xywh = np.array([[1.0, 2, 10, 20], [0.1, 0.2, 0.2, 0], [5, 5, -1, 3]])
    assert xywh_to_xyxy(xywh).tolist() == [[1, 2, 11, 22], [0.1, 0.2, 0.1 + 0.2, 0.2], [5, 5, 4, 8]]
    assert xyxy_to_xywh(np.array([[1.0, 2, 11, 22], [5, 5, 4, 8]])).tolist() == [[1, 2, 10, 20], [5, 5, -1, 3]]
    assert xywh_to_xyxy(np.zeros((0, 4))).shape == xyxy_to_xywh(np.zeros((0, 4))).shape == (0, 4)


def test_by_hand():
    assert area(A).tolist() == [100, 0] and area(np.array([[5.0, 5, 0, 9]])).tolist() == [0]
    assert intersection(A, B)[0].tolist() == [50, 0, 100]
    assert iou(A, B)[0] == pytest.approx([1 / 3, 0, 1])
    assert iou(A[1:], A[1:]).tolist() == [[0.0]]  # no area: no overlap, and no division by zero
    assert longer_side(A).tolist() == [10, 10]
    assert clip(np.array([[-5.0, 2, 50, 90]]), 40, 30).tolist() == [[0, 2, 40, 30]]
    assert square_crops(np.array([[10.0, 10, 20, 30]]), 2.0).tolist() == [[-5, 0, 35, 40]]
    assert square_crops(np.array([[5.0, 5, 5, 5]]), 2.0).tolist() == [[4.5, 4.5, 5.5, 5.5]]


def test_empty():
    none = np.zeros((0, 4))
    assert iou(none, B).shape == (0, 3) and iou(B, none).shape == (3, 0) and square_crops(none, 2).shape == (0, 4)


@given(
    arrays(np.float64, (4, 4), elements=st.floats(-100, 100)), arrays(np.float64, (3, 4), elements=st.floats(-100, 100))
)
def test_iou_lies_in_0_1_and_is_symmetric(first, second):
    overlap = iou(first, second)
    assert (overlap >= 0).all() and (overlap <= 1 + 1e-9).all()
    assert np.allclose(overlap, iou(second, first).T)


def test_frames_have_their_origin_in_the_middle_and_the_longer_side_as_unit():
    anchors = np.array([[10.0, 20, 30, 60]])
    assert encode_boxes(anchors, anchors).tolist() == [[-0.25, -0.5, 0.25, 0.5]]
    assert encode_boxes(np.array([[60.0, 40, 100, 80]]), anchors).tolist() == [[1, 0, 2, 1]]
    boxes = np.random.default_rng(0).uniform(-50, 50, (9, 4))
    assert decode_boxes(encode_boxes(boxes, boxes[::-1]), boxes[::-1]) == pytest.approx(boxes)
    assert np.isfinite(encode_boxes(boxes, np.full((9, 4), 7.0))).all()  # an anchor of no size


def test_boxes_approach_their_goals_by_centre_and_size():
    boxes, goals = np.array([[0.0, 0, 10, 10]]), np.array([[20.0, 0, 60, 10]])  # centre 5 -> 40, width 10 -> 40
    half = np.array([0.5])
    assert interpolate(boxes, goals, half, 0 * half).tolist() == [[17.5, 0, 27.5, 10]]
    assert interpolate(boxes, goals, 0 * half, half) == pytest.approx(np.array([[-5.0, 0, 15, 10]]))
    assert interpolate(boxes, goals, 2 * half, 2 * half) == pytest.approx(goals)
    odd = np.array([[0.1, 0.2, 0.7, 0.9]])
    assert np.array_equal(interpolate(odd, goals, 0 * half, 0 * half), odd)
    assert np.array_equal(interpolate(odd, np.full((1, 4), np.nan), half, half), odd)
    flat = np.array([[5.0, 5, 5, 9]])
    assert np.array_equal(interpolate(flat, goals, half, half), flat)


def test_overlapping_boxes_join_the_best_scored_one():
    boxes = np.array([[100.0, 0, 110, 10], [2, 0, 12, 10], [0, 0, 10, 10], [50, 50, 60, 60]])
    scores = np.array([0.1, 0.2, 0.6, 0.5])
    assert greedy_groups(boxes, scores, 0.6).tolist() == [0, 2, 2, 3]
    assert greedy_groups(boxes, scores, 0.7).tolist() == [0, 1, 2, 3]  # they overlap by 2 / 3
    # What joined another is joined by none.
    chain = np.array([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])  # each overlaps the next by 3 / 7
    assert greedy_groups(chain, np.array([0.9, 0.8, 0.7]), 0.4).tolist() == [
        0,
        0,
        2,
    ]


def test_only_leads_are_joined():
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    assert greedy_groups(boxes, np.array([0.9, 0.8, 0.7]), 0.5, np.array([False, True, False])).tolist() == [0, 1, 1]
    assert greedy_groups(np.zeros((0, 4)), np.zeros(0), 0.5).tolist() == []
