import pytest
import torch

from proposals.backbones import MEAN_BGR, MEAN_RGB, STD_RGB, Normalise, build_backbone
from tinygan.models.folding import fold_batch_norm


@pytest.mark.parametrize("name", ["mobilenet025", "resnet18", "resnet34", "resnet50", "resnet101"])
def test_maps_at_strides_4_to_32(name):
    network = build_backbone(name).eval()
    maps = network(torch.rand(1, 3, 64, 33))
    assert [tuple(one.shape[1:]) for one in maps] == [
        (channels, 64 // stride, -(-33 // stride))
        for channels, stride in zip(network.channels, (4, 8, 16, 32), strict=True)
    ]


def test_a_dilated_last_map_keeps_its_size():
    maps = build_backbone("resnet50", last_stride=1).eval()(torch.rand(1, 3, 64, 64))
    assert maps[3].shape == (1, 2048, 4, 4)


@pytest.mark.parametrize("name", ["mobilenet025", "resnet18"])
def test_other_backbones_cannot_be_dilated(name):
    with pytest.raises(ValueError, match="cannot keep the stride of its last map at 16"):
        build_backbone(name, last_stride=1)


@pytest.mark.parametrize("name", ["mobilenet025", "resnet18", "resnet50"])
def test_folded_batch_norm_changes_nothing(name, noise):
    torch.manual_seed(0)
    network = build_backbone(name)
    pictures = noise(64, 64)[None].float() / 255
    network.train()(torch.cat([pictures, pictures.flip(2)]))  # statistics other than 0 and 1
    before = network.eval()(pictures)
    fold_batch_norm(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    for one, other in zip(before, network(pictures), strict=True):
        assert torch.allclose(one, other, atol=1e-4 * one.abs().max().item())


def test_each_backbone_is_given_what_it_is_used_to():
    pictures = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    pictures[0, 0] = 200  # red
    mobile, residual = Normalise("mobilenet025")(pictures).flatten(), Normalise("resnet18")(pictures).flatten()
    assert mobile.tolist() == [-MEAN_BGR[0], -MEAN_BGR[1], 200 - MEAN_BGR[2]]
    assert residual.tolist() == pytest.approx([(200 - MEAN_RGB[0]) / STD_RGB[0], -MEAN_RGB[1] / STD_RGB[1],
                                              -MEAN_RGB[2] / STD_RGB[2]])  # fmt: skip
