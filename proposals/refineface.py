"""RefineFace (Zhang et al. 2019): RetinaNet with five modules, each of which can be switched off.

- STR (``str_levels``): a first step moves the anchors of these levels, which a second step then regresses from.
- STC (``stc_levels``): a first step drops the anchors of these levels that are surely background.
- RFE (``rfe``): the subnets see long and tall shapes.
- FSM (``fsm``): in training alone, regions of the pyramid are judged.
- SML, a margin that makes small faces harder to learn, is a loss: ``losses.sml_alpha``.

With empty levels and the switches off the network is RetinaNet: same layers, same numbers. What the paper does not say
of the first step is taken from its authors' SRN (Chi et al. 2019): a 1x1 convolution of each map C, and then the same
subnets as on P.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from proposals.detector import PyramidDetector, load_detector
from proposals.output import First, Output, cat_levels
from proposals.receptive import SHARE, ReceptiveField
from proposals.retinanet import LEVEL_STRIDES, RetinaNetConfig, RetinaNetNetwork, start
from proposals.supervision import FIRST_LEVEL, Supervision
from tinygan.models.public_weights import load_into, load_tensors
from tinygan.proposers import Entry
from tinygan.runtime import Runtime, one_thread

LEVELS = tuple(range(FIRST_LEVEL, FIRST_LEVEL + len(LEVEL_STRIDES)))
C5, C6, C7 = 5, 6, 7
TRAINED_ALONE = "supervision."  # the layers that only training has


@dataclass(frozen=True, kw_only=True)
class RefineFaceConfig(RetinaNetConfig):
    """Network and thresholds.

    Attributes:
        str_levels: levels, 2 to 7, on which a first step moves the anchors (the paper: 5, 6, 7).
        stc_levels: levels, 2 to 7, on which a first step drops anchors (the paper: 2, 3, 4).
        theta: background probability above which the first step drops an anchor.
        rfe: whether a block for long and tall shapes replaces the middle two convolutions of each subnet.
        fsm: whether regions are judged in training; the network that is saved has no trace of it.
        fsm_form: ``conv`` or ``fc``, see :class:`proposals.supervision.Supervision`.
        fsm_roi: cells per side of a region.
        fsm_regions: number of regions per picture; the paper has 512 and does not say of what.
    """

    str_levels: tuple[int, ...] = (5, 6, 7)
    stc_levels: tuple[int, ...] = (2, 3, 4)
    theta: float = 0.99
    rfe: bool = True
    fsm: bool = True
    fsm_form: Literal["conv", "fc"] = "conv"
    fsm_roi: int = 5
    fsm_regions: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("str_levels", "stc_levels"):
            chosen = getattr(self, name)
            if len(set(chosen)) != len(chosen) or not set(chosen) <= set(LEVELS):
                raise ValueError(f"{name} are some of the levels 2 to 7, each once; got {chosen}")
        if not 0 < self.theta < 1:
            raise ValueError(f"theta lies in (0, 1), got {self.theta}")
        if self.rfe and (self.subnet_depth < 2 or self.channels % SHARE):
            raise ValueError(
                f"rfe replaces two convolutions and divides channels by {SHARE}: subnet_depth is at least 2 and "
                f"channels a multiple of {SHARE}; got {self.subnet_depth} and {self.channels}"
            )
        if self.fsm_roi < 1 or self.fsm_regions < 1:
            raise ValueError(f"fsm_roi and fsm_regions must be at least 1, got {self.fsm_roi} and {self.fsm_regions}")

    @property
    def first_levels(self) -> tuple[int, ...]:
        """The levels of which a first step says anything."""
        return tuple(level for level in LEVELS if level in (*self.str_levels, *self.stc_levels))

    @property
    def dropped_below(self) -> float:
        """The first step drops anchors of a lower face probability."""
        return 1 - self.theta

    def levels_of_anchors(self, sizes: list[tuple[int, int]]) -> Tensor:
        """The level int64 [A] of each anchor, for levels of these sizes in cells."""
        counts = torch.tensor([height * width * len(self.anchor_scales) for height, width in sizes])
        return torch.tensor(LEVELS).repeat_interleave(counts)


class RefineFaceNetwork(RetinaNetNetwork):
    """RetinaNet, with layers ``first``, ``c6``, ``c7`` of a first step, and ``supervision``, where they are asked for.

    Args:
        config: the switches, and all that RetinaNet has.
    """

    config: RefineFaceConfig
    supervision: Supervision | None

    def __init__(self, config: RefineFaceConfig) -> None:
        super().__init__(config)
        deepest, inputs = max((0, *config.first_levels)), dict(zip(LEVELS, self.body.channels, strict=False))
        if deepest >= C6:
            inputs[C6] = inputs[C5] // 2
            self.c6 = nn.Conv2d(inputs[C5], inputs[C6], kernel_size=3, stride=2, padding=1)
            start(self.c6)
        if deepest >= C7:
            inputs[C7] = config.channels
            self.c7 = nn.Conv2d(inputs[C6], inputs[C7], kernel_size=3, stride=2, padding=1)
            start(self.c7)
        if config.first_levels:
            self.first = nn.ModuleDict(
                {f"c{at}": nn.Conv2d(inputs[at], config.channels, 1) for at in config.first_levels}
            )
            for layer in self.first.values():
                start(layer)
        self.supervision = Supervision(config.channels, config.fsm_roi, config.fsm_form) if config.fsm else None

    def build_subnet(self, outputs: int) -> nn.Sequential:
        """See :class:`proposals.retinanet.RetinaNetNetwork`; the middle two convolutions may be one block."""
        layers = list(super().build_subnet(outputs))
        if self.config.rfe:
            before = 2 * ((self.config.subnet_depth - 1) // 2)  # a convolution and its ReLU each
            layers[before : before + 4] = [ReceptiveField(self.config.channels)]
        return nn.Sequential(*layers)

    def forward(self, pictures: Tensor) -> Output:
        """Judge every anchor.

        Args:
            pictures: RGB [B, 3, H, W] in [0, 255], uint8 or float.
        """
        maps = self.body(self.normalise(pictures))
        levels = self.pyramid(maps)
        output = self.judge(levels)
        if self.config.first_levels:
            output = output._replace(first=self._first_step(maps, levels))
        return output._replace(levels=levels) if self.training and self.supervision is not None else output

    def _first_step(self, maps: list[Tensor], levels: list[Tensor]) -> First:
        """What the subnets say of C2 to C7 where they are asked: faces of ``stc_levels``, boxes of ``str_levels``."""
        config, maps = self.config, list(maps)
        if max(config.first_levels) >= C6:
            maps.append(self.c6(maps[-1]))
        if max(config.first_levels) >= C7:
            maps.append(self.c7(maps[-1]))
        seen = {at: self.first[f"c{at}"](maps[at - FIRST_LEVEL]) for at in config.first_levels}
        anchors = len(config.anchor_scales)

        def said(subnet: nn.Module, chosen: tuple[int, ...], columns: int) -> Tensor:
            rows = [
                subnet(seen[at]) if at in chosen else level[:, :1].float().expand(-1, columns * anchors, -1, -1) * 0
                for at, level in zip(LEVELS, levels, strict=True)
            ]
            return cat_levels(rows, columns)

        return First(said(self.faces, config.stc_levels, 1)[..., 0], said(self.boxes, config.str_levels, 4), None)

    def scores(self, output: Output) -> Tensor:
        """See :class:`proposals.detector.DetectorNetwork`; what the first step drops has 0."""
        scores = super().scores(output)
        if output.first is None:
            return scores
        return torch.where(dropped(output.first.face_logits.float(), self.config), 0.0, scores)

    def load_weights(self, path: Path) -> None:
        """See :class:`proposals.detector.DetectorNetwork`; what only training has starts anew."""
        tensors = load_tensors(path)
        own = {name: tensor for name, tensor in self.state_dict().items() if name.startswith(TRAINED_ALONE)}
        load_into(self, {**own, **tensors}, path, *self.describe(tensors))

    def describe(self, tensors: dict[str, Tensor]) -> tuple[str, str]:
        """See :class:`proposals.anchored.AnchoredNetwork`."""
        _, hint = super().describe(tensors)
        return f"RefineFace with backbone {self.config.backbone}", f"{hint}, with the same levels and switches"

    def kept_tensors(self) -> dict[str, Tensor]:
        """See :class:`proposals.detector.DetectorNetwork`."""
        return {name: one for name, one in super().kept_tensors().items() if not name.startswith(TRAINED_ALONE)}

    def deploy(self) -> None:
        """See :class:`proposals.detector.DetectorNetwork`."""
        self.supervision = None


def dropped(first_logits: Tensor, config: RefineFaceConfig) -> Tensor:
    """Which anchors the first step takes for background with more than ``theta``; logits 0 stay."""
    return torch.sigmoid(first_logits) < config.dropped_below


@one_thread()  # threads of torch started here would keep a process forked later from computing
def build_refineface(config: RefineFaceConfig, weights: Path | None, runtime: Runtime) -> PyramidDetector[Output]:
    """Build the network, and load weights if there are any.

    Raises:
        CheckpointError: if ``weights`` is absent, no PyTorch file, or of another network.
    """
    return load_detector(RefineFaceNetwork(config), config, weights, runtime)


ENTRY = Entry(
    RefineFaceConfig,
    build_refineface,
    recipe="proposals.train.refineface:RefineFaceRecipe",
    wanted="a run of tinygan-train-proposer",
)
