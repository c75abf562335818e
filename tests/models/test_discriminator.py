from urllib.error import URLError

import pytest
import torch
from torchvision import models

from tinygan.errors import MissingDependency
from tinygan.models.discriminator import Discriminator, DiscriminatorConfig

LITE = DiscriminatorConfig(backbone="vgg_lite", weights="none", lite_widths=(4, 4, 8, 8, 8), fc_std=0.01)


@pytest.mark.parametrize("hr_size", [32, 64, 96])
def test_lite_gives_two_logits_a_picture(hr_size):
    verdict = Discriminator(LITE, hr_size)(torch.rand(3, 3, hr_size, hr_size))
    assert verdict.real_logit.shape == verdict.face_logit.shape == (3,)


@pytest.mark.parametrize("backbone", ["vgg19", "vgg19_bn"])
def test_vgg19_keeps_16_convolutions_and_four_pools(backbone):
    network = Discriminator(DiscriminatorConfig(backbone=backbone, weights="none"), 64)
    kinds = [type(m).__name__ for m in network.features.modules()]
    assert kinds.count("Conv2d") == 16 and kinds.count("MaxPool2d") == 4
    assert network.fc_clc.in_features == 512 * 4 * 4
    assert (
        float(network.fc_gan.weight.detach().std()) == pytest.approx(0.1, rel=0.1)
        and float(network.fc_gan.bias.detach()) == 0
    )
    assert network(torch.rand(1, 3, 64, 64)).face_logit.shape == (1,)


def test_download_that_fails_says_what_to_do(monkeypatch):
    def offline(weights=None):
        raise URLError("no network")

    monkeypatch.setattr(models, "vgg19", offline)
    with pytest.raises(MissingDependency, match=r"--set discriminator\.weights=none"):
        Discriminator(DiscriminatorConfig(), 64)


def test_lite_with_imagenet_weights_is_refused():
    with pytest.raises(ValueError, match="weights: none"):
        DiscriminatorConfig(backbone="vgg_lite")
    with pytest.raises(ValueError, match="five entries"):
        DiscriminatorConfig(backbone="vgg_lite", weights="none", lite_widths=(1, 2))
