import numpy as np
import pytest

from proposals.kmeans import best_on_grid, cluster_sizes, size_iou, split_levels


def test_two_sizes_are_their_own_clusters():
    sizes = np.array([(10.0, 10.0)] * 3 + [(40.0, 40.0)] * 3)
    for square in (False, True):
        found = cluster_sizes(sizes, 2, np.random.default_rng(0), square)
        assert found == pytest.approx(np.array([(10, 10), (40, 40)]))
        assert size_iou(sizes, found).max(axis=1).mean() == 1.0


def test_iou_of_sizes_by_hand():
    assert size_iou(np.array([[10.0, 20.0]]), np.array([[20.0, 20.0]])).item() == pytest.approx(0.5)


def test_squares_are_squares_and_the_seed_decides():
    sizes = np.random.default_rng(1).uniform(5, 100, (200, 2))
    found = cluster_sizes(sizes, 4, np.random.default_rng(0), square=True)
    assert np.array_equal(found[:, 0], found[:, 1]) and (np.diff(found[:, 0]) > 0).all()
    assert np.array_equal(found, cluster_sizes(sizes, 4, np.random.default_rng(0), square=True))


def test_more_anchors_than_sizes_do_no_harm():
    assert cluster_sizes(np.full((3, 2), 10.0), 2, np.random.default_rng(0)).tolist() == [[10, 10], [10, 10]]


def test_positions_cost():
    # Cells of 8 px: a face of 8 px on a cell's centre is the anchor; 4 px beside it shares half: 32 / 96.
    boxes = np.array([[0.0, 0, 8, 8], [4, 0, 12, 8]])
    assert best_on_grid(boxes, [np.array([[8.0, 8.0]])], [8]).tolist() == pytest.approx([1.0, 1 / 3])
    two = best_on_grid(boxes[1:], [np.array([[8.0, 8.0]]), np.array([[8.0, 8.0]])], [8, 2])
    assert two.tolist() == pytest.approx([49 / 79])  # the finer level's cell is 1 px off in x and in y


def test_levels_have_equal_counts():
    levels = split_levels(np.arange(12.0).reshape(6, 2), 3)
    assert [level.tolist() for level in levels][1] == [[4, 5], [6, 7]]
    with pytest.raises(ValueError, match="6 anchors cannot be split evenly among 4 levels"):
        split_levels(np.zeros((6, 2)), 4)
