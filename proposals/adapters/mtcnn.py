"""MTCNN of facenet-pytorch, with the weights that it brings, as a proposer.

That package asks for an old PyTorch, with which it need not be run: ``pip install requests``, then
``pip install --no-deps facenet-pytorch``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from proposals.adapters.viewed import AdapterConfig, Viewed
from tinygan.detections import Detections
from tinygan.errors import CheckpointError, MissingDependency
from tinygan.proposers import Entry, best_inside, check_image
from tinygan.runtime import Runtime, one_thread

LEAST_SIDE_PX = 12  # of what its first network sees


@dataclass(frozen=True, kw_only=True)
class MtcnnConfig(AdapterConfig):
    """MTCNN's own settings.

    Attributes:
        min_face_px: smallest faces that are looked for.
        thresholds: scores that a box needs in each of the three networks.
        factor: from one size of the image pyramid to the next smaller one.
    """

    min_face_px: int = 10
    thresholds: tuple[float, ...] = (0.6, 0.7, 0.7)
    factor: float = 0.709

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_face_px < 1 or len(self.thresholds) != 3 or not 0 < self.factor < 1:
            raise ValueError("min_face_px is at least 1, thresholds are three numbers, factor lies between 0 and 1")


class MtcnnProposer:
    """MTCNN; ``fields["landmarks"]`` [N, 10] holds ``x, y`` of five points.

    Args:
        network: ``facenet_pytorch.MTCNN``.
        config: its settings.
    """

    def __init__(self, network: Any, config: MtcnnConfig) -> None:
        self._network, self._config = network, config

    def propose(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find faces; see :class:`tinygan.proposers.Proposer`."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> Detections:
        check_image(image)
        height, width = image.shape[1:]
        none = Detections.empty().with_fields(landmarks=np.zeros((0, 10)))
        if min(height, width) < max(LEAST_SIDE_PX, self._config.min_face_px):
            return none
        boxes, scores, points = self._network.detect(image.permute(1, 2, 0).cpu().numpy(), landmarks=True)
        if boxes is None:
            return none
        landmarks = np.asarray(points, np.float64).reshape(len(boxes), -1)
        found = Detections(np.asarray(boxes, np.float64), np.asarray(scores, np.float64), {"landmarks": landmarks})
        return best_inside(found, width, height, self._config.keep)


@one_thread()  # threads of torch started here would keep a process forked later from computing
def build_mtcnn(config: MtcnnConfig, weights: Path | None, runtime: Runtime) -> Viewed:
    """Build the three networks.

    Raises:
        CheckpointError: if ``weights`` are given, as it brings its own.
        MissingDependency: if facenet-pytorch, or requests, which it imports, is not installed.
    """
    if weights is not None:
        raise CheckpointError(f"{weights}: proposer 'mtcnn' takes no weights; facenet-pytorch brings them")
    try:
        from facenet_pytorch import MTCNN
    except ImportError as error:
        raise MissingDependency(
            f"proposer 'mtcnn' needs the packages facenet-pytorch and requests ({error}): pip install requests, then "
            "pip install --no-deps facenet-pytorch"
        ) from error
    network = MTCNN(
        keep_all=True,
        min_face_size=config.min_face_px,
        thresholds=list(config.thresholds),
        factor=config.factor,
        device=runtime.device,
    )
    return Viewed(MtcnnProposer(network, config), config)


ENTRY = Entry(MtcnnConfig, build_mtcnn)
