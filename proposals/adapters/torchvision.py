"""Detectors of torchvision, fine-tuned on faces, as proposers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model, list_models

from proposals.adapters.viewed import AdapterConfig, Viewed
from tinygan.detections import Detections
from tinygan.models.public_weights import load_into, load_tensors
from tinygan.proposers import Entry, best_inside, check_image
from tinygan.runtime import Runtime, one_thread


@dataclass(frozen=True, kw_only=True)
class TorchvisionConfig(AdapterConfig):
    """Which detector, and which of its classes is the face.

    Attributes:
        model: its name in torchvision, such as ``fasterrcnn_resnet50_fpn_v2`` or ``retinanet_resnet50_fpn``.
        classes: number of classes, the background included, that it was trained on.
        label: the class that is the face.
        score_threshold: boxes of a lower score are dropped.
    """

    model: str = "fasterrcnn_resnet50_fpn_v2"
    classes: int = 2
    label: int = 1
    score_threshold: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        known = list_models(module=_detection())
        if self.model not in known:
            raise ValueError(f"model is one of {', '.join(known)}; got '{self.model}'")
        if not 0 <= self.label < self.classes:
            raise ValueError(f"label lies from 0 to classes - 1, got {self.label} of {self.classes}")
        if not 0 <= self.score_threshold <= 1:
            raise ValueError(f"score_threshold lies in [0, 1], got {self.score_threshold}")


class TorchvisionProposer:
    """A detector of torchvision.

    Args:
        network: in evaluation mode.
        config: the face's class, and how many boxes are kept.
        runtime: the device and the precision.
    """

    def __init__(self, network: nn.Module, config: TorchvisionConfig, runtime: Runtime) -> None:
        self._network, self._config, self._runtime = network, config, runtime

    @torch.inference_mode()
    def propose(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find faces; see :class:`tinygan.proposers.Proposer`. Images run one by one, at the size of the network."""
        with self._runtime.autocast():
            return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> Detections:
        check_image(image)
        (found,) = self._network([image.to(self._runtime.device).float() / 255])
        faces = (found["labels"] == self._config.label) & (found["scores"] >= self._config.score_threshold)
        boxes, scores = (found[name][faces].double().cpu().numpy() for name in ("boxes", "scores"))
        return best_inside(Detections(boxes, scores), image.shape[2], image.shape[1], self._config.keep)


@one_thread()  # threads of torch started here would keep a process forked later from computing
def build_torchvision(config: TorchvisionConfig, weights: Path | None, runtime: Runtime) -> Viewed:
    """Build the network, and load weights if there are any.

    Raises:
        CheckpointError: if ``weights`` is absent, no PyTorch file, or of another network.
    """
    threshold = "box_score_thresh" if "rcnn" in config.model else "score_thresh"
    network = get_model(
        config.model,
        weights=None,
        weights_backbone=None,
        num_classes=config.classes,
        **{threshold: config.score_threshold},
    )
    if weights is not None:
        hint = f"; is classes={config.classes} right?"
        load_into(network, load_tensors(weights), weights, f"torchvision's {config.model}", hint)
    runtime.place(network.eval())
    return Viewed(TorchvisionProposer(network, config, runtime), config)


def _detection() -> object:
    from torchvision.models import detection

    return detection


ENTRY = Entry(
    TorchvisionConfig, build_torchvision, wanted="a state dict of a detector of torchvision (--weights W.pth)"
)
