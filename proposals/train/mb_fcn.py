"""How an MB-FCN is trained: each branch by the faces of its sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from proposals.detector import DetectorNetwork
from proposals.losses import DetectionLossConfig, level_losses
from proposals.matching import MatchingConfig
from proposals.mb_fcn import MbFcnConfig, MbFcnNetwork
from proposals.output import Output
from proposals.train.recipe import AnchoredRecipe, PictureBatch


@dataclass(frozen=True, kw_only=True)
class MbFcnMatching(MatchingConfig):
    """How anchors and faces are matched in MB-FCN: thresholds are not stated in the paper."""

    positive_iou: float = 0.5
    negative_iou: float = 0.3


@dataclass(frozen=True, kw_only=True)
class MbFcnLosses(DetectionLossConfig):
    """MB-FCN's losses, branch by branch; their form and the number of negatives are not stated in the paper."""

    negatives_per_face: int = 3
    box_weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class MbFcnRecipe(AnchoredRecipe):
    """MB-FCN: each branch has the loss of a region proposal network over its own faces."""

    proposer: Literal["mb_fcn"] = "mb_fcn"
    network: MbFcnConfig = field(default_factory=MbFcnConfig)
    matching: MbFcnMatching = field(default_factory=MbFcnMatching)
    losses: MbFcnLosses = field(default_factory=MbFcnLosses)

    def build(self) -> MbFcnNetwork:
        """See :class:`proposals.train.recipe.DetectorRecipe`."""
        return MbFcnNetwork(self.network)

    def terms(self, network: DetectorNetwork[Any], output: Output, batch: PictureBatch) -> Mapping[str, Tensor]:
        """See :class:`proposals.train.recipe.DetectorRecipe`."""
        assert batch.targets is not None
        return level_losses(output, batch.targets, self.losses)
