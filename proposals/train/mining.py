"""Hard negatives: where a trained first stage takes for a face what is none, in images that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass

from tinygan.boxes import iou
from tinygan.detections import Detections, FloatArray


@dataclass(frozen=True, kw_only=True)
class MiningConfig:
    """Which boxes of a trained first stage are hard negatives (``--mine``). None of these is stated in the paper.

    Attributes:
        min_score: least score of a hard negative; not stated in the paper.
        max_iou: boxes of at least this IoU with a face, valid or not, are no hard negatives; not stated in the paper.
        unlabelled_score: boxes of at least this score are left out: many are faces that nobody labelled; not stated in
            the paper.
        per_image: largest number of hard negatives per image, the best ones; not stated in the paper.
    """

    min_score: float = 0.5
    max_iou: float = 0.3
    unlabelled_score: float = 0.9
    per_image: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= self.unlabelled_score:
            raise ValueError(
                f"expected 0 <= min_score <= unlabelled_score, got {self.min_score} and {self.unlabelled_score}"
            )
        if not 0 < self.max_iou <= 1:
            raise ValueError(f"max_iou lies in (0, 1], got {self.max_iou}")
        if self.per_image < 1:
            raise ValueError(f"per_image must be at least 1, got {self.per_image}")


def hard_negatives(found: Detections, faces: FloatArray, config: MiningConfig) -> Detections:
    """The hard negatives among the boxes found in an image, by falling score.

    Args:
        found: what the first stage found.
        faces: float64 [M, 4], the boxes of all faces of the image, valid or not.
        config: the thresholds.
    """
    apart = iou(found.boxes, faces).max(axis=1, initial=0.0) < config.max_iou
    wrong = found[(found.scores >= config.min_score) & (found.scores < config.unlabelled_score) & apart].sorted()
    return Detections(wrong.boxes[: config.per_image], wrong.scores[: config.per_image])
