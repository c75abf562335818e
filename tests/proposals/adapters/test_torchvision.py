"""Detectors of torchvision as proposers: the face's class alone, weights of a training of one's own."""

import numpy as np
import pytest
import torch
from torchvision.models import get_model

from proposals.adapters.torchvision import TorchvisionConfig, build_torchvision
from tinygan.errors import CheckpointError
from tinygan.proposers import choose_proposer

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    network = get_model(SMALL, weights=None, weights_backbone=None, num_classes=3)
    path = tmp_path_factory.mktemp("torchvision") / "faces.pth"
    torch.save({"model": network.state_dict()}, path)
    return path, network.eval()


def test_boxes_are_the_networks_own_of_one_class(weights, noise, runtime):
    path, network = weights
    image = noise(120, 160)
    with torch.no_grad():
        (answer,) = network([image.float() / 255])
    config = TorchvisionConfig(model=SMALL, classes=3, label=2, score_threshold=0.06)
    (found,) = build_torchvision(config, path, runtime).propose([image])
    expected = answer["boxes"][(answer["labels"] == 2) & (answer["scores"] >= 0.06)]
    assert len(found) == len(expected) > 0
    assert np.abs(found.boxes - expected.numpy()).max() < 0.05


def test_what_does_not_fit_is_said(weights, runtime):
    path, _ = weights
    with pytest.raises(CheckpointError, match=r"not the weights of torchvision's .*; is classes=2 right\?"):
        build_torchvision(TorchvisionConfig(model=SMALL), path, runtime)
    with pytest.raises(ValueError, match=r"model is one of .*retinanet_resnet50_fpn.*; got 'yolo'"):
        TorchvisionConfig(model="yolo")
    with pytest.raises(ValueError, match="label lies from 0 to classes - 1"):
        TorchvisionConfig(label=2)
    with pytest.raises(CheckpointError, match=r"give it a state dict of a detector of torchvision \(--weights"):
        choose_proposer("torchvision").build(runtime)
