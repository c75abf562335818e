"""RefineFace's recipe: both steps' targets, the margin, and the supervision of regions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from proposals.detector import DetectorNetwork
from proposals.losses import focal_loss
from proposals.matching import Faces, MatchingConfig, Targets, match_moved
from proposals.output import Output
from proposals.refine_losses import RefineFaceLosses, refine_losses
from proposals.refineface import RefineFaceConfig, RefineFaceNetwork
from proposals.supervision import Regions, choose_regions
from proposals.train.recipe import AnchoredRecipe, PictureBatch
from proposals.train.retinanet import RetinaNetMatching


@dataclass(frozen=True, kw_only=True)
class FirstMatching(RetinaNetMatching):
    """How anchors and faces are matched in the first step."""

    positive_iou: float = 0.7
    negative_iou: float = 0.3


@dataclass(frozen=True, kw_only=True)
class RegionMatching(MatchingConfig):
    """Which regions are faces; ``rescue_iou`` and ``mined_iou`` mean nothing here."""

    positive_iou: float = 0.7
    negative_iou: float = 0.4


@dataclass(frozen=True, kw_only=True)
class RefineFaceRecipe(AnchoredRecipe):
    """RefineFace: RetinaNet's training with two steps, margins, and regions that are judged.

    Attributes:
        first_matching: how anchors and faces are matched in the first step; ``matching`` is the second one's.
        region_matching: which regions are faces.
    """

    proposer: Literal["refineface"] = "refineface"
    network: RefineFaceConfig = field(default_factory=RefineFaceConfig)
    matching: RetinaNetMatching = field(default_factory=RetinaNetMatching)
    first_matching: FirstMatching = field(default_factory=FirstMatching)
    region_matching: RegionMatching = field(default_factory=RegionMatching)
    losses: RefineFaceLosses = field(default_factory=RefineFaceLosses)

    def build(self) -> RefineFaceNetwork:
        """See :class:`proposals.train.recipe.DetectorRecipe`."""
        return RefineFaceNetwork(self.network)

    def matcher(self, size_px: int) -> Callable[[Faces], Targets] | None:
        """See :class:`proposals.train.recipe.DetectorRecipe`."""
        return None if self.network.first_levels else super().matcher(size_px)

    def terms(self, network: DetectorNetwork[Any], output: Output, batch: PictureBatch) -> Mapping[str, Tensor]:
        """See :class:`proposals.train.recipe.DetectorRecipe`."""
        assert isinstance(network, RefineFaceNetwork)
        anchors = self.network.anchor_boxes(output.sizes).to(output.boxes.device)
        first, second = self._targets(output, batch, anchors)
        terms = refine_losses(output, first, second, anchors, self.network, self.losses)
        if output.levels is None or network.supervision is None:
            return terms
        regions = self._regions(network, output, batch.faces)
        logits = network.supervision(output.levels, regions)
        labels, losses = regions.labels[None], self.losses
        return {**terms, "supervision": focal_loss(logits[None], labels, losses.focal_alpha, losses.focal_gamma)}

    def weighted_sum(self, terms: Mapping[str, Tensor]) -> Tensor:
        """L_STR + L_STC + the supervision (Zhang et al. 2019, section 3.6)."""
        total = super().weighted_sum(terms)
        return total + self.losses.fsm_weight * terms["supervision"] if "supervision" in terms else total

    def _targets(self, output: Output, batch: PictureBatch, anchors: Tensor) -> tuple[Targets | None, Targets]:
        """The targets of both steps; the second one's anchors are where the first one put them."""
        if output.first is None:
            assert batch.targets is not None
            return None, batch.targets
        variances, offsets = self.network.scales_of_offsets, output.first.boxes
        first = match_moved(torch.zeros_like(offsets), batch.faces, anchors, variances, self.first_matching)
        return first, match_moved(offsets, batch.faces, anchors, variances, self.matching)

    @torch.no_grad()
    def _regions(self, network: RefineFaceNetwork, output: Output, faces: list[Faces]) -> Regions:
        """The regions of all pictures, of the boxes that the second step found."""
        places = torch.arange(output.face_logits.shape[1], device=output.face_logits.device)
        boxes, _ = network.decode(output, places)
        levels, count = self.network.levels_of_anchors(output.sizes).to(places.device), self.network.fsm_regions
        found = [
            choose_regions(picture, one, scores, levels, some, self.region_matching, count)
            for picture, (one, scores, some) in enumerate(zip(boxes, network.scores(output), faces, strict=True))
        ]
        return Regions(*(torch.cat(column) for column in zip(*found, strict=True)))
