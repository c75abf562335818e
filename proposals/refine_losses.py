"""RefineFace's losses as pure functions (Zhang et al. 2019, Eq. 1 to 4, section 3.6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from proposals.losses import DetectionLossConfig, classification_loss, offset_loss
from proposals.matching import FACE, IGNORED, Targets
from proposals.output import Output
from proposals.refineface import RefineFaceConfig, dropped


@dataclass(frozen=True, kw_only=True)
class RefineFaceLosses(DetectionLossConfig):
    """RefineFace's losses.

    Attributes:
        sml_alpha: margin of a face of 1 px in logits; a face of 15 px has a fifteenth of it. 0: no margin.
        sml_samples: ``all``: background has the margin too, as printed ("for each sample"), though it makes background
            easier; ``faces``: faces alone.
        stc_keep_faces: whether faces are learnt in the second step even where the first one drops their anchors.
        fsm_weight: weight of the supervision of regions; the paper has none, yet wants "a relatively small loss".
    """

    classification: Literal["hard_negatives", "focal"] = "focal"
    box_weight: float = 1.0
    sml_alpha: float = 15.0
    sml_samples: Literal["all", "faces"] = "all"
    # Differs from the paper: as printed dropped faces are not learnt. At the start every anchor is near the threshold,
    # and learning takes twice as long.
    stc_keep_faces: bool = True
    fsm_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.sml_alpha < math.inf and 0 <= self.fsm_weight < math.inf):
            raise ValueError(
                f"sml_alpha and fsm_weight must not be negative, got {self.sml_alpha} and {self.fsm_weight}"
            )


def margins_of(anchors: Tensor, alpha: float) -> Tensor:
    """The margins [A] of anchors [A, 4], centre and size in pixels: ``alpha`` over the square root of the area (Eq. 4).

    The paper has the size of "the sample"; background has no other size than its anchor's.
    """
    return alpha / anchors[:, 2:].prod(dim=1).sqrt()


def with_margins(logits: Tensor, labels: Tensor, margins: Tensor, config: RefineFaceLosses) -> Tensor:
    """Logits [B, A] less the margins [A] (Eq. 3)."""
    if config.sml_samples == "all":
        return logits - margins
    return logits - margins * (labels == FACE)


def refine_losses(
    output: Output, first: Targets | None, second: Targets, anchors: Tensor, network: RefineFaceConfig,
    config: RefineFaceLosses,
) -> dict[str, Tensor]:  # fmt: skip
    """The terms of both steps, unweighted, without the supervision of regions.

    Args:
        output: the network's output for B pictures.
        first: the first step's targets [B, A, ...]; None if there is no first step.
        second: the second step's, from the anchors where the first one puts them.
        anchors: float [A, 4], the anchors before they are moved.
        network: the levels of each module.
        config: the margins, and the form of the classification loss.

    Returns:
        ``classification`` and ``box`` of the second step, and those of the first step that there are, with ``_first``.
    """
    logits, labels = output.face_logits.float(), second.labels
    margins, terms = margins_of(anchors, config.sml_alpha), dict[str, Tensor]()
    if output.first is not None and first is not None:
        levels = network.levels_of_anchors(output.sizes).to(logits.device)
        said, on_stc = output.first.face_logits.float(), _among(levels, network.stc_levels)
        if network.stc_levels:
            counted = first.labels.masked_fill(~on_stc, IGNORED)
            seen = with_margins(said, counted, margins, config)
            terms["classification_first"] = classification_loss(seen, counted, config)
            gone = dropped(said, network) & on_stc
            if config.stc_keep_faces:
                gone &= labels != FACE
            labels = labels.masked_fill(gone, IGNORED)
        if network.str_levels:
            moved = (first.labels == FACE) & _among(levels, network.str_levels)
            terms["box_first"] = offset_loss(output.first.boxes, first.boxes, moved)
    terms["classification"] = classification_loss(with_margins(logits, labels, margins, config), labels, config)
    terms["box"] = offset_loss(output.boxes, second.boxes, second.labels == FACE)
    return terms


def _among(levels: Tensor, chosen: tuple[int, ...]) -> Tensor:
    """Whether each of the levels [A] is one of those chosen."""
    return torch.isin(levels, torch.tensor(chosen, dtype=levels.dtype, device=levels.device))
