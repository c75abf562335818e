"""Layers that are faster on a CPU give the same answers."""

import pickle
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from proposals.detector import DetectorNetwork
from proposals.retinaface import RetinaFaceConfig, RetinaFaceNetwork
from proposals.yunet import YuNetConfig, YuNetNetwork
from tinygan.models import fused
from tinygan.models.blocks import InvertedResidual
from tinygan.models.discriminator import Discriminator, DiscriminatorConfig
from tinygan.models.folding import fold_batch_norm, fold_padding
from tinygan.models.fused import fuse_layers

needs_operator = pytest.mark.skipif(not fused._is_there(torch.float32), reason="needs oneDNN on x86")
needs_bf16 = pytest.mark.skipif(not fused._is_there(torch.bfloat16), reason="needs oneDNN in bf16")


def trained(network: nn.Module) -> nn.Module:
    """Batch normalisations get statistics of a training, so that folding them changes weights."""
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.copy_(torch.randn(layer.num_features, generator=generator) * 0.1)
            layer.running_var.copy_(torch.rand(layer.num_features, generator=generator) + 0.5)
    return network.eval()


def judge(backbone: str) -> tuple[Discriminator, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    config = DiscriminatorConfig(backbone=backbone, weights="none", box=True, surroundings="mobilenet025")  # type: ignore[arg-type]
    network = Discriminator(config, 64, 72)
    trained(network)
    fold_batch_norm(network)
    network.deploy()
    pictures = [torch.rand(3, 3, side, side).contiguous(memory_format=torch.channels_last) for side in (64, 72)]
    return fold_padding(network), tuple(pictures)  # type: ignore[return-value]


def detector(network: DetectorNetwork[Any]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    trained(network)
    fold_batch_norm(network)
    network.deploy()
    return network, (torch.randint(0, 255, (1, 3, 96, 160)).float().contiguous(memory_format=torch.channels_last),)


def networks() -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    torch.manual_seed(0)
    return {
        "vgg_lite": judge("vgg_lite"),
        "efficientnet_lite0": judge("efficientnet_lite0"),
        "yunet": detector(YuNetNetwork(YuNetConfig(norm=True, fine=True))),
        "retinaface": detector(RetinaFaceNetwork(RetinaFaceConfig())),
    }


@needs_operator
@pytest.mark.parametrize("name", ["vgg_lite", "efficientnet_lite0", "yunet", "retinaface"])
@torch.inference_mode()
def test_answers_are_the_same(name: str) -> None:
    network, pictures = networks()[name]
    before = [answer for answer in network(*pictures) if isinstance(answer, Tensor)]
    faster = deepcopy(network)
    fuse_layers(faster, torch.float32)
    assert not [layer for layer in faster.modules() if isinstance(layer, nn.Conv2d | nn.MaxPool2d)]
    after = [answer for answer in faster(*pictures) if isinstance(answer, Tensor)]
    assert len(before) == len(after) > 0
    for one, other in zip(before, after, strict=True):
        assert torch.allclose(one, other, atol=1e-4 * float(one.std()), rtol=1e-4)


@needs_bf16
@torch.inference_mode()
def test_in_bf16_answers_are_about_the_same() -> None:
    network, pictures = networks()["vgg_lite"]
    exact = network.features(network.normalise(pictures[0]))  # type: ignore[operator]
    fuse_layers(network, torch.bfloat16)
    rounded = network.features(network.normalise(pictures[0]))  # type: ignore[operator]
    assert rounded.dtype == torch.bfloat16
    assert 0 < float((rounded - exact).abs().max()) < 0.1 * float(exact.std())


@needs_operator
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.1), nn.Sigmoid()])
@torch.inference_mode()
def test_each_activation(activation: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Identity(), activation).eval()
    network[0].weight.mul_(20)  # type: ignore[operator]
    picture = torch.randn(2, 3, 9, 7)
    before = network(picture)
    fuse_layers(network, torch.float32)
    assert torch.allclose(network(picture), before, atol=1e-4)


@needs_operator
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.1), nn.Sigmoid()])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@torch.inference_mode()
def test_a_product_answers_as_the_convolution_at_every_size(activation: nn.Module, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(20, 70, 1, bias=isinstance(activation, nn.ReLU)), activation).eval()
    network[0].weight.mul_(5)  # type: ignore[operator]
    sizes = ((2, 20, 9, 7), (1, 20, 1, 1), (8, 20, 40, 3), (1, 20, 32, 32), (8, 20, 40, 20), (0, 20, 5, 6))
    assert 1 * 32 * 32 <= fused.SMALL < 8 * 40 * 20
    pictures = [torch.randn(size).contiguous(memory_format=layout) for size in sizes]
    before = [network(picture) for picture in pictures]
    fuse_layers(network, torch.float32)
    assert isinstance(network[0], fused._FusedProduct)
    for picture, wanted in zip(pictures, before, strict=True):
        assert network(picture).shape == wanted.shape and torch.allclose(network(picture), wanted, atol=1e-4)


@needs_operator
@torch.inference_mode()
def test_a_small_product_is_as_exact_where_the_caller_has_autocast() -> None:
    torch.manual_seed(0)
    network, picture = nn.Sequential(nn.Conv2d(20, 70, 1), nn.ReLU()).eval(), torch.randn(1, 20, 6, 6)
    before = network(picture)
    fuse_layers(network, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        after = network(picture)
    assert after.dtype == torch.float32 and torch.allclose(after, before, atol=1e-5)


@needs_operator
@pytest.mark.parametrize("side", [6, 40])
@torch.inference_mode()
def test_the_last_product_of_a_block_adds_its_input(side: int) -> None:
    torch.manual_seed(0)
    wide, narrow = nn.Conv2d(8, 24, 1), nn.Conv2d(24, 8, 1)
    layers = [wide, nn.ReLU6(), nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.ReLU6(), narrow]
    for residual in (True, False):
        network = nn.Sequential(InvertedResidual(deepcopy(layers), residual), nn.ReLU()).eval()
        picture = torch.randn(2, 8, side, side).contiguous(memory_format=torch.channels_last)
        before, given = network(picture), picture.clone()
        fuse_layers(network, torch.float32)
        assert isinstance(network[0], fused._FusedResidual) is residual
        assert torch.allclose(network(picture), before, atol=1e-5) and torch.equal(picture, given)
        assert torch.allclose(deepcopy(network)(picture), before, atol=1e-5)


@needs_operator
@torch.inference_mode()
def test_what_is_no_product_stays_a_convolution() -> None:
    layers = [nn.Conv2d(4, 4, 1, stride=2), nn.Conv2d(4, 4, 1, padding=1), nn.Conv2d(4, 4, 1, groups=2)]
    network, picture = nn.Sequential(*layers, nn.Conv2d(4, 4, 1, dilation=2)).eval(), torch.randn(1, 4, 12, 12)
    before = network(picture)
    fuse_layers(network, torch.float32)
    assert [type(layer) for layer in network] == [fused._FusedConv] * 3 + [fused._FusedProduct]
    assert torch.allclose(network(picture), before, atol=1e-5)


@needs_operator
@torch.inference_mode()
def test_only_pooling_by_two_is_replaced_and_odd_sides_are_rounded_down() -> None:
    pools = nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(2, ceil_mode=True))
    picture = torch.randn(2, 5, 15, 11).contiguous(memory_format=torch.channels_last)
    before = pools(picture)
    fuse_layers(pools, torch.float32)
    assert torch.equal(pools(picture), before)
    assert [isinstance(pool, nn.MaxPool2d) for pool in pools] == [False, True, True]


@needs_operator
@torch.inference_mode()
def test_a_network_in_use_goes_to_another_process() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    fuse_layers(network, torch.float32)
    picture = torch.randn(1, 3, 6, 6)
    answer = network(picture)
    assert torch.equal(pickle.loads(pickle.dumps(network))(picture), answer)
    assert torch.equal(deepcopy(network)(picture), answer)


@needs_operator
@torch.inference_mode()
def test_an_activation_that_runs_twice_stays() -> None:
    """As those of ResNet, which also follow its sums."""
    network = fold_batch_norm(trained(resnet18(weights=None)))
    picture = torch.rand(1, 3, 64, 64)
    before = network(picture)
    fuse_layers(network, torch.float32)
    assert torch.allclose(network(picture), before, atol=1e-4 * float(before.std()))


def fail(*_: object) -> None:
    raise RuntimeError("bf16 path needs the cpu support avx512bw, avx512vl and avx512dq")


@pytest.mark.parametrize(
    ("name", "instead"),
    [("torch.backends.cpu.get_cpu_capability", lambda: "DEFAULT"), ("tinygan.models.fused._FusedConv.forward", fail)],
)
def test_without_the_operator_layers_stay(
    name: str, instead: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name, instead)
    fused._is_there.cache_clear()
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    fuse_layers(network, torch.bfloat16)
    monkeypatch.undo()
    fused._is_there.cache_clear()
    assert isinstance(network[0], nn.Conv2d)


@needs_operator
def test_whether_the_operators_are_there_does_not_depend_on_the_caller() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        there, before = fused._is_there(dtype), torch.get_rng_state()
        fused._is_there.cache_clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert fused._is_there(dtype) == there
        fused._is_there.cache_clear()
        torch.set_default_dtype(torch.float64)
        try:
            assert fused._is_there(dtype) == there
        finally:
            torch.set_default_dtype(torch.float32)
        fused._is_there.cache_clear()
        with torch.inference_mode():
            assert fused._is_there(dtype) == there
        assert torch.equal(torch.get_rng_state(), before)
