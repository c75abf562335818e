"""The second stage from Python: images and boxes in memory.

better = tinygan.SecondStage("lite").rescore(image, boxes, scores)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path

import numpy.typing as npt

from tinygan.checkpoint import chosen_weights, load_checkpoint
from tinygan.detections import Detections, to_numpy
from tinygan.errors import ConfigError, DataError
from tinygan.formats.images import Orientation, Picture, to_picture
from tinygan.formats.plausible import Sample, refuse_boxes
from tinygan.formats.sizes import read_size
from tinygan.models.exported import open_exported
from tinygan.runtime import Backend, Device, Runtime, RuntimeOptions, device_name
from tinygan.second_stage.calibration import Calibration
from tinygan.second_stage.fusion import Fusion, stored_fusion
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import LOOK_LOGIT, Judged, Opinion, Request, judge_images
from tinygan.second_stage.opinion import SecondOpinion
from tinygan.second_stage.rescoring import QUICK, RescoreConfig, calibrate_detector, rescore_judged

CHECKED_AT_ONCE = 8  # images whose boxes are looked at together: are they in pixels?


class SecondStage:
    """Re-scores the boxes of any face detector.

    A detector's scores are read by the usual calibration of those that the checkpoint was fitted on, until
    :meth:`learn` has seen some hundred proposals of this one.

    Args:
        checkpoint: ``lite``, which ships, or a run folder or file of stage ``fusion`` or ``gan``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, the number N, or a ``torch.device``.
        move_boxes: whether boxes may move to where the judge finds the face, and merge; if not, they only get new
            scores.
        max_rois: proposals of an image that are judged, the best ones; the others keep their place.
        batch_size: patches in one forward pass.
        quick: whether to look at proposals less often, and, once :meth:`learn` has seen the detector, at fewer. There
            is no second opinion then; of the time without one it takes two thirds, for .1 points of hard AP in the mean
            of eight detectors, .5 of a weak one.
        fusion: weights fitted for one detector, in place of the checkpoint's own.
        backend: what runs the networks: ``torch``, ``onnxruntime`` (with the extra ``tinygan[onnx]``) or ``openvino``
            (``tinygan[openvino]``), which are faster on CPUs.
        exported: folder of networks that ``tinygan-export --format openvino`` wrote, such as int8 ones, in place of
            the checkpoint's own; for backend ``openvino``.
        runtime: where the networks run, in place of ``device`` at its own precision, ``backend`` and ``exported``.
        orientation: of image files: ``upright`` applies EXIF orientation, and boxes refer to what viewers show;
            ``stored`` is for boxes of a detector that ignores it.
        second_opinion: whether a CenterFace searches the pictures in which the judge leaves doubt, and what it finds
            counts where a box is; no box is added. Default: it does, unless ``quick``, or ``fusion`` is given, or the
            checkpoint's was not fitted.

    Raises:
        CheckpointError: if there is no such checkpoint, it is damaged, or exported networks are of another one.
        ConfigError: if there is no such device or backend, or a second opinion is wanted and fusion was not fitted.
        MissingDependency: if the backend is not installed.
    """

    def __init__(
        self,
        checkpoint: str | Path = "lite",
        *,
        device: Device = "auto",
        move_boxes: bool = True,
        max_rois: int = 600,
        batch_size: int = 64,
        quick: bool = False,
        fusion: Fusion | None = None,
        backend: Backend = "torch",
        exported: str | Path | None = None,
        runtime: Runtime | None = None,
        orientation: Orientation = "upright",
        second_opinion: bool | None = None,
    ) -> None:
        weights = load_checkpoint(chosen_weights(checkpoint), ("fused", "gan"))
        # A fusion that is given was fitted for one detector, so its usual calibration is that detector's own.
        asks = fusion is None and not quick if second_opinion is None else second_opinion
        self._calibration: Calibration | None = None if fusion is None else fusion.usual_calibration
        if fusion is None:
            fusion = stored_fusion(weights) or Fusion()
        self._config = RescoreConfig(
            fusion=fusion,
            move_boxes=move_boxes,
            max_rois=max_rois,
            least_log_odds=max(fusion.least_log_odds, QUICK["least_log_odds"] if quick else -math.inf),
            again_from=QUICK["again_from"] if quick else LOOK_LOGIT,
            second_opinion=asks,
            batch_size=batch_size,
        )
        if second_opinion and not self._config.asks:
            raise ConfigError(
                "second_opinion=True needs scores that are log-odds of a face, which fusion gives once it is fitted "
                "(tinygan-train --stage fusion); leave it out"
            )
        networks = None if exported is None else open_exported(Path(exported))
        runtime = runtime or Runtime(RuntimeOptions(device=device_name(device), backend=backend, exported=networks))
        self._judge = Judge.from_weights(weights, runtime)
        self._opinion = SecondOpinion.open(self._config, runtime.options)
        self._orientation = orientation

    @property
    def side_by_side(self) -> int:
        """How many threads may usefully call this at the same time; see :func:`tinygan.runtime.on_own_threads`."""
        return self._judge.side_by_side

    def rescore(
        self, image: Picture, boxes: npt.ArrayLike | Detections, scores: npt.ArrayLike | None = None
    ) -> Detections:
        """Re-score the boxes of one image.

        Args:
            image: a file, its content or a file object; a Pillow image as it is; or an array [H, W], [H, W, 3] or
                [H, W, 4], also a tensor, of any depth (:mod:`tinygan.formats.images` has the rules).
            boxes: [N, 4], ``x1, y1, x2, y2`` in pixels, x2/y2 exclusive; or detections with their scores.
            scores: [N], in [0, 1]; not with detections.

        Returns:
            The boxes by falling new score, with columns ``proposal_box``, ``proposal_score`` and ``face_logit``. Of
            those in which the judge sees the same face the one that the detector is surest of stays.

        Raises:
            DataError: if the image cannot be read, or searched for a second opinion; if shapes or scores are unfit, or
                most boxes are no corners in pixels.
        """
        (found,) = self.rescore_many([image], [_detections(boxes, scores)])
        return found

    def rescore_many(self, images: Iterable[Picture], detections: Iterable[Detections]) -> Iterator[Detections]:
        """Re-score the boxes of many images, lazily, their patches in common batches.

        Images are decoded and cut on threads while the networks run, and memory does not grow with their number, as
        with ``tinygan-rescore``. Several threads may use one :class:`SecondStage` at once.

        Args:
            images: the images, as for :meth:`rescore`; drawn when needed, a few dozen ahead at most.
            detections: the detections of each image.

        Returns:
            Of each, as of :meth:`rescore`, in their order.

        Raises:
            DataError: if there are not as many detections as images; on the way, as of :meth:`rescore`, after the boxes
                of all images before.
        """
        if isinstance(images, Sized) and isinstance(detections, Sized) and len(images) != len(detections):
            raise _unequal(len(images), len(detections))
        return self._rescore_lazily(images, detections)

    def _rescore_lazily(self, images: Iterable[Picture], detections: Iterable[Detections]) -> Iterator[Detections]:
        stopped: list[DataError] = []

        def requests() -> Iterator[Request]:
            try:
                for number, pairs in enumerate(_grouped(images, detections, CHECKED_AT_ONCE)):
                    some, found = [image for image, _ in pairs], [one for _, one in pairs]
                    _check(some, found, self._orientation)
                    yield from self._requests(some, found, number * CHECKED_AT_ONCE)
            except DataError as error:  # said once the images before are done
                stopped.append(error)

        for judged in self._look(requests(), self._opinion):
            if judged.error is not None:
                raise DataError(f"image {judged.error}")
            if judged.opinion_error is not None:
                raise DataError(f"image {judged.opinion_error}; second_opinion=False has the judge decide alone")
            (rescored,) = rescore_judged([judged], self._config, self._calibration)
            yield rescored.sorted()
        if stopped:
            raise stopped[0]

    def rescore_unchecked(self, images: Sequence[Picture], detections: Sequence[Detections]) -> list[Detections]:
        """As :meth:`rescore_many`, of boxes that may be odd, such as one face that reaches far beyond its picture.

        There is no second opinion.
        """
        judged = self._judged(images, detections)
        return [found.sorted() for found in rescore_judged(judged, self._config, self._calibration)]

    def learn(self, images: Iterable[Picture], detections: Iterable[Detections]) -> bool:
        """Learn how to read this detector's scores, from some of its proposals; no labels are needed.

        Args:
            images: a few dozen, with 500 proposals or more in all.
            detections: the detections of each image.

        Returns:
            Whether there were enough; if not, the calibration stays as it was.
        """
        images, detections = list(images), list(detections)
        _check(images, detections, self._orientation)
        found = calibrate_detector(self._judged(images, detections), self._config.fusion)
        self._calibration = found or self._calibration
        return found is not None

    def _judged(self, images: Sequence[Picture], detections: Sequence[Detections]) -> list[Judged]:
        _check_count(images, detections)
        requests = self._requests(images, detections)
        judged = list(self._look(requests, None))
        for one in judged:
            if one.error is not None:
                raise DataError(f"image {one.error}")
        return judged

    def _look(self, requests: Iterable[Request], opinion: Opinion | None) -> Iterator[Judged]:
        return judge_images(self._judge, requests, **self._config.judging_options, opinion=opinion)

    def _requests(
        self, images: Sequence[Picture], detections: Sequence[Detections], first: int = 0
    ) -> Iterator[Request]:
        """What is judged; ``first`` is the number of the first image."""
        for number, (image, found) in enumerate(zip(images, detections, strict=True), first):
            best = found.sorted()
            try:
                picture = to_picture(image, self._orientation)
            except DataError as error:
                raise DataError(f"image {number}: {error}") from error
            count = self._config.count_judged(best, self._calibration)
            yield Request(str(number), picture, best, count, opinion_on=count)


def _grouped(
    images: Iterable[Picture], detections: Iterable[Detections], size: int
) -> Iterator[list[tuple[Picture, Detections]]]:
    """Images with their detections, several at once."""
    pairs = itertools.zip_longest(images, detections)
    count = 0
    while group := list(itertools.islice(pairs, size)):
        for image, found in group:
            if image is None or found is None:
                raise _unequal(count, count + 1) if image is None else _unequal(count + 1, count)
            count += 1
        yield group


def _check(images: Sequence[Picture], detections: Sequence[Detections], orientation: Orientation) -> None:
    """Refuse boxes unless most lie in their pictures; of files, the headers alone are read."""
    _check_count(images, detections)
    sizes = [_size(image, orientation) for image in images]
    given = zip(detections, sizes, strict=True)
    refuse_boxes([Sample(found.boxes, found.scores, size) for found, size in given if size is not None])


def _size(image: Picture, orientation: Orientation) -> tuple[int, int] | None:
    """Width and height; of what cannot be read none, as that is said when it is decoded."""
    try:
        if isinstance(image, str | Path | bytes):
            return read_size(image, orientation)
        return to_picture(image, orientation).size
    except DataError:
        return None


def _check_count(images: Sequence[Picture], detections: Sequence[Detections]) -> None:
    if len(images) != len(detections):
        raise _unequal(len(images), len(detections))


def _unequal(images: int, detections: int) -> DataError:
    return DataError(f"expected detections of every image, got {images} images and {detections} of them")


def _detections(boxes: npt.ArrayLike | Detections, scores: npt.ArrayLike | None) -> Detections:
    if isinstance(boxes, Detections):
        if scores is not None:
            raise DataError("detections bring their own scores; give boxes and scores, or detections alone")
        return boxes
    if scores is None:
        raise DataError("boxes need scores, one in [0, 1] for each")
    try:
        array = to_numpy(boxes)
        if array.ndim == 2 and len(array) == 4 != array.shape[1]:
            raise DataError(f"expected boxes [N, 4], got {list(array.shape)}: they look transposed, pass boxes.T")
        return Detections(array[None] if array.shape == (4,) else array, to_numpy(scores))
    except (TypeError, ValueError) as error:
        raise DataError(f"expected boxes [N, 4] and N finite scores: {error}") from error
