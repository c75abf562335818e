"""The discriminator: VGG19 without its last max-pool, then two parallel heads (Bai et al. 2018, section 3.2).

After stage ``judge`` it may also have a third head, which predicts the box of the face (as in SOD-MTGAN, Bai et al.
2018b), and a second, smaller tower, which sees the surroundings of the proposal. Neither is in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from tinygan.errors import CheckpointError, ConfigError
from tinygan.models import centerface, efficientnet
from tinygan.models.blocks import Centre, Normalise, conv_bn_relu
from tinygan.models.surroundings import Surroundings

# Limit of the third head: in x and in y, the centre of the predicted face is less than 2 sides of the proposal away
# from the proposal's centre; its width and its height are between e^-2 and e^2 sides.
REACH = 2.0
Backbone = Literal["vgg19", "vgg19_bn", "vgg_lite", "efficientnet_lite0", "centerface"]


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Form of the discriminator.

    Attributes:
        backbone: ``vgg19`` (the paper), ``vgg19_bn``, ``vgg_lite``: five stages of 3x3 convolutions with BN,
            ``efficientnet_lite0``: see :mod:`tinygan.models.efficientnet`, or ``centerface``: see
            :mod:`tinygan.models.centerface`.
        weights: what training starts from: ``imagenet`` (the paper), fetched by
            :func:`tinygan.models.build.build_discriminator`, or ``none``. ``vgg_lite`` has none; of ``centerface``
            it means the detector's public weights.
        lite_widths: number of filters in each of ``vgg_lite``'s five stages.
        lite_depths: number of convolutions in each of these stages.
        fc_std: standard deviation of the heads' initial weights, whose mean is 0. The paper has 0.1; a network without
            pretrained weights needs a smaller one, 0.01.
        box: whether there is a third head, ``fc_box``, which predicts the box of the face.
        surroundings: ``mobilenet025``: a second tower sees the surroundings of the proposal (see
            :mod:`tinygan.models.surroundings`); ``none`` (the paper): there is no second tower.
    """

    backbone: Backbone = "vgg19"
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
        real_logit: [B], logit of a real picture (positive) against a generated one (negative), from head ``fc_gan``.
        face_logit: [B], logit of a face (positive) against a non-face (negative), from head ``fc_clc``.
        box: [B, 4], the predicted box of the face, from head ``fc_box``: ``x1, y1, x2, y2`` relative to the proposal's
            centre, in units of the proposal's longer side; ``None`` without that head.
    """

    real_logit: Tensor
    face_logit: Tensor
    box: Tensor | None = None


class Discriminator(nn.Module):
    """Tells real from generated pictures and faces from non-faces, with shared features.

    Its initial weights are random, whatever ``config.weights`` says. That pictures are normalised as for ImageNet is
    not stated in the paper.

    Args:
        config: the backbone and the heads.
        hr_size: side of the input in pixels.
        wide_size: side of the second input, the surroundings, in pixels; unused without ``surroundings``.

    Raises:
        ConfigError: if the backbone cannot see pictures of ``hr_size``.
    """

    def __init__(self, config: DiscriminatorConfig, hr_size: int, wide_size: int = 0) -> None:
        super().__init__()
        self.config = config
        if config.backbone == "centerface" and hr_size % centerface.COARSEST:
            raise ConfigError(
                f"backbone centerface sees crops of a multiple of {centerface.COARSEST} px, got {hr_size}"
            )
        self.features, channels = _backbone(config)
        self.normalise = _normalise(config.backbone)
        self.cells = (hr_size // 16) ** 2  # of the features' maps, after four max-pools or four strides of 2
        inputs = channels * self.cells
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

    @property
    def heads(self) -> list[nn.Linear]:
        """All heads that it has."""
        return [head for head in (self.fc_gan, self.fc_clc, self.fc_box) if head is not None]

    @torch.no_grad()
    def deploy(self) -> None:
        """Let the first convolutions scale the colours: a pass over each picture less; it is trained no more."""
        if isinstance(self.normalise, Normalise):
            next(layer for layer in self.features.modules() if isinstance(layer, nn.Conv2d)).weight.div_(
                self.normalise.std
            )
            self.normalise = Centre(self.normalise.mean)
        if self.surroundings is not None:
            self.surroundings.deploy()

    def forward(self, hr: Tensor, wide: Tensor | None = None) -> Judgement:
        """Judge pictures.

        Args:
            hr: float [B, 3, S, S], RGB in [0, 1], S = ``hr_size``.
            wide: float [B, 3, W, W], RGB in [0, 1], the surroundings; needed by a network with ``surroundings`` alone.

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
    """Copy the weights of a narrower discriminator with fewer heads, so that at first both give the same answers.

    Filters, heads and towers that are new keep their initial weights. The copied filters and heads get weights of 0 for
    new inputs, so new filters have no effect on them until they are trained.

    Args:
        network: the wider discriminator, with initial weights; it has the same depth, and no layer is narrower.
        trained: state dict of the narrower discriminator.

    Raises:
        CheckpointError: if a layer in ``trained`` does not fit into ``network``.
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
    """Centre and logarithm of the size, [B, 4], to corners, [B, 4]; tanh keeps them within :data:`REACH`."""
    bounded = REACH * torch.tanh(raw.float() / REACH)
    centre, half = bounded[:, :2], bounded[:, 2:].exp() / 2
    return torch.cat([centre - half, centre + half], dim=1)


def _normalise(backbone: Backbone) -> nn.Module:
    """What is done to pictures, RGB in [0, 1], before a backbone sees them."""
    if backbone == "efficientnet_lite0":
        return Normalise(efficientnet.MEAN, efficientnet.STD)
    return nn.Identity() if backbone == "centerface" else Normalise()


def _backbone(config: DiscriminatorConfig) -> tuple[nn.Module, int]:
    if config.backbone == "centerface":
        return centerface.CenterFaceFeatures(), centerface.CHANNELS
    if config.backbone == "efficientnet_lite0":
        return efficientnet.EfficientNetLite0(), efficientnet.CHANNELS
    if config.backbone == "vgg_lite":
        return _vgg_lite(config.lite_widths, config.lite_depths), config.lite_widths[-1]
    from torchvision import models

    build = {"vgg19": models.vgg19, "vgg19_bn": models.vgg19_bn}[config.backbone]
    vgg = build(weights=None, init_weights=config.weights == "none")  # ImageNet weights are loaded over these anyway
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
