"""RetinaNet: levels, anchors, losses and schedule by hand."""

import math

import pytest
import torch

from proposals.anchors import pyramid_anchors
from proposals.losses import focal_loss
from proposals.matching import BACKGROUND, FACE
from proposals.retinanet import RetinaNetConfig, RetinaNetNetwork
from proposals.train.retinanet import RetinaNetRecipe
from tinygan.config import load_config


def test_anchors_by_hand():
    config = RetinaNetConfig()
    anchors = config.anchors_of_picture(640)
    assert anchors[0].tolist() == pytest.approx([2, 2, 7.1554, 8.9443], abs=1e-4)
    assert anchors[1].tolist() == pytest.approx([2, 2, 10.1193, 12.6491], abs=1e-4)
    counts = [2 * (-(-640 // stride)) ** 2 for stride in config.level_strides]
    assert counts == [51_200, 12_800, 3_200, 800, 200, 50] and len(anchors) == 68_250
    wide = [(-(-480 // stride), -(-640 // stride)) for stride in config.level_strides]
    assert len(pyramid_anchors(wide, config.level_strides, config.level_sides)) == 51_200
    assert len(config.anchors_of_picture(1024)) == 174_720
    assert [len(config.anchors_of_picture(side)) for side in (480, 800)] == [38_410, 106_686]
    sides = anchors[:, 2:].prod(dim=1).sqrt()
    assert sides.min().item() == pytest.approx(8, abs=1e-4) and sides.max().item() == pytest.approx(362.04, abs=0.01)


def test_the_network_answers_for_its_anchors():
    config = RetinaNetConfig(backbone="resnet18", channels=16, subnet_depth=1)
    network = RetinaNetNetwork(config).eval()
    output = network(torch.zeros(2, 3, 70, 128, dtype=torch.uint8))
    assert output.sizes == [(18, 32), (9, 16), (5, 8), (3, 4), (2, 2), (1, 1)]
    assert output.boxes.shape == (2, len(config.anchor_boxes(output.sizes)), 4) and output.landmarks is None


def test_at_first_every_anchor_has_the_prior():
    network = RetinaNetNetwork(RetinaNetConfig(backbone="mobilenet025", channels=8))
    bias = network.faces[-1].bias
    assert bias.tolist() == pytest.approx([-4.59512] * 2, abs=1e-5)
    others = [module.bias for module in (*network.fpn.modules(), *network.boxes.modules()) if hasattr(module, "bias")]
    assert others and all((other == 0).all() for other in others)


def test_the_focal_loss_by_hand():
    def loss(*labels):
        return focal_loss(torch.zeros(1, len(labels)), torch.tensor([labels]), 0.25, 2.0).item()

    assert loss(FACE) == pytest.approx(0.0433217, abs=1e-7)
    assert loss(BACKGROUND) == pytest.approx(0.1299651, abs=1e-7)
    assert loss(FACE, BACKGROUND) == pytest.approx(0.1732868, abs=1e-7)


def test_the_preset_is_the_papers_schedule():
    recipe = load_config(RetinaNetRecipe, "proposers/retinanet_resnet50")
    epoch = recipe.loop.steps_per_epoch
    rates = [recipe.loop.rate_at(int(epoch * at)) for at in (0, 2.5, 5, 100, 120)]
    assert rates == pytest.approx([3.125e-4, 5.15625e-3, 1e-2, 1e-3, 1e-4])
    assert recipe.matching.positive_iou == 0.5 and recipe.losses.classification == "focal"
    assert recipe.network.nms_iou == 0.4 and recipe.network.keep == 750


@pytest.mark.parametrize(
    "settings", [{"anchor_scales": ()}, {"aspect": math.inf}, {"prior": 1.0}, {"subnet_depth": -1}, {"channels": 0}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="anchor_scales|prior|subnet_depth"):
        RetinaNetConfig(**settings)
