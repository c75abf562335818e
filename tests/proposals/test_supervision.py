"""RefineFace's feature supervision by hand."""

import pytest
import torch

from proposals.matching import BACKGROUND, FACE, IGNORED, Faces
from proposals.supervision import Regions, Supervision, choose_regions, level_of_size
from proposals.train.refineface import RegionMatching


def faces(*boxes, ignored=()):
    rows = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    marked = torch.tensor([at in ignored for at in range(len(rows))], dtype=torch.bool)
    return Faces(rows, marked, torch.full((len(rows), 10), torch.nan))


def regions(boxes, levels):
    rows = torch.tensor(boxes, dtype=torch.float32)
    zeros = torch.zeros(len(rows), dtype=torch.int64)
    return Regions(zeros, rows, torch.tensor(levels), zeros)


def test_both_forms_have_the_papers_parameters():
    conv, fc = (sum(one.numel() for one in Supervision(256, 5, form).parameters()) for form in ("conv", "fc"))
    assert conv == 387_360 + 865, "Table 8's figure, and the prediction"
    assert fc == 829_472


@pytest.mark.parametrize("form", ["conv", "fc"])
@pytest.mark.parametrize("roi", [3, 7])
def test_a_region_has_one_logit(form, roi):
    levels = [torch.randn(1, 8, 2**at, 2**at) for at in (6, 5, 4, 3, 2, 1)]
    logits = Supervision(8, roi, form)(levels, regions([[0, 0, 9, 9], [5, 5, 200, 180], [3, 1, 30, 40]], [2, 7, 4]))
    assert logits.shape == (3,) and len(set(logits.tolist())) == 3


def test_each_region_is_asked_of_its_own_level():
    judge = Supervision(4, 5, "fc")
    judge.layers = torch.nn.Flatten()
    levels = [torch.full((1, 4, 40, 40), float(level)) for level in range(2, 8)]
    boxes = [[2.0**level * side for side in (2, 2, 7, 9)] for level in range(2, 8)]
    seen = judge(levels, regions(boxes, list(range(2, 8))))
    assert seen.tolist() == pytest.approx([2, 3, 4, 5, 6, 7]), "of a constant map it is that constant"


def test_the_level_is_that_with_the_nearest_anchor():
    boxes = torch.tensor([[0, 0, side, side] for side in (13.4, 13.5, 64.0, 1.0, 5000.0)])
    assert level_of_size(boxes).tolist() == [2, 3, 5, 2, 7]


def chosen(boxes, scores, truth, count=512, levels=None):
    levels = torch.full((len(boxes),), 3) if levels is None else levels
    return choose_regions(
        1, torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores), levels, truth, RegionMatching(), count
    )


def test_labels_by_hand():
    # Against the box (0, 0, 10, 10): IoU .8, .5 and .3.
    labels = [chosen([[0, 0, 10, 10]], [0.5], faces([0, 0, 10, tall])).labels.tolist()[-1] for tall in (8, 5, 3)]
    assert labels == [FACE, IGNORED, BACKGROUND]
    assert chosen([[0, 0, 10, 10]], [0.5], faces([0, 0, 10, 8], ignored=[0])).labels.tolist() == [IGNORED]
    assert chosen([[0, 0, 10, 10]], [0.5], faces()).labels.tolist() == [BACKGROUND]


def test_faces_come_first_and_of_two_alike_the_better_stays():
    boxes = [[50, 50, 60, 60], [50, 50, 60, 61], [20, 20, 30, 30], [80, 80, 99, 99]]
    found = chosen(boxes, [0.2, 0.9, 0.8, 0.1], faces([0, 0, 64, 64]), count=3)
    assert found.boxes.tolist() == [[0, 0, 64, 64], [50, 50, 60, 61], [20, 20, 30, 30]]
    assert found.labels.tolist() == [FACE, BACKGROUND, BACKGROUND] and found.pictures.tolist() == [1, 1, 1]
    assert found.levels.tolist() == [5, 3, 3], "a face's level is that of its size, another's its own"
    assert len(chosen(boxes, [0.2, 0.9, 0.8, 0.1], faces([0, 0, 9, 9], [20, 0, 29, 9]), count=1).boxes) == 1
