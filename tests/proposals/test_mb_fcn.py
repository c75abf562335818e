"""MB-FCN: branches, matching and losses by hand."""

import math

import pytest
import torch
from torch import nn

from proposals.losses import DetectionLossConfig, detection_losses, level_losses
from proposals.matching import BACKGROUND, FACE, Faces, Targets, match_anchors
from proposals.mb_fcn import MbFcnConfig, MbFcnNetwork, bilinear_filter
from proposals.output import Output
from proposals.train.mb_fcn import MbFcnMatching

MOBILE = MbFcnConfig(backbone="mobilenet025", skip_channels=8, channels=16)


def test_enlarging_by_hand():
    row = bilinear_filter(2)
    assert (row[0] / row[0, 0] / 4).tolist() == [0.25, 0.75, 0.75, 0.25]
    assert row.sum(dim=1).tolist() == [0.5, 1.5, 1.5, 0.5]  # the outer product of [.25 .75 .75 .25]
    enlarge = nn.ConvTranspose2d(1, 1, 4, 2, 1, bias=False)
    with torch.no_grad():
        enlarge.weight.copy_(bilinear_filter(2).expand(1, 1, 4, 4))
        flat = enlarge(torch.full((1, 1, 5, 5), 3.0))
        step = enlarge(torch.tensor([0.0, 4.0]).expand(1, 1, 4, 2))
    assert torch.allclose(flat[..., 1:-1, 1:-1], torch.tensor(3.0))  # a constant stays itself inside
    assert step[0, 0, 4].tolist() == [0, 1, 3, 3]


def test_anchors_of_each_branch():
    counts = [size * size * 4 for size in (80, 40, 20)]
    assert counts == [25_600, 6_400, 1_600]
    anchors = MOBILE.anchors_of_picture(640)
    assert len(anchors) == 33_600
    small, medium, large = anchors.split(counts)
    assert small[0].tolist() == pytest.approx([4, 4, 8 / math.sqrt(1.25), 8 * math.sqrt(1.25)])
    assert medium[0, :2].tolist() == [8, 8] and large[-1, :2].tolist() == [624, 624]


@pytest.mark.parametrize(
    ("centre", "size", "branch"), [((324.0, 324.0), (10.0, 12.5), 0), ((328.0, 328.0), (64.0, 80.0), 1)]
)
def test_a_face_belongs_to_one_branch(centre, size, branch):
    (x, y), (width, height) = centre, size
    box = torch.tensor([[x - width / 2, y - height / 2, x + width / 2, y + height / 2]])
    faces = Faces(box, torch.tensor([False]), torch.full((1, 10), torch.nan))
    labels = match_anchors(faces, MOBILE.anchors_of_picture(640), (0.1, 0.2), MbFcnMatching()).labels
    found = [int((part == FACE).sum()) for part in labels.split([25_600, 6_400, 1_600])]
    assert found[branch] > 0 and sum(found) == found[branch]


def test_the_loss_of_one_branch_teaches_no_other():
    torch.manual_seed(0)
    network = MbFcnNetwork(MOBILE).train()
    output = network(torch.rand(2, 3, 64, 96) * 255)
    assert output.sizes == [(8, 12), (4, 6), (2, 3)] and output.face_logits.shape == (2, 4 * 126)
    output.face_logits[:, : 4 * 8 * 12].sum().backward()
    for branch in network.branches[1:]:
        assert all(parameter.grad is None or not parameter.grad.any() for parameter in branch.parameters())
    last = [parameter.grad for parameter in network.body.stage1[5].parameters()]  # the last block of C3
    assert all(gradient is not None for gradient in last) and any(gradient.any() for gradient in last)


def test_each_branch_is_divided_by_its_own_faces():
    # Two levels of one cell and two anchors each: one face in the first, two in the second, all at p = 1/2.
    logits, boxes = torch.zeros(1, 4), torch.zeros(1, 4, 4)
    labels = torch.tensor([[FACE, BACKGROUND, FACE, FACE]])
    targets = Targets(labels, torch.full((1, 4, 4), 0.5), torch.full((1, 4, 10), torch.nan))
    output = Output(logits, boxes, None, [(1, 1), (1, 1)])
    terms = level_losses(output, targets, DetectionLossConfig(negatives_per_face=3))
    assert terms["classification"].item() == pytest.approx(2 * math.log(2) + math.log(2))
    assert terms["box"].item() == pytest.approx(2 * 4 * 0.125)
    together = detection_losses(output, targets, DetectionLossConfig(negatives_per_face=3))
    assert together["box"].item() == pytest.approx(4 * 0.125)


def test_a_branch_more_and_a_dilated_c5_are_settings():
    config = MbFcnConfig(
        branches=((2, 3), (3, 4, 5), (4, 5)), strides=(4, 8, 16), sides=((4.0,), (16.0,), (64.0,)), c5_stride=1,
        skip_channels=8, channels=16,
    )  # fmt: skip
    output = MbFcnNetwork(config).eval()(torch.zeros(1, 3, 40, 33, dtype=torch.uint8))
    assert output.sizes == [(10, 9), (5, 5), (3, 3)] and output.boxes.shape == (1, 90 + 25 + 9, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strides": (8, 16)}, "lists of equal length"),
        ({"branches": ((3,), (6,), (5,))}, "some of the maps 2, 3, 4 and 5"),
        ({"strides": (8, 16, 64)}, "strides are 4, 8, 16 or 32"),
        ({"sides": ((8,), (16, 32), (64,))}, "equally many numbers"),
        ({"c5_stride": 3}, "c5_stride is 1 or 2"),
        ({"variances": (0.1,)}, "variances are two numbers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MbFcnConfig(**settings)
