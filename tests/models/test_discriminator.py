from dataclasses import replace

import pytest
import torch

from tinygan.errors import CheckpointError
from tinygan.models.discriminator import Discriminator, DiscriminatorConfig, grow

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


def test_lite_with_imagenet_weights_is_refused():
    with pytest.raises(ValueError, match="weights: none"):
        DiscriminatorConfig(backbone="vgg_lite")
    with pytest.raises(ValueError, match="five entries"):
        DiscriminatorConfig(backbone="vgg_lite", weights="none", lite_widths=(1, 2))


def test_third_head_gives_boxes_and_begins_at_the_square_around_the_centre():
    network = Discriminator(replace(LITE, box=True, surroundings="mobilenet025"), 32, 48)
    verdict = network(torch.rand(3, 3, 32, 32), torch.rand(3, 3, 48, 48))
    assert verdict.box.shape == (3, 4) and torch.allclose(verdict.box, torch.tensor([-0.5, -0.5, 0.5, 0.5]), atol=0.1)
    assert Discriminator(LITE, 32)(torch.rand(1, 3, 32, 32)).box is None


def test_surroundings_change_the_answer():
    torch.manual_seed(0)
    network = Discriminator(replace(LITE, surroundings="mobilenet025", fc_std=1.0), 32, 48).eval()
    hr, first, second = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 48, 48), torch.rand(1, 3, 48, 48)
    assert abs(float((network(hr, first).face_logit - network(hr, second).face_logit).detach())) > 1e-6


def test_a_grown_network_answers_as_it_did_and_can_learn_more():
    torch.manual_seed(0)
    small = Discriminator(replace(LITE, fc_std=0.3), 32)
    small.train()(torch.rand(16, 3, 32, 32))  # BN statistics other than (0, 1)
    large = Discriminator(replace(LITE, lite_widths=(6, 4, 12, 16, 16), surroundings="mobilenet025", box=True), 32, 48)
    grow(large, small.state_dict())
    hr, wide = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 48, 48)
    before, after = small.eval()(hr), large.eval()(hr, wide)
    assert torch.allclose(before.face_logit, after.face_logit, atol=1e-5)
    assert torch.allclose(before.real_logit, after.real_logit, atol=1e-5)
    after.face_logit.sum().backward()
    assert large.fc_clc.weight.grad[:, 8 * 4 :].abs().sum() > 0  # what the new filters see


def test_a_network_cannot_shrink():
    small, large = Discriminator(LITE, 32), Discriminator(replace(LITE, lite_widths=(4, 4, 8, 8, 16)), 32)
    with pytest.raises(CheckpointError, match="widths may grow, not shrink"):
        grow(small, large.state_dict())


@pytest.mark.parametrize("backbone", ["vgg_lite", "efficientnet_lite0"])
def test_a_deployed_network_answers_as_before_however_often_it_is_deployed(backbone):
    torch.manual_seed(0)
    form = DiscriminatorConfig(backbone=backbone, weights="none", fc_std=0.3, box=True, surroundings="mobilenet025")
    network = Discriminator(form, 32, 32).eval()
    crops, surroundings = torch.rand(16, 3, 32, 32), torch.rand(16, 3, 32, 32)
    with torch.no_grad():
        before = network(crops, surroundings)
        network.deploy()
        network.deploy()
        for old, new in zip(before, network(crops, surroundings), strict=True):
            spread = float(old.std(dim=0).mean())  # of a network without training it is small
            assert spread > 0 and float((old - new).abs().max()) < 0.01 * spread
