"""First and second stage in one call.

faces = tinygan.FaceDetector().detect("photo.jpg")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinygan.boxes import iou, longer_side
from tinygan.checkpoint import chosen_weights, is_ours, load_checkpoint, packaged_weights
from tinygan.detect.picture import Tile
from tinygan.detections import Detections, FloatArray
from tinygan.errors import DataError
from tinygan.formats.images import Orientation, Picture, to_picture
from tinygan.proposers import DEFAULT, DEFAULT_ROIS, best_inside, choose_proposer, to_tensor
from tinygan.runtime import Backend, Device, Runtime, RuntimeOptions, device_name
from tinygan.second_stage.figures import cut_faces
from tinygan.second_stage.fusion import Fusion, stored_fusion
from tinygan.second_stage.stage import SecondStage
from tinygan.second_stage.upscaling import SuperResolver

if TYPE_CHECKING:
    from tinygan.proposers import Choice, Proposer

LITE = "lite"
MIN_SCORE = 0.3
CHANGED_BY, MOVED_IOU = 0.1, 0.8
ENLARGED_PX = 32  # largest face of which a super-resolved picture is made: a larger one is seen well as it is


class FaceDetector:
    """Finds faces: a first stage proposes boxes, the second stage judges, moves and re-scores them.

    The second stage asks for no second opinion: the first stage that ships holds the detector that would give it.

    Args:
        first_stage: proposes boxes; default: ``pair``, the YuNet that ships, with a CenterFace.
        second_stage: default: the checkpoint ``lite``, with the fusion fitted for the first stage that ships.
        device: of the stages that are not given, and of :meth:`enlarge`; see :class:`SecondStage`.
        backend: what runs the networks of the stages that are not given; see :class:`SecondStage`.
        orientation: of image files: ``upright`` applies EXIF orientation, ``stored`` does not.

    Raises:
        ConfigError: if there is no such device or backend.
        CheckpointError: if weights are absent or damaged.
    """

    def __init__(
        self,
        first_stage: Proposer | None = None,
        second_stage: SecondStage | None = None,
        *,
        device: Device = "auto",
        backend: Backend = "torch",
        orientation: Orientation = "upright",
    ) -> None:
        fusion, options = None, RuntimeOptions(device=device_name(device), backend=backend)
        if first_stage is None:
            choice = choose_proposer(DEFAULT)
            first_stage, fusion = choice.build(choice.runtime(options)), fitted_fusion(choice.weights)
        self._first = first_stage
        if second_stage is None:
            second_stage = SecondStage(
                LITE, max_rois=DEFAULT_ROIS, fusion=fusion, device=device, backend=backend, second_opinion=False
            )
        self._second = second_stage
        self._device = device
        self._orientation = orientation

    @classmethod
    def open(
        cls,
        first_stage: Choice,
        checkpoint: str | Path = LITE,
        *,
        move_boxes: bool = True,
        max_rois: int = DEFAULT_ROIS,
        batch_size: int = 64,
        options: RuntimeOptions | None = None,
    ) -> FaceDetector:
        """Build both stages.

        Args:
            first_stage: from :func:`tinygan.proposers.choose_proposer`.
            checkpoint: the second stage's checkpoint, as for :class:`SecondStage`.
            move_boxes: whether boxes may move and merge, as for :class:`SecondStage`.
            max_rois: number of proposals judged per image; more than the 600 of the paper, as crowds have more faces.
            batch_size: patches per forward pass, as for :class:`SecondStage`.
            options: device, precision, threads and backend; at precision ``auto`` a first stage whose boxes bf16
                would move runs in 32 bits (:meth:`tinygan.proposers.Choice.runtime`).

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
            second_opinion=False,
            fusion=fitted_fusion(first_stage.weights) if _is_lite(checkpoint) else None,
            runtime=Runtime(options),
        )
        return cls(first_stage.build(first_stage.runtime(options)), second, device=options.device)

    @property
    def side_by_side(self) -> int:
        """How many threads may usefully call this at the same time.

        A first stage says so by an attribute of this name; one without is called by one thread at a time.
        """
        return min(getattr(self._first, "side_by_side", 1), self._second.side_by_side)

    def detect(self, image: Picture, min_score: float = MIN_SCORE) -> Detections:
        """Find the faces of one image.

        Args:
            image: as of :meth:`SecondStage.rescore`; boxes refer to the upright picture.
            min_score: boxes of a lower final score are left out.

        Returns:
            By falling score, in pixels of the image and inside it, with columns ``proposal_box``, ``proposal_score``,
            ``face_logit``, ``outcome`` (see :func:`outcomes`) and those of the first stage, such as ``landmarks``,
            where it put them. Of boxes in which the judge sees the same face one stays.

        Raises:
            DataError: if the image cannot be read or is unfit, or ``min_score`` lies outside [0, 1].
        """
        (found,) = self.detect_many([image], min_score)
        return found

    def detect_many(
        self, images: Iterable[Picture], min_score: float = MIN_SCORE, batch_size: int = 8
    ) -> Iterator[Detections]:
        """Find the faces of many images, in batches.

        Args:
            images: as of :meth:`detect`; drawn when needed, a batch ahead at most.
            min_score: boxes of a lower final score are left out.
            batch_size: images that the first stage searches at once, and whose boxes the second stage judges together.

        Returns:
            As of :meth:`detect`, of each image, in their order.

        Raises:
            DataError: if ``min_score`` or ``batch_size`` is out of range; on the way, if an image cannot be read or is
                unfit, after the faces of all images before it.
        """
        if not 0 <= min_score <= 1:
            raise DataError(f"min_score lies in [0, 1], got {min_score}")
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, got {batch_size}")
        if isinstance(images, Image.Image | str | bytes) or not isinstance(images, Iterable):
            raise DataError(f"expected several pictures, a list or an iterator; got one {type(images).__name__}")
        return self._detect_lazily(images, min_score, batch_size)

    def _detect_lazily(self, images: Iterable[Picture], min_score: float, batch_size: int) -> Iterator[Detections]:
        batch: list[Image.Image] = []
        for image in images:
            try:
                batch.append(to_picture(image, self._orientation))
            except DataError:
                yield from self._search(batch, min_score)
                raise
            if len(batch) == batch_size:
                yield from self._search(batch, min_score)
                batch = []
        yield from self._search(batch, min_score)

    def _search(self, pictures: Sequence[Image.Image], min_score: float) -> list[Detections]:
        if not pictures:
            return []
        proposals = self._first.propose([to_tensor(picture) for picture in pictures])
        faces = []
        for picture, judged in zip(pictures, self._second.rescore_unchecked(pictures, proposals), strict=True):
            found = best_inside(judged[judged.scores >= min_score], picture.width, picture.height, len(judged))
            faces.append(found.with_fields(outcome=outcomes(found)))
        return faces

    def propose(self, image: Picture) -> Detections:
        """What the first stage finds by itself: boxes inside the picture, by falling score.

        Args:
            image: the picture, as of :meth:`SecondStage.rescore`.

        Raises:
            DataError: if the image cannot be read or is unfit.
        """
        picture = to_picture(image, self._orientation)
        (found,) = self._first.propose([to_tensor(picture)])
        return best_inside(found, picture.width, picture.height, len(found))

    def enlarge(self, image: Picture, faces: Detections, most: int = 12) -> list[Tile]:
        """Super-resolve the first faces of up to 32 px by ``portrait``, made to be looked at; it judges nothing.

        Args:
            image: the picture, as of :meth:`detect`.
            faces: the more important first.
            most: largest number of pictures.
        """
        picture = to_picture(image, self._orientation)
        rows = np.flatnonzero(longer_side(faces.boxes) <= ENLARGED_PX)[:most]
        crops = [face.pixels for face in cut_faces("", picture, faces.boxes[rows])]
        return [Tile(int(row), lr, np.asarray(self._resolver.upscale(lr))) for row, lr in zip(rows, crops, strict=True)]

    @cached_property
    def _resolver(self) -> SuperResolver:
        """Loaded by the first face to enlarge."""
        return SuperResolver(device=self._device)


def outcomes(found: Detections) -> npt.NDArray[np.str_]:
    """What the second stage did to each box.

    ``raised`` or ``lowered``: the final score and the first stage's differ by more than 0.1. Else ``moved``: their
    boxes overlap by an IoU below 0.8. Else ``kept``.

    Args:
        found: with columns ``proposal_score`` and ``proposal_box``.

    Returns:
        [N], each one of :data:`tinygan.detect.picture.OUTCOMES`.
    """
    change: FloatArray = found.scores - found.fields["proposal_score"]
    pairs = zip(found.boxes, found.fields["proposal_box"], strict=True)
    overlap = np.array([iou(box[None], proposal[None])[0, 0] for box, proposal in pairs])
    cases = [change > CHANGED_BY, change < -CHANGED_BY, overlap < MOVED_IOU]
    return np.select(cases, ["raised", "lowered", "moved"], "kept").astype(np.str_)


def split_by_score(every: Detections, min_score: float) -> tuple[Detections, FloatArray]:
    """Boxes of at least a score, and those that the second stage lowered below it.

    Args:
        every: with column ``proposal_score``.
        min_score: the least final score.

    Returns:
        The first as they are, and the others' corners, float64 [M, 4].
    """
    stays = every.scores >= min_score
    return every[stays], every.boxes[~stays & (every.fields["proposal_score"] >= min_score)]


def fitted_fusion(weights: Path | None) -> Fusion | None:
    """The fusion with ``lite`` that was fitted for a first stage, if its weights file holds one."""
    if weights is None or not is_ours(weights):
        return None
    return stored_fusion(load_checkpoint(weights, ("proposer",)))


def _is_lite(checkpoint: str | Path) -> bool:
    return chosen_weights(checkpoint).resolve() == packaged_weights(LITE).resolve()
