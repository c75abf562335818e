import math

import pytest
import torch

from proposals.assignment import AssignmentConfig
from proposals.matching import Faces
from proposals.yunet import YuNetOutput
from proposals.yunet_losses import YuNetLossConfig, eiou_loss, weighted_sum, yunet_losses

LOG2 = math.log(2)
FACE = torch.tensor([[8.0, 8, 16, 16]])


def test_eiou_by_hand():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 4, 4], [0, 0, 1, 1]])
    targets = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [1, 1, 3, 2], [3, 0, 4, 1]])
    # Shifted by 1: IoU 1/3, d² = 1, hull 3 x 2. Inside: IoU 2/16, d² = 0.25, hull 4 x 4, sides 2 and 3 apart.
    # Apart: IoU 0, d² = 9, hull 4 x 1.
    wanted = [0, 1 - 1 / 3 + 1 / 13, 1 - 1 / 8 + 0.25 / 32 + 4 / 16 + 9 / 16, 1 + 9 / 17]
    assert eiou_loss(boxes, targets).tolist() == pytest.approx(wanted)
    assert eiou_loss(boxes[:0], targets[:0]).shape == (0,)


def test_gradients_of_eiou_are_those_of_the_values():
    boxes = torch.tensor([[0.3, 0.1, 2, 2], [5, 5, 9, 8]], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1.0, 0, 3, 2.5], [0, 0, 2, 2]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: eiou_loss(x, targets), boxes)


def output():
    """One picture of 2 x 2 cells of stride 8, all logits 0; the last cell's box is the face's, by hand."""
    boxes = torch.zeros(1, 4, 4)
    boxes[0, :, :2] = 0.5
    leaves = [torch.zeros(1, 4), torch.zeros(1, 4), boxes, torch.zeros(1, 4, 10)]
    return YuNetOutput(*(leaf.requires_grad_() for leaf in leaves), [(2, 2)])


def terms(answer, *faces):
    return yunet_losses(answer, faces, (8,), AssignmentConfig())


def one_face(points=torch.nan, ignored=False):
    return Faces(FACE, torch.tensor([ignored]), torch.full((1, 10), points))


def test_terms_by_hand():
    # The last cell finds the face with IoU 1; class target 1 at p = 1/2, object targets 0, 0, 0, 1 at p = 1/2.
    found = terms(output(), one_face())
    assert found["classification"].item() == pytest.approx(LOG2)
    assert found["objectness"].item() == pytest.approx(4 * LOG2)
    assert found["box"].item() == pytest.approx(0, abs=1e-6) and found["landmarks"] == 0
    # Points at (12, 12) lie half a stride from the cell's corner: smooth-L1 of ten times 0.5.
    assert terms(output(), one_face(12.0))["landmarks"].item() == pytest.approx(10 * 0.5 * 0.25)


def test_the_class_target_is_the_iou():
    answer = output()
    with torch.no_grad():
        answer.boxes[0, 3, 2] = math.log(0.5)  # half as wide: IoU 1/2
        answer.class_logits[0, 3] = 1.0
    wanted = math.log1p(math.e) - 0.5
    found = terms(answer, one_face())
    assert found["classification"].item() == pytest.approx(wanted)
    assert found["box"].item() == pytest.approx(1 - 0.5 + 16 / 64)


def test_ignored_cells_are_no_background():
    found = terms(output(), one_face(ignored=True))
    assert found["objectness"].item() == pytest.approx(3 * LOG2)  # no cell finds a face: the sum is over one
    assert found["classification"] == found["box"] == 0


def test_pictures_without_faces_have_finite_losses_and_gradients():
    answer = output()
    empty = Faces(torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool), torch.zeros(0, 10))
    weighted_sum(terms(answer, empty), YuNetLossConfig()).backward()
    assert answer.object_logits.grad.isfinite().all() and (answer.object_logits.grad > 0).all()
    assert answer.boxes.grad is None or (answer.boxes.grad == 0).all()


def test_weights_are_those_of_the_public_training():
    ones = {name: torch.tensor(1.0) for name in ("classification", "objectness", "box", "landmarks")}
    assert weighted_sum(ones, YuNetLossConfig()).item() == pytest.approx(1 + 1 + 5 + 0.1)
    with pytest.raises(ValueError, match="must not be negative"):
        YuNetLossConfig(box_weight=-1.0)
