import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tinygan.boxes import area, clip, intersection, iou, longer_side, square_crops

A = np.array([[0.0, 0, 10, 10], [20, 20, 20, 30]])
B = np.array([[5.0, 0, 15, 10], [100, 100, 110, 110], [0, 0, 10, 10]])


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
