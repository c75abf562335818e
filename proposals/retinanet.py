"""RetinaNet for faces (Lin et al. 2017): RefineFace's baseline (Zhang et al. 2019, section 3), with levels 2 to 7."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from proposals.anchored import AnchoredConfig, AnchoredNetwork, other_backbone
from proposals.anchors import Sides, shaped
from proposals.backbones import BackboneName, Normalise, build_backbone
from proposals.detector import PyramidDetector, load_detector
from proposals.output import Output, cat_levels
from proposals.views import positive
from tinygan.proposers import Entry
from tinygan.runtime import Runtime, one_thread

LEVEL_STRIDES = (4, 8, 16, 32, 64, 128)  # P2 to P7


@dataclass(frozen=True, kw_only=True)
class RetinaNetConfig(AnchoredConfig):
    """Network and thresholds; defaults as in RefineFace, where it is the baseline.

    Attributes:
        backbone: ``resnet18`` to ``resnet152`` (the paper: ``resnet50``), or ``mobilenet025``.
        anchor_scales: square roots of the areas of a cell's anchors in strides.
        aspect: height over width of the anchors; not stated in the paper.
        channels: number of channels of the pyramid and of the subnets.
        subnet_depth: number of convolutions before the prediction in the class subnet, and in the box subnet.
        prior: face probability that every anchor has before training (Lin et al. 2017).
    """

    score_threshold: float = 0.05
    backbone: BackboneName = "resnet50"
    anchor_scales: tuple[float, ...] = (2.0, 2 * math.sqrt(2))
    aspect: float = 1.25
    channels: int = 256
    subnet_depth: int = 4
    prior: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.anchor_scales or not positive((*self.anchor_scales, self.aspect)):
            raise ValueError(f"anchor_scales and aspect are above 0, got {self.anchor_scales} and {self.aspect}")
        if self.channels < 1 or self.subnet_depth < 0:
            raise ValueError(
                f"channels is at least 1, subnet_depth at least 0; got {self.channels}, {self.subnet_depth}"
            )
        if not 0 < self.prior < 1:
            raise ValueError(f"prior lies in (0, 1), got {self.prior}")

    @property
    def level_strides(self) -> tuple[int, ...]:
        """See :class:`proposals.anchored.AnchoredConfig`."""
        return LEVEL_STRIDES

    @property
    def level_sides(self) -> tuple[tuple[Sides, ...], ...]:
        """See :class:`proposals.anchored.AnchoredConfig`."""
        return tuple(tuple(shaped(scale * stride, self.aspect) for scale in self.anchor_scales)
                     for stride in LEVEL_STRIDES)  # fmt: skip


class RetinaNetNetwork(AnchoredNetwork):
    """Backbone, pyramid, and two subnets that all levels share.

    Args:
        config: the backbone, the anchors and the widths.
    """

    config: RetinaNetConfig

    def __init__(self, config: RetinaNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, anchors = config.channels, len(config.anchor_scales)
        self.normalise = Normalise(config.backbone)
        self.body = build_backbone(config.backbone)
        self.fpn = FeaturePyramidNetwork(list(self.body.channels), channels, LastLevelP6P7(channels, channels))
        self.faces, self.boxes = self.build_subnet(anchors), self.build_subnet(4 * anchors)
        for layer in (*self.fpn.modules(), *self.faces.modules(), *self.boxes.modules()):
            if isinstance(layer, nn.Conv2d):
                start(layer)
        start(self.faces[-1], -math.log(1 / config.prior - 1))

    def build_subnet(self, outputs: int) -> nn.Sequential:
        """A subnet that predicts ``outputs`` numbers of each cell."""
        return subnet(self.config.channels, self.config.subnet_depth, outputs)

    def forward(self, pictures: Tensor) -> Output:
        """Judge every anchor.

        Args:
            pictures: RGB [B, 3, H, W] in [0, 255], uint8 or float.
        """
        return self.judge(self.pyramid(self.body(self.normalise(pictures))))

    def pyramid(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The levels P2 to P7 [B, channels, H, W] of the backbone's maps C2 to C5."""
        return list(self.fpn(OrderedDict((str(at), one) for at, one in enumerate(maps))).values())

    def judge(self, levels: Sequence[Tensor]) -> Output:
        """What the subnets say of the anchors of all levels."""
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]  # no int(): an export keeps them free
        face_logits = cat_levels([self.faces(level) for level in levels], 1)[..., 0]
        return Output(face_logits, cat_levels([self.boxes(level) for level in levels], 4), None, sizes)

    def describe(self, tensors: dict[str, Tensor]) -> tuple[str, str]:
        """See :class:`proposals.anchored.AnchoredNetwork`."""
        hint = other_backbone(tensors, self.config.backbone) or "; expected layers body, fpn, faces and boxes"
        return f"RetinaNet with backbone {self.config.backbone}", hint


def subnet(channels: int, depth: int, outputs: int) -> nn.Sequential:
    """Some 3x3 convolutions, each with a ReLU, and a 3x3 convolution that predicts ``outputs`` numbers of a cell."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(channels, channels, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(channels, outputs, kernel_size=3, padding=1))


def start(layer: nn.Module, bias: float = 0.0) -> None:
    """Draw a convolution's first weights (Glorot & Bengio 2010) and set its bias."""
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    nn.init.xavier_uniform_(layer.weight)
    nn.init.constant_(layer.bias, bias)


@one_thread()  # threads of torch started here would keep a process forked later from computing
def build_retinanet(config: RetinaNetConfig, weights: Path | None, runtime: Runtime) -> PyramidDetector[Output]:
    """Build the network, and load weights if there are any.

    Raises:
        CheckpointError: if ``weights`` is absent, no PyTorch file, or of another network.
    """
    return load_detector(RetinaNetNetwork(config), config, weights, runtime)


ENTRY = Entry(
    RetinaNetConfig,
    build_retinanet,
    recipe="proposals.train.retinanet:RetinaNetRecipe",
    wanted="a run of tinygan-train-proposer",
)
