"""The discriminator: VGG19 without its last max-pool, then two parallel heads (Bai et al. 2018, section 3.2).

As the judge it may have a third head, which says where the face lies (as in SOD-MTGAN, Bai et al. 2018b), and a second,
smaller tower that sees the surroundings. Neither is in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from tinygan.errors import CheckpointError
from tinygan.models.blocks import Normalise, conv_bn_relu
from tinygan.models.surroundings import Surroundings

REACH = 2.0  # a face's centre lies within so many sides of the proposal's, its size within e^2 times


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Form of the discriminator.

    Attributes:
        backbone: ``vgg19`` (the paper), ``vgg19_bn``, or ``vgg_lite``: five stages of 3x3 convolutions with BN.
        weights: what training starts from: ``imagenet`` (the paper), fetched through torchvision by
            :func:`tinygan.models.build.build_discriminator`, or ``none``. ``vgg_lite`` has none.
        lite_widths: filters of ``vgg_lite``'s five stages.
        lite_depths: convolutions in each of them.
        fc_std: the heads' weights start from N(0, fc_std): 0.1 in the paper; a network without
            pretrained weights wants 0.01.
        box: whether there is the third head, ``fc_box``.
        surroundings: ``mobilenet025``: a second tower sees what lies around the proposal (see
            :mod:`tinygan.models.surroundings`); ``none`` (the paper): there is no such tower.
    """

    backbone: Literal["vgg19", "vgg19_bn", "vgg_lite"] = "vgg19"
    weights: Literal["imagenet", "none"] = "imagenet"
    lite_widths: tuple[int, ...] = (24, 48, 96, 128, 192)
    lite_depths: tuple[int, ...] = (1, 1, 2, 2, 2)
    fc_std: float = 0.1
    box: bool = False
    surroundings: Literal["none", "mobilenet025"] = "none"

    def __post_init__(self) -> None:
        if self.backbone == "vgg_lite" and self.weights != "none":
            raise ValueError("vgg_lite has no ImageNet weights; set weights: none")
        if len(self.lite_widths) != 5 or len(self.lite_depths) != 5:
            raise ValueError("lite_widths and lite_depths have five entries, one a stage")
        if min(*self.lite_widths, *self.lite_depths) < 1:
            raise ValueError("lite_widths and lite_depths must be at least 1")


class Judgement(NamedTuple):
    """The discriminator's answers.

    Attributes:
        real_logit: [B], real picture (positive) or generated (fc_gan).
        face_logit: [B], face (positive) or not (fc_clc).
        box: [B, 4], where the face lies (fc_box): ``x1, y1, x2, y2`` from the proposal's centre, in units of its
            longer side; ``None`` without that head.
    """

    real_logit: Tensor
    face_logit: Tensor
    box: Tensor | None = None


class Discriminator(nn.Module):
    """Tells real from generated and face from non-face, jointly.

    Its weights are random, whatever ``config.weights`` says.

    Args:
        config: backbone and heads.
        hr_size: side of the input in pixels.
        wide_size: side of the second input in pixels; only with ``surroundings``.
    """

    def __init__(self, config: DiscriminatorConfig, hr_size: int, wide_size: int = 0) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise()
        self.features, channels = _backbone(config)
        inputs = channels * (hr_size // 16) ** 2  # four max-pools
        self.surroundings = None
        if config.surroundings != "none":
            self.surroundings = Surroundings()
            inputs += Surroundings.count(wide_size)
        self.fc_gan = nn.Linear(inputs, 1)
        self.fc_clc = nn.Linear(inputs, 1)
        self.fc_box = nn.Linear(inputs, 4) if config.box else None
        for head, std in ((self.fc_gan, config.fc_std), (self.fc_clc, config.fc_std), (self.fc_box, 0.001)):
            if head is not None:
                nn.init.normal_(head.weight, 0.0, std)
                nn.init.zeros_(head.bias)

    def forward(self, hr: Tensor, wide: Tensor | None = None) -> Judgement:
        """Judge pictures.

        Args:
            hr: float [B, 3, S, S], RGB in [0, 1], S = ``hr_size``.
            wide: float [B, 3, W, W], the surroundings; only for a network with ``surroundings``.

        Returns:
            The answers of all heads.
        """
        features = self.features(self.normalise(hr)).flatten(1)
        if self.surroundings is not None:
            assert wide is not None, "this discriminator judges by the surroundings too"
            features = torch.cat([features, self.surroundings(wide)], dim=1)
        box = None if self.fc_box is None else _decode(self.fc_box(features))
        return Judgement(self.fc_gan(features).squeeze(1), self.fc_clc(features).squeeze(1), box)


def grow(network: Discriminator, trained: Mapping[str, Tensor]) -> None:
    """Start a discriminator from a narrower one with fewer heads, so that it answers as that one does.

    Filters that are new keep their initial weights, but nothing old listens to them yet.

    Args:
        network: as initialised; of the same depth, no layer narrower.
        trained: the other's state dict.

    Raises:
        CheckpointError: if a layer of it has no place in ``network``.
    """
    state = network.state_dict()
    for name, old in trained.items():
        new = state.get(name)
        if new is None or new.dim() != old.dim() or any(n < o for n, o in zip(new.shape, old.shape, strict=True)):
            raise CheckpointError(
                f"discriminator: {name} {list(old.shape)} has no place in a network with "
                f"{'none of that name' if new is None else list(new.shape)}; widths may grow, not shrink"
            )
        if new.dim() > 1:
            new[: old.shape[0]] = 0
        new[tuple(slice(size) for size in old.shape)] = old
    network.load_state_dict(state)


def _decode(raw: Tensor) -> Tensor:
    """Centre and logarithm of the size, [B, 4], to corners; kept within bounds that leave every gradient alive."""
    bounded = REACH * torch.tanh(raw.float() / REACH)
    centre, half = bounded[:, :2], bounded[:, 2:].exp() / 2
    return torch.cat([centre - half, centre + half], dim=1)


def _backbone(config: DiscriminatorConfig) -> tuple[nn.Sequential, int]:
    if config.backbone == "vgg_lite":
        return _vgg_lite(config.lite_widths, config.lite_depths), config.lite_widths[-1]
    from torchvision import models

    build = {"vgg19": models.vgg19, "vgg19_bn": models.vgg19_bn}[config.backbone]
    vgg = build(weights=None, init_weights=config.weights == "none")  # ImageNet's take their place anyway
    return vgg.features[:-1], 512  # without the last max-pool


def _vgg_lite(widths: Sequence[int], depths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for _ in range(depth):
            layers.append(conv_bn_relu(channels, width))
            channels = width
        if stage < 4:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)
