"""Chooses the regions of interest to train on: which proposals are faces, which are not, and which are left out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tinygan.boxes import iou
from tinygan.detections import BoolArray, Detections, FloatArray, GroundTruth, IntArray

FACE, NON_FACE, IGNORED = 1, 0, -1


@dataclass(frozen=True, kw_only=True)
class RoiConfig:
    """How regions of interest are chosen.

    In the paper they are what its detector proposes in all training images; all else is not stated in the paper.

    Attributes:
        positive_iou: least IoU of a proposal with a face at which the proposal is labelled as a face.
        negative_iou: IoU with every face below which a proposal is labelled as a non-face. Proposals between the two
            are left out.
        invalid_iou: least IoU of a proposal with a face marked invalid at which the proposal is left out.
        negatives_per_image: largest number of non-faces per image and detector; those with the highest scores are
            taken (hard negatives).
        positives_per_image: largest number of faces per image and detector.
        jitters_per_face: number of further boxes drawn around each valid face (the paper: 0).
        backgrounds_per_image: number of boxes per image that are drawn at random, away from faces (the paper: 0).
        unlabelled_score: least score of a detector at which its non-faces are left out, as most of them are faces that
            the annotators missed, or pictures of faces. ``None``: all are taken.
        regions_per_image: largest number of regions per image, of all detectors together; if there are more, they are
            drawn at random. ``None``: all are taken.
        min_face_px: least longer side of a face in pixels; smaller faces are ignored.
        holdout: share of the training images kept out of training, chosen by a hash of the name (the paper: 0). Stage
            ``fusion`` is fitted on these images.
    """

    positive_iou: float = 0.5
    negative_iou: float = 0.4
    invalid_iou: float = 0.3
    negatives_per_image: int = 60
    positives_per_image: int = 120
    jitters_per_face: int = 1  # Differs from the paper: 0
    backgrounds_per_image: int = 4  # Differs from the paper: 0
    unlabelled_score: float | None = None
    regions_per_image: int | None = None
    min_face_px: float = 6.0
    holdout: float = 0.15  # Differs from the paper: 0

    def __post_init__(self) -> None:
        if not 0 < self.negative_iou <= self.positive_iou <= 1:
            raise ValueError(
                f"expected 0 < negative_iou <= positive_iou <= 1, got {self.negative_iou} and {self.positive_iou}"
            )
        if self.regions_per_image is not None and self.regions_per_image < 1:
            raise ValueError(f"regions_per_image must be at least 1, or null for all; got {self.regions_per_image}")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout must lie in [0, 1), got {self.holdout}")


@dataclass(frozen=True)
class Rois:
    """Labelled regions of interest of one image.

    Attributes:
        boxes: float64 [N, 4], ``x1, y1, x2, y2`` in pixels.
        labels: int64 [N], ``FACE`` or ``NON_FACE``.
        scores: float64 [N], scores of the detector; 1 for boxes drawn around a face, 0 for background.
        targets: float64 [N, 4], for each box the face that overlaps it most, in pixels; NaN if none does.
    """

    boxes: FloatArray
    labels: IntArray
    scores: FloatArray
    targets: FloatArray


def in_holdout(name: str, share: float) -> bool:
    """Whether an image is kept out of training. This depends on its name alone.

    The hash is salted, as the data set itself may have been divided by a plain hash of its names.
    """
    digest = hashlib.sha256(f"tinygan hold-out {name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def label_boxes(boxes: FloatArray, truth: GroundTruth, config: RoiConfig) -> IntArray:
    """Label boxes by their IoU to the ground truth.

    Args:
        boxes: float64 [N, 4], in pixels.
        truth: the faces of the image.
        config: the thresholds.

    Returns:
        int64 [N]: ``FACE``, ``NON_FACE`` or ``IGNORED``.
    """
    targets = _is_target(truth, config)
    best = _best_iou(boxes, truth.boxes[targets])
    touches_ignored = _best_iou(boxes, truth.boxes[~targets]) >= config.invalid_iou
    labels = np.full(len(boxes), IGNORED, dtype=np.int64)
    labels[(best < config.negative_iou) & ~touches_ignored] = NON_FACE
    labels[best >= config.positive_iou] = FACE
    return labels


def choose_rois(
    proposals: Sequence[Detections],
    truth: GroundTruth,
    size_px: tuple[int, int],
    config: RoiConfig,
    rng: np.random.Generator,
) -> Rois:
    """The training regions of one image: proposals of every detector, jittered truth and background.

    Args:
        proposals: proposals in the image, one entry per detector.
        truth: the faces of the image.
        size_px: width and height of the image.
        config: the thresholds and quotas.
        rng: random generator of the jitter and the background.

    Returns:
        Faces and non-faces; those of each detector are sorted by falling score.
    """
    boxes, labels, scores = [], [], []
    for detections in proposals:
        ordered = detections.sorted()
        found = label_boxes(ordered.boxes, truth, config)
        if config.unlabelled_score is not None:
            found[(found == NON_FACE) & (ordered.scores >= config.unlabelled_score)] = IGNORED
        keep = _first_true(found == NON_FACE, config.negatives_per_image) | _first_true(
            found == FACE, config.positives_per_image
        )
        boxes.append(ordered.boxes[keep])
        labels.append(found[keep])
        scores.append(ordered.scores[keep])
    drawn = {
        FACE: _jitter(np.repeat(truth.boxes[_is_target(truth, config)], config.jitters_per_face, axis=0), rng),
        NON_FACE: _backgrounds(size_px, config.backgrounds_per_image, rng),
    }
    for label, candidates in drawn.items():
        keep = label_boxes(candidates, truth, config) == label
        boxes.append(candidates[keep])
        labels.append(np.full(keep.sum(), label, dtype=np.int64))
        scores.append(np.full(keep.sum(), float(label)))
    chosen, kinds, scored = np.concatenate(boxes), np.concatenate(labels), np.concatenate(scores)
    if config.regions_per_image is not None and len(chosen) > config.regions_per_image:
        rows = np.sort(rng.permutation(len(chosen))[: config.regions_per_image])
        chosen, kinds, scored = chosen[rows], kinds[rows], scored[rows]
    return Rois(chosen, kinds, scored, nearest_faces(chosen, truth, config))


def shift_rois(rois: Rois, truth: GroundTruth, config: RoiConfig, spread: float, rng: np.random.Generator) -> Rois:
    """Copies of the regions that overlap a face, moved and scaled at random, with labels of their own.

    Args:
        rois: the regions of an image.
        truth: the faces of the image.
        config: the thresholds.
        spread: standard deviation of the move, in sides, and of the logarithm of the scale.
        rng: random generator of moves and scales.
    """
    near = np.isfinite(rois.targets[:, 0])
    boxes = _jitter(rois.boxes[near], rng, spread, spread)
    labels = label_boxes(boxes, truth, config)
    kept = labels != IGNORED
    targets = nearest_faces(boxes, truth, config)
    return Rois(boxes[kept], labels[kept], rois.scores[near][kept], targets[kept])


def nearest_faces(boxes: FloatArray, truth: GroundTruth, config: RoiConfig) -> FloatArray:
    """For each box the usable face that overlaps it most, float64 [N, 4]; NaN if none does."""
    faces = truth.boxes[_is_target(truth, config)]
    if not len(faces) or not len(boxes):
        return np.full((len(boxes), 4), np.nan)
    overlaps = iou(boxes, faces)
    nearest: FloatArray = faces[overlaps.argmax(axis=1)].astype(np.float64)
    nearest[overlaps.max(axis=1) <= 0] = np.nan
    return nearest


def split_holdout(names: Iterable[str], share: float) -> tuple[list[str], list[str]]:
    """Names of the training images, and names of the hold-out images."""
    training: list[str] = []
    holdout: list[str] = []
    for name in names:
        (holdout if in_holdout(name, share) else training).append(name)
    return training, holdout


def _is_target(truth: GroundTruth, config: RoiConfig) -> BoolArray:
    """bool [M]: faces that regions are trained on; all others are ignored."""
    large_enough = (truth.boxes[:, 2:] - truth.boxes[:, :2]).max(axis=1, initial=0.0) >= config.min_face_px
    targets: BoolArray = truth.usable & large_enough
    return targets


def _best_iou(boxes: FloatArray, faces: FloatArray) -> FloatArray:
    best: FloatArray = iou(boxes, faces).max(axis=1, initial=0.0)
    return best


def _first_true(mask: BoolArray, count: int) -> BoolArray:
    first: BoolArray = mask & (np.cumsum(mask) <= count)
    return first


def _jitter(boxes: FloatArray, rng: np.random.Generator, move: float = 0.08, scale: float = 0.12) -> FloatArray:
    """Boxes moved at random by about ``move`` sides, and scaled by a factor of about exp(+-``scale``)."""
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + rng.normal(0, move, (len(boxes), 2)) * size
    half = size * np.exp(rng.normal(0, scale, (len(boxes), 2))) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def _backgrounds(size_px: tuple[int, int], count: int, rng: np.random.Generator) -> FloatArray:
    """Random squares inside the image; their sides are 1/40 to 1/4 of its shorter side (log-uniform)."""
    limit = np.array(size_px, dtype=np.float64)
    sides = np.exp(rng.uniform(np.log(min(size_px) / 40), np.log(min(size_px) / 4), (count, 1)))
    corners = rng.uniform(0, 1, (count, 2)) * np.maximum(limit - sides, 0)
    return np.concatenate([corners, corners + sides], axis=1)
