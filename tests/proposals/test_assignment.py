"""Which cells find which faces, by hand."""

import pytest
import torch

from proposals.assignment import IGNORED, NOBODY, AssignmentConfig, assign_cells
from proposals.matching import Faces
from proposals.yunet import cells

WHERE = cells([(4, 4)], (8,))  # middles at 4, 12, 20 and 28
NUMBER = {(x, y): 4 * y + x for x in range(4) for y in range(4)}


def faces(*boxes, ignored=None):
    ignored = [False] * len(boxes) if ignored is None else ignored
    return Faces(torch.tensor(boxes).reshape(-1, 4).float(), torch.tensor(ignored, dtype=torch.bool), torch.zeros(0))


def around(side=8.0):
    """Boxes of one side around the middle of every cell."""
    middle = WHERE[:, :2] + 4
    return torch.cat([middle - side / 2, middle + side / 2], dim=1)


def assign(wanted, boxes=None, scores=None, **settings):
    boxes = around() if boxes is None else boxes
    scores = torch.full((16,), 0.5) if scores is None else scores
    return assign_cells(wanted, WHERE, boxes, scores, AssignmentConfig(**settings))


def test_a_face_has_as_many_cells_as_its_ious_sum_up_to():
    # The face covers four cells; each of their boxes is a quarter of it, no other box touches it: the sum of IoUs is 1.
    wanted = faces((8.0, 8, 24, 24))
    found = assign(wanted)
    assert (found.faces >= 0).sum() == 1 and found.overlaps.max() == pytest.approx(0.25)
    # Boxes of 16 px around those four overlap it by 144 / 368 = 0.39: the sum of the four largest is 1.57.
    found = assign(wanted, around(16.0), candidates=4)
    assert found.overlaps.max() == pytest.approx(144 / 368) and (found.faces == 0).sum() == 1
    # Boxes equal to it in those four cells: the sum is 4.
    boxes = around()
    inside = [NUMBER[1, 1], NUMBER[2, 1], NUMBER[1, 2], NUMBER[2, 2]]
    boxes[inside] = torch.tensor([8.0, 8, 24, 24])
    found = assign(wanted, boxes)
    assert (found.faces >= 0).nonzero()[:, 0].tolist() == sorted(inside) and found.overlaps[inside].tolist() == [1] * 4


def test_of_equal_boxes_the_surer_cell_finds_the_face():
    scores = torch.full((16,), 0.5)
    scores[NUMBER[2, 1]] = 0.6
    found = assign(faces((8.0, 8, 24, 24)), scores=scores)
    assert (found.faces >= 0).nonzero()[:, 0].tolist() == [NUMBER[2, 1]]


def test_iou_outweighs_the_score_by_its_weight():
    # -log 0.9 - 3 log 0.25 = 4.26 against -log 0.2 - 3 log 0.5 = 3.69; with a weight of 1: 1.49 against 2.30.
    boxes, scores = around(), torch.full((16,), 0.9)
    boxes[NUMBER[1, 1]], scores[NUMBER[1, 1]] = torch.tensor([8.0, 8, 24, 16]), 0.2
    first = assign(faces((8.0, 8, 24, 24)), boxes, scores)
    assert (first.faces >= 0).nonzero()[:, 0].tolist() == [NUMBER[1, 1]]
    second = assign(faces((8.0, 8, 24, 24)), boxes, scores, box_weight=1.0)
    assert NUMBER[1, 1] not in (second.faces >= 0).nonzero()[:, 0].tolist()


def test_a_face_smaller_than_a_cell_is_found_by_one_near_it():
    found = assign(faces((6.0, 6, 10, 10)))  # no middle of a cell lies in it
    rows = (found.faces >= 0).nonzero()[:, 0].tolist()
    assert len(rows) == 1 and rows[0] in (NUMBER[0, 0], NUMBER[1, 0], NUMBER[0, 1], NUMBER[1, 1])


def test_a_cell_that_two_faces_want_finds_the_one_it_fits_better():
    boxes = around()
    boxes[:] = torch.tensor([100.0, 100, 104, 104])  # all others see nothing
    boxes[NUMBER[1, 1]] = torch.tensor([8.0, 8, 16, 16])
    found = assign(faces((8.0, 8, 16, 18), (8.0, 8, 16, 16)), boxes)
    assert found.faces[NUMBER[1, 1]] == 1 and found.overlaps[NUMBER[1, 1]] == 1


def test_rows_are_those_of_all_faces_and_ignored_ones_teach_nothing():
    wanted = faces((0.0, 0, 16, 16), (20.0, 20, 28, 28), ignored=[True, False])
    found = assign(wanted)
    assert found.faces[NUMBER[2, 2]] == 1 or found.faces[NUMBER[3, 3]] == 1
    covered = [NUMBER[x, y] for x in (0, 1) for y in (0, 1)]
    assert (found.faces[covered] == IGNORED).all() and (found.faces == IGNORED).sum() == 4
    # A cell elsewhere whose box overlaps the ignored face says nothing wrong either.
    boxes = around()
    boxes[NUMBER[3, 0]] = torch.tensor([0.0, 0, 16, 16])
    assert assign(wanted, boxes).faces[NUMBER[3, 0]] == IGNORED
    # But a cell in an ignored face may find another one.
    both = faces((0.0, 0, 32, 32), (20.0, 20, 28, 28), ignored=[True, False])
    assert (assign(both).faces == 1).sum() == 1


def test_without_faces_all_is_background():
    found = assign(faces())
    assert (found.faces == NOBODY).all() and (found.overlaps == 0).all()


@pytest.mark.parametrize("settings", [{"candidates": 0}, {"radius": 0.0}, {"box_weight": -1.0}, {"ignored_iou": 0.0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        AssignmentConfig(**settings)
