"""Layers that run strip by strip give the answers of the whole, and only where it pays."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proposals import yunet
from proposals.centerface import CenterFaceNetwork
from proposals.detector import DetectorNetwork
from proposals.yunet import YuNetConfig, YuNetNetwork
from tinygan.models import centerface, strips
from tinygan.models.centerface import CenterFaceTrunk
from tinygan.models.strips import in_strips


class Counted:
    """Layers that remember how tall the strips were that they saw."""

    def __init__(self, *layers: nn.Module) -> None:
        self.layers, self.heights = nn.Sequential(*layers).eval(), list[int]()

    def __call__(self, features: Tensor) -> Tensor:
        self.heights.append(features.shape[2])
        answer: Tensor = self.layers(features)
        return answer


def two_layers() -> Counted:
    """One pixel of the answer sees a pixel of the picture beyond its own two, and three pixels further on."""
    torch.manual_seed(0)
    return Counted(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))


@pytest.mark.parametrize("height", [38, 40, 42, 64])
@torch.inference_mode()
def test_strips_answer_as_the_whole(height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layers, picture = two_layers(), torch.randn(1, 2, height, 6)
    whole = layers(picture)
    monkeypatch.setattr(strips, "MOST_VALUES", 60)
    answer = in_strips(layers, picture, stride=2, reach=3, widest=1)
    strips_seen = layers.heights[1:]
    assert len(strips_seen) > 1 and len(set(strips_seen)) == 1 and strips_seen[0] < height
    assert answer.shape == whole.shape and torch.allclose(answer, whole, atol=1e-6)


@torch.inference_mode()
def test_a_strip_that_saw_less_than_its_layers_reach_would_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test before can fail."""
    layers, picture = two_layers(), torch.randn(1, 2, 64, 6)
    monkeypatch.setattr(strips, "MOST_VALUES", 60)
    assert not torch.allclose(in_strips(layers, picture, stride=2, reach=0, widest=1), layers(picture), atol=1e-3)


@torch.inference_mode()
def test_small_pictures_and_batches_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = two_layers()
    in_strips(layers, torch.randn(1, 2, 64, 6), stride=2, reach=3, widest=1)
    monkeypatch.setattr(strips, "MOST_VALUES", 60)
    in_strips(layers, torch.randn(2, 2, 64, 6), stride=2, reach=3, widest=1)
    assert layers.heights == [64, 64]


def test_training_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "MOST_VALUES", 60)
    layers = two_layers()
    assert in_strips(layers, torch.randn(1, 2, 64, 6), stride=2, reach=3, widest=1).requires_grad
    assert layers.heights == [64]


@torch.inference_mode()
def test_answers_as_large_as_any_map_are_cut_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "MOST_VALUES", 60)
    monkeypatch.setattr(strips, "MOST_KEPT", 200)
    layers, picture = two_layers(), torch.randn(1, 2, 64, 6)
    whole = layers(picture)
    for widest, count in ((0.5, 1), (1, 2)):
        layers.heights.clear()
        answer = in_strips(layers, picture, stride=2, reach=3, widest=widest, as_large=True)
        assert len(layers.heights) == count and torch.allclose(answer, whole, atol=1e-6)


@pytest.mark.parametrize("module", [centerface, yunet])
@torch.inference_mode()
def test_networks_name_the_reach_of_their_layers(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network: DetectorNetwork[Any] = CenterFaceNetwork() if module is centerface else YuNetNetwork(YuNetConfig())
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):  # or far pixels would hardly count
            nn.init.kaiming_normal_(layer.weight)
    picture = torch.randint(0, 255, (1, 3, 512, 64), dtype=torch.uint8)
    whole = network.eval().double().scores(network(picture))  # exact: strips of few values are many
    heights: list[list[int]] = []

    def watched(layers: Callable[[Tensor], Tensor], features: Tensor, *rest: Any, **named: Any) -> Tensor:
        own: list[int] = []
        heights.append(own)

        def layers_of_strip(part: Tensor) -> Tensor:
            own.append(part.shape[2])
            return layers(part)

        return in_strips(layers_of_strip, features, *rest, **named)

    monkeypatch.setattr(module, "in_strips", watched)
    monkeypatch.setattr(strips, "MOST_VALUES", 20_000)
    monkeypatch.setattr(strips, "MOST_KEPT", 20_000)
    answer = network.scores(network(picture))
    assert len(heights[0]) > 3 and len(heights[1]) > 3 and all(len(set(own)) == 1 for own in heights)
    assert torch.allclose(answer, whole, atol=1e-5)


def seen_rows(layers: nn.Module, inputs: int, stride: int) -> tuple[int, int]:
    """How many rows above and below its own a pixel of the answer sees."""
    features = torch.randn(1, inputs, 64, 32, requires_grad=True)
    layers(features)[0, :, 32 // stride, 16 // stride].sum().backward()
    assert features.grad is not None
    rows = features.grad.abs().sum(dim=(0, 1, 3)).nonzero()[:, 0]
    return 32 - int(rows[0]), int(rows[-1]) - (32 + stride - 1)


@pytest.mark.parametrize("number", range(1, len(centerface.STAGES)))
@pytest.mark.parametrize("at", [0, 1])
def test_a_block_sees_a_pixel_beyond_its_own_and_is_six_times_as_wide_as_its_input(number: int, at: int) -> None:
    """As the trunk says of it, which cuts it in strips."""
    torch.manual_seed(0)
    blocks, stage = list(CenterFaceTrunk().stages[number].children()), centerface.STAGES[number]
    if at >= len(blocks):
        pytest.skip("the stage has one block")
    inputs, stride = (stage.channels, 1) if at else (centerface.STAGES[number - 1].channels, stage.stride)
    largest = [0]
    for layer in blocks[at].modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 0.01)
            layer.register_forward_hook(lambda _layer, _inputs, made: largest.append(made[0].numel()))
        elif isinstance(layer, nn.ReLU):
            layer.register_forward_hook(lambda _layer, inputs, _made: inputs[0])  # or some gradients would be 0
    assert max(seen_rows(blocks[at], inputs, stride)) == 1
    assert max(largest) == centerface.EXPANSION * inputs * 64 * 32
