"""First and second stage in one call.

faces = tinygan.FaceDetector().detect("photo.jpg")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from tinygan.boxes import iou
from tinygan.checkpoint import is_ours, load_checkpoint, packaged_weights
from tinygan.detections import Detections, FloatArray
from tinygan.errors import DataError
from tinygan.formats.images import read_upright
from tinygan.proposers import best_inside, choose_proposer
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.fusion import Fusion, stored_fusion
from tinygan.second_stage.stage import Enlarged, Picture, SecondStage, to_picture

if TYPE_CHECKING:
    from tinygan.proposers import Choice, Proposer

LITE = "lite"
MIN_SCORE = 0.3
OUTCOMES = ("kept", "raised", "lowered", "moved")
CHANGED_BY, MOVED_IOU = 0.1, 0.8


class FaceDetector:
    """Finds faces: a first stage proposes boxes, the second stage judges, moves and re-scores them.

    Args:
        first_stage: proposes boxes; default: the RetinaFace that ships.
        second_stage: default: the checkpoint ``lite``, with the fusion fitted for the first stage that ships.

    Raises:
        CheckpointError: if weights are absent or damaged.
    """

    def __init__(self, first_stage: Proposer | None = None, second_stage: SecondStage | None = None) -> None:
        fusion = None
        if first_stage is None:
            choice = choose_proposer("retinaface")
            first_stage, fusion = choice.build(Runtime(RuntimeOptions().exact())), fitted_fusion(choice.weights)
        self._first = first_stage
        self._second = SecondStage(LITE, fusion=fusion) if second_stage is None else second_stage

    @classmethod
    def open(
        cls,
        first_stage: Choice,
        checkpoint: str | Path = LITE,
        *,
        move_boxes: bool = True,
        max_rois: int = 600,
        batch_size: int = 128,
        options: RuntimeOptions | None = None,
    ) -> FaceDetector:
        """Build both stages.

        Args:
            first_stage: from :func:`tinygan.proposers.choose_proposer`.
            checkpoint: as of :class:`SecondStage`.
            move_boxes: as of :class:`SecondStage`.
            max_rois: as of :class:`SecondStage`.
            batch_size: as of :class:`SecondStage`.
            options: device, precision and threads; at precision ``auto`` the first stage runs in 32 bits, as bf16
                moves its boxes.

        Raises:
            ConfigError: if a setting is wrong.
            CheckpointError: if weights are absent, damaged or of another network.
        """
        options = options or RuntimeOptions()
        second = SecondStage(
            checkpoint,
            move_boxes=move_boxes,
            max_rois=max_rois,
            batch_size=batch_size,
            fusion=fitted_fusion(first_stage.weights) if _is_lite(checkpoint) else None,
            runtime=Runtime(options),
        )
        return cls(first_stage.build(Runtime(options.exact())), second)

    def detect(self, image: Picture, min_score: float = MIN_SCORE) -> Detections:
        """Find the faces of one image.

        Args:
            image: RGB, uint8 [H, W, 3], a Pillow image as it is, or a file, whose EXIF orientation is applied: boxes
                refer to the upright picture.
            min_score: boxes of a lower final score are left out.

        Returns:
            By falling score, in pixels of the image and inside it, with columns ``proposal_box``, ``proposal_score``,
            ``face_logit``, ``outcome`` (see :func:`outcomes`) and those of the first stage, such as ``landmarks``,
            where it put them. Of boxes in which the judge sees the same face one stays.

        Raises:
            DataError: if the image cannot be read or is unfit, or ``min_score`` lies outside [0, 1].
        """
        if not 0 <= min_score <= 1:
            raise DataError(f"min_score lies in [0, 1], got {min_score}")
        picture = read_upright(Path(image)) if isinstance(image, str | Path) else to_picture(image)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        judged = self._second.rescore_unchecked([picture], self._first.propose([pixels])[:1])[0]
        found = best_inside(judged[judged.scores >= min_score], picture.width, picture.height, len(judged))
        return found.with_fields(outcome=outcomes(found))

    def enlarge(self, image: Picture, faces: Detections, most: int = 12) -> Enlarged:
        """Super-resolved pictures of the best small faces; see :meth:`SecondStage.enlarge`."""
        return self._second.enlarge(image, faces.boxes, most)


def outcomes(found: Detections) -> npt.NDArray[np.str_]:
    """What the second stage did to each box.

    ``raised`` or ``lowered``: the final score and the first stage's differ by more than 0.1. Else ``moved``: their
    boxes overlap by an IoU below 0.8. Else ``kept``.

    Args:
        found: with columns ``proposal_score`` and ``proposal_box``.

    Returns:
        [N], each one of :data:`OUTCOMES`.
    """
    change: FloatArray = found.scores - found.fields["proposal_score"]
    pairs = zip(found.boxes, found.fields["proposal_box"], strict=True)
    overlap = np.array([iou(box[None], proposal[None])[0, 0] for box, proposal in pairs])
    cases = [change > CHANGED_BY, change < -CHANGED_BY, overlap < MOVED_IOU]
    return np.select(cases, ["raised", "lowered", "moved"], "kept").astype(np.str_)


def fitted_fusion(weights: Path | None) -> Fusion | None:
    """The fusion with ``lite`` that was fitted for a first stage, if its weights file holds one."""
    if weights is None or not is_ours(weights):
        return None
    return stored_fusion(load_checkpoint(weights, ("proposer",)))


def _is_lite(checkpoint: str | Path) -> bool:
    path = Path(checkpoint)
    return path.resolve() == packaged_weights(LITE).resolve() if path.exists() else str(checkpoint) == LITE
