"""How a YuNet is trained: without anchors, by SimOTA's assignment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from proposals.assignment import AssignmentConfig
from proposals.detector import DetectorNetwork
from proposals.train.recipe import DetectorRecipe, PictureBatch
from proposals.yunet import YuNetConfig, YuNetNetwork, YuNetOutput
from proposals.yunet_losses import YuNetLossConfig, yunet_losses
from proposals.yunet_losses import weighted_sum as yunet_weighted_sum


@dataclass(frozen=True, kw_only=True)
class YuNetRecipe(DetectorRecipe):
    """YuNet: cells are matched by what they say, cross-entropy and EIoU.

    Attributes:
        assignment: how cells and faces are matched.
        losses: the weights of the losses.
    """

    proposer: Literal["yunet"] = "yunet"
    network: YuNetConfig = field(default_factory=YuNetConfig)
    assignment: AssignmentConfig = field(default_factory=AssignmentConfig)
    losses: YuNetLossConfig = field(default_factory=YuNetLossConfig)

    def build(self) -> YuNetNetwork:
        """See :class:`proposals.train.recipe.DetectorRecipe`."""
        return YuNetNetwork(self.network)

    def matcher(self, size_px: int) -> None:
        """See :class:`proposals.train.recipe.DetectorRecipe`."""
        return None

    def terms(self, network: DetectorNetwork[Any], output: YuNetOutput, batch: PictureBatch) -> Mapping[str, Tensor]:
        """See :class:`proposals.train.recipe.DetectorRecipe`."""
        return yunet_losses(output, batch.faces, self.network.strides, self.assignment)

    def weighted_sum(self, terms: Mapping[str, Tensor]) -> Tensor:
        """See :class:`proposals.train.recipe.DetectorRecipe`."""
        return yunet_weighted_sum(terms, self.losses)
