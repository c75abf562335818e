"""How a RetinaNet is trained: focal loss over the anchors of levels 2 to 7."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from proposals.losses import DetectionLossConfig
from proposals.matching import MatchingConfig
from proposals.retinanet import RetinaNetConfig, RetinaNetNetwork
from proposals.train.recipe import AnchoredRecipe


@dataclass(frozen=True, kw_only=True)
class RetinaNetMatching(MatchingConfig):
    """How anchors and faces are matched in RetinaNet (RefineFace's second step); no face is rescued.

    Rescuing (``rescue_iou``) is not stated in the paper.
    """

    positive_iou: float = 0.5
    negative_iou: float = 0.4
    rescue_iou: float = 1.0


@dataclass(frozen=True, kw_only=True)
class RetinaNetLosses(DetectionLossConfig):
    """RetinaNet's losses (Lin et al. 2017)."""

    classification: Literal["hard_negatives", "focal"] = "focal"
    box_weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class RetinaNetRecipe(AnchoredRecipe):
    """RetinaNet: focal loss over all anchors, smooth-L1."""

    proposer: Literal["retinanet"] = "retinanet"
    network: RetinaNetConfig = field(default_factory=RetinaNetConfig)
    matching: RetinaNetMatching = field(default_factory=RetinaNetMatching)
    losses: RetinaNetLosses = field(default_factory=RetinaNetLosses)

    def build(self) -> RetinaNetNetwork:
        """See :class:`proposals.train.recipe.DetectorRecipe`."""
        return RetinaNetNetwork(self.network)
