"""Stage ``fusion``: fit how the detector's score and the face logit become one, on images nothing was trained on.

    tinygan-train --stage fusion --data ROOT --proposals P... --init runs/judge --out runs/fused

The judge looks at all proposals of the hold-out images, about 140 a second on a CPU, then some fifty fusions are tried:
WIDER-mini's 145 images with 92,910 proposals of five detectors take eleven minutes of judging. There, where it is
fitted, exact AP of all faces at IoU 0.5 goes from .506 to .643 (RetinaFace-MobileNet0.25), .602 to .697
(RetinaFace-ResNet-50) and .656 to .710 (YOLOv7-face); the run logs it (``experiments/lite/log.txt``).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinygan.boxes import iou
from tinygan.checkpoint import WEIGHTS_FILE, Checkpoint, load_checkpoint, save_checkpoint
from tinygan.config import build_config, to_tree
from tinygan.data.cutting import CropConfig
from tinygan.data.rois import RoiConfig
from tinygan.detections import BoolArray, Detections, FloatArray, GroundTruth, IntArray
from tinygan.errors import CheckpointError, DataError
from tinygan.evaluate.claims import Claims, score_claims
from tinygan.evaluate.curves import average_precision, exact_curve
from tinygan.evaluate.truth import truth_by_height
from tinygan.evaluate.wider import claim_wider_faces, evaluate_wider
from tinygan.files import write_atomically
from tinygan.formats.names import select_names
from tinygan.formats.wider import WiderSplit, load_split, load_subset
from tinygan.models.discriminator import DiscriminatorConfig
from tinygan.runtime import Runtime
from tinygan.second_stage.calibration import Calibration, fit_rank_curve, fit_usual_calibration, size_feature
from tinygan.second_stage.fusion import (
    Fusion,
    FusionConfig,
    best_of_face,
    calibrate,
    fused_logits,
    move_boxes,
    search_weights,
)
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.rescoring import (
    RescoreConfig,
    calibrate_detector,
    fuse_judged,
    judged_columns,
    one_per_face,
    place,
    rescore_judged,
)
from tinygan.training.holdout import ByImage, judge_proposals, load_judged, save_judged
from tinygan.training.prepare import TrainingInput
from tinygan.training.recipe import Recipe
from tinygan.training.run import FINISHED_FILE, FUSION_FILE, RunFolder

log = logging.getLogger(__name__)
LEAST_ERROR = 1e-3


Truths = Mapping[str, GroundTruth]  # the faces of every image


class Gain(NamedTuple):
    """An average precision before and after."""

    before: float
    after: float


def train_fusion(
    data: TrainingInput,
    init: Path,
    recipe: Recipe,
    folder: RunFolder,
    runtime: Runtime,
    *,
    batch_size: int,
    max_rois: int,
    subset: Path | None = None,
    second: Path | None = None,
) -> list[str]:
    """Fit fusion on the hold-out; the folder then holds ``model.safetensors`` of kind ``fused``.

    Args:
        data: images and at least one detector's proposals.
        init: run folder of stage ``gan``.
        recipe: thresholds and regularisation.
        folder: the run.
        runtime: the device.
        batch_size: patches in one forward pass.
        max_rois: proposals judged of an image.
        subset: list of hold-out images; default: all images that ``init`` was not trained on.
        second: run folder of stage ``judge`` of another judge, which takes the second look.

    Returns:
        A line for every image that could not be read.

    Raises:
        CheckpointError: if the second judge sees other pictures than the first.
        DataError: if a listed image was trained on, or none is left.
    """
    weights = load_checkpoint(init, ("gan", "fused"))
    if second is not None:
        weights = with_second(weights, load_checkpoint(second, ("gan", "fused")), second)
        recipe = replace(recipe, second=build_config(DiscriminatorConfig, weights.recipe["second"]))
    split = load_split(data.root, "train")
    names = holdout_names(split, weights, subset, init)
    judge = Judge.from_weights(weights, runtime)
    unreadable: list[str] = []
    judged: dict[str, ByImage] = {}
    for number, path in enumerate(data.proposals):
        kept = folder.judged(number)
        if kept.is_file():
            of_detector = load_judged(kept)
        else:
            looks = recipe.fusion_search.looks
            of_detector = judge_proposals(
                judge, path, split, names, batch_size, max_rois, unreadable, looks, data.dialect
            )
            if runtime.is_main:
                save_judged(kept, of_detector)
        if of_detector:
            judged[str(path)] = of_detector
            log.info(
                "%s: %d proposals of %d hold-out images judged", path, count_proposals(of_detector), len(of_detector)
            )
    if not judged:
        raise DataError(f"{data.proposals[0]}: holds no proposals of the {len(names)} hold-out images")
    fusion = fit_fusion(list(judged.values()), split.faces, recipe.rois, recipe.fusion_search)
    if runtime.is_main:
        _report(folder, fusion, judged, split.faces, len(names), recipe.fusion_search)
        fused = replace(weights, kind="fused", recipe=to_tree(recipe), fusion=fusion.to_facts())
        save_checkpoint(folder.file(WEIGHTS_FILE), fused)
        write_atomically(folder.file(FINISHED_FILE), json.dumps({"unreadable": unreadable}).encode())
    return unreadable


def with_second(weights: Checkpoint, other: Checkpoint, path: Path) -> Checkpoint:
    """A checkpoint whose second look is taken by the judge of another one.

    Raises:
        CheckpointError: if the two see different pictures, or one of them does not find boxes.
    """
    forms: dict[str, type[CropConfig | DiscriminatorConfig]] = {
        "crops": CropConfig,
        "discriminator": DiscriminatorConfig,
    }
    for section, form in forms.items():
        first, second = (vars(build_config(form, one.recipe[section])) for one in (weights, other))
        for key in first if section == "crops" else ("surroundings", "box"):
            if first[key] != second[key]:
                raise CheckpointError(
                    f"{path}: as the judge that looks second it must have {section}.{key} = {first[key]} "
                    f"like the first one, got {second[key]}"
                )
    if not weights.recipe["discriminator"]["box"]:
        raise CheckpointError(f"{path}: there is no second look, as the first judge finds no boxes; train stage judge")
    tensors = {name: value for name, value in weights.tensors.items() if not name.startswith("second.")}
    tensors |= {f"second.{name}": value for name, value in other.part("discriminator").items()}
    recipe = {**weights.recipe, "second": other.recipe["discriminator"]}
    return replace(weights, recipe=recipe, tensors=tensors, trained_on=weights.trained_on | other.trained_on)


def fit_fusion(detectors: Sequence[ByImage], truths: Truths, labels: RoiConfig, config: FusionConfig) -> Fusion:
    """Fit fusion on judged proposals of one detector or more, each of which counts the same.

    How precision falls with rank is fitted on the labels; every detector's calibration then without them, as an unknown
    detector's will be; the weights for the least :func:`mean_log_error`; last, the final scores are made shares of
    faces.

    Args:
        detectors: ``{image name: judged proposals}`` of each detector.
        truths: the faces of these images.
        labels: ``positive_iou``.
        config: values to try.

    Raises:
        DataError: if there are not both faces and non-faces.
    """
    if not any(np.isfinite(judged.boxes).any() for one in detectors for judged in one.values()):
        stay = (0.0,)  # a judge without the third head
        config = replace(config, move=stay, resize=stay, fade=stay, merge_iou=(None,))
    moving = Fusion(
        move=_middle(config.move), resize=_middle(config.resize), fade=_middle(config.fade), looks=config.looks
    )
    labelled = [_one_per_face(one, truths, labels, moving) for one in detectors]
    is_face = np.concatenate([one.is_face[np.isfinite(one.is_face)] for one in labelled])
    if not 0 < is_face.sum() < len(is_face):
        raise DataError(
            f"fusion needs both faces and non-faces among the hold-out proposals, got {int(is_face.sum())} faces in "
            f"{len(is_face)} proposals; give more images"
        )
    curve = fit_rank_curve([(one.scores, one.face_logits, one.is_face) for one in labelled])
    usual = fit_usual_calibration([one.counted() for one in labelled])
    basis = replace(moving, judge=0.5, sure=config.sure, fitted=True, curve=curve, usual_calibration=usual)
    trials = [_Trials(one, truths, calibration_of(one, basis), config) for one in detectors]

    def quality(trial: Fusion) -> float:
        return -mean_log_error([ap for one in trials for ap in one.average_precisions(trial)])

    best = search_weights(quality, basis, config)
    logits = np.concatenate(
        [
            fused_logits(best, one.scores, one.face_logits, one.sides_px, trial.calibration)[np.isfinite(one.is_face)]
            for one, trial in zip(labelled, trials, strict=True)
        ]
    )
    return calibrate(best, logits, is_face)


class _Labelled(NamedTuple):
    """Judged proposals of one detector, no two of one face; float64 [N] each.

    Attributes:
        scores: the detector's.
        face_logits: the judge's.
        sides_px: longer sides.
        is_face: 1 where the box, moved, is a face, 0 where it is none, NaN where it is an ignored one.
    """

    scores: FloatArray
    face_logits: FloatArray
    sides_px: FloatArray
    is_face: FloatArray

    def counted(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Scores, face logits, size features and labels of those that are not ignored."""
        counts = np.isfinite(self.is_face)
        size = size_feature(self.sides_px)
        return self.scores[counts], self.face_logits[counts], size[counts], self.is_face[counts]


def _one_per_face(judged: ByImage, truths: Truths, labels: RoiConfig, fusion: Fusion) -> _Labelled:
    """Judged proposals, one per face, with the labels of the boxes where this fusion moves them."""
    distinct = {name: one_per_face(one) for name, one in judged.items()}
    is_face = [np.zeros(0)]
    for name, one in distinct.items():
        moved = move_boxes(fusion, one.proposals.boxes, one.boxes)
        face, counts = label_for_fusion(moved, truths[name], labels)
        is_face.append(np.where(counts, face, np.nan))
    return _Labelled(*judged_columns(distinct.values()), np.concatenate(is_face))


class _Trials:
    """One detector's judged proposals under many fusions.

    Where boxes go does not depend on scores, so boxes, and the faces they claim, are found once for all fusions that
    move and merge them alike. The steps are those of :func:`tinygan.second_stage.rescoring.rescore_judged`; a test
    compares the two.

    Args:
        judged: by image.
        truths: the faces of these images.
        calibration: the detector's.
        config: heights of the faces that count, and the IoUs of a hit.
    """

    def __init__(self, judged: ByImage, truths: Truths, calibration: Calibration, config: FusionConfig) -> None:
        self.calibration = calibration
        self._judged, self._config = judged, config
        self._truth = truth_by_height({name: truths[name] for name in judged}, config.heights_px)
        self._face_logits = [one.face_logits for one in judged.values()]
        self._placed: tuple[object, IntArray, Claims] | None = None

    def average_precisions(self, fusion: Fusion) -> list[float]:
        """Exact AP at every height and IoU at which there is a face to find."""
        stays, claims = self._place(fusion)
        config = RescoreConfig(fusion=fusion)
        scores = fuse_judged(list(self._judged.values()), self._face_logits, config, self.calibration)
        best = best_of_face(scores, stays)[stays == np.arange(len(stays))]
        claims = claims.with_scores(best)
        found = []
        for members in self._truth.subsets.values():
            for iou_threshold in self._config.ious:
                outcomes = score_claims(claims, [members[name] for name in self._judged], iou_threshold)
                if outcomes.positives:
                    found.append(average_precision(exact_curve(outcomes)))
        return found

    def _place(self, fusion: Fusion) -> tuple[IntArray, Claims]:
        """For each proposal the one that stays, int64 [N], and the faces that those claim, in their order."""
        key = (fusion.move, fusion.resize, fusion.fade, fusion.merge_iou)
        if self._placed is None or self._placed[0] != key:
            stays, detections, first = [np.zeros(0, np.int64)], {}, 0
            for name, one in self._judged.items():
                placed = place(one, fusion)
                rows = placed.rows
                stays.append(placed.stays + first)
                falling = -np.arange(first, first + len(rows), dtype=np.float64)  # so that claims keep this order
                detections[name] = Detections(placed.boxes[rows], falling)
                first += len(placed.stays)
            claims = claim_wider_faces(detections, self._truth, list(self._judged))
            self._placed = key, np.concatenate(stays), claims
        return self._placed[1], self._placed[2]


def mean_log_error(aps: Sequence[float]) -> float:
    """Mean logarithm of 1 - AP: what counts is the share of the error that goes.

    By mean AP, weak detectors and the smallest faces, where most points are to be had, would outvote the others, and
    the judge get a weight that costs good and unknown detectors their larger faces.

    Args:
        aps: average precisions, in [0, 1].
    """
    return float(np.log(np.maximum(1.0 - np.asarray(aps), LEAST_ERROR)).mean())


def count_proposals(judged: ByImage) -> int:
    """How many proposals of one detector were judged."""
    return sum(len(one.best) for one in judged.values())


def _middle(values: Sequence[float]) -> float:
    """Where a search begins."""
    return sorted(values)[len(values) // 2]


def calibration_of(judged: ByImage, fusion: Fusion) -> Calibration:
    """The calibration of one detector, found in these proposals; of too few, the fusion's usual one."""
    return calibrate_detector(judged.values(), fusion) or fusion.usual_calibration


def rescored(judged: ByImage, fusion: Fusion, calibration: Calibration) -> dict[str, Detections]:
    """What a user gets of one detector's proposals with this fusion, by image."""
    found = rescore_judged(list(judged.values()), RescoreConfig(fusion=fusion), calibration)
    return dict(zip(judged, found, strict=True))


def holdout_names(split: WiderSplit, weights: Checkpoint, subset: Path | None, init: Path) -> list[str]:
    """Images that the checkpoint was not trained on.

    Raises:
        DataError: if ``subset`` names one that it was trained on, or none is left.
    """
    if subset is not None:
        chosen = select_names(load_subset(subset), split.faces, str(subset))
        seen = [name for name in chosen if weights.was_trained_on(name)]
        if seen:
            raise DataError(
                f"{subset}: {init} was trained on {len(seen)} of these images, such as '{seen[0]}'; fusion must be "
                "fitted on images it never saw, or it trusts the judge too much"
            )
        return chosen
    names = [name for name in split.faces if not weights.was_trained_on(name)]
    if not names:
        raise DataError(
            f"{split.images}: {init} was trained on every image here; fusion must be fitted on images it never saw: "
            "train stage gan with rois.holdout above 0"
        )
    return names


def label_for_fusion(boxes: FloatArray, truth: GroundTruth, config: RoiConfig) -> tuple[FloatArray, BoolArray]:
    """Label proposals as the evaluation counts them.

    Args:
        boxes: float64 [N, 4].
        truth: faces of the image.
        config: ``positive_iou``.

    Returns:
        ``is_face`` float64 [N], and bool [N] of the proposals that count: those whose best face is an
        ignored one are left out.
    """
    overlaps = iou(boxes, truth.boxes)
    overlaps = np.concatenate([overlaps, np.zeros((len(boxes), 1))], axis=1)
    best = overlaps.argmax(axis=1)
    hit = overlaps.max(axis=1) >= config.positive_iou
    usable = np.append(truth.usable, True)[best]
    return (hit & usable).astype(np.float64), ~(hit & ~usable)


def fitted_gains(
    judged: Mapping[str, ByImage], truths: Truths, fusion: Fusion, config: FusionConfig
) -> dict[str, dict[str, Gain]]:
    """Exact AP of the proposals and of what becomes of them, on the very images that the fusion was fitted on.

    Args:
        judged: ``{detector: {image name: judged proposals}}``.
        truths: the faces of these images.
        fusion: the fitted fusion.
        config: faces of which heights count, and the IoUs of a hit.

    Returns:
        ``{detector: {"0 px, IoU 0.5": (before, after)}}``; where no face is that high there is no entry.
    """
    gains: dict[str, dict[str, Gain]] = {}
    heights_px = sorted(set(config.heights_px))
    for detector, images in judged.items():
        before = {name: one.proposals for name, one in images.items()}
        after = rescored(images, fusion, calibration_of(images, fusion))
        truth = truth_by_height({name: truths[name] for name in images}, heights_px)
        gains[detector] = {}
        for iou_threshold in config.ious:
            results = [evaluate_wider(side, truth, iou_threshold=iou_threshold) for side in (before, after)]
            for height_px, old, new in zip(heights_px, *(one.subsets.values() for one in results), strict=True):
                if old.faces:
                    gains[detector][f"{height_px:g} px, IoU {iou_threshold:g}"] = Gain(old.ap_exact, new.ap_exact)
    return gains


def _report(
    folder: RunFolder,
    fusion: Fusion,
    judged: Mapping[str, ByImage],
    truths: Truths,
    images: int,
    config: FusionConfig,
) -> None:
    counts = {path: count_proposals(of_detector) for path, of_detector in judged.items()}
    gains = fitted_gains(judged, truths, fusion, config)
    summary = {"images": images, "proposals": counts, "exact_ap_where_fitted": gains, "fusion": fusion.to_facts()}
    write_atomically(folder.file(FUSION_FILE), json.dumps(summary, indent=1).encode())
    for detector, rows in gains.items():
        cells = (f"{name}: {gain.before:.3f} -> {gain.after:.3f}" for name, gain in rows.items())
        log.info("%s: exact AP on the hold-out, where fusion was fitted; faces from %s", detector, "; ".join(cells))
    log.info(
        "fusion: %.3f x log-odds of the score + (%.3f %+.3f z) x surprise of the face logit %+.3f z %+.3f, "
        "boxes move %.2f and resize %.2f of the way, fading by %.2f z, and merge at IoU %s; "
        "z = log2(side / 16 px), fitted on %d proposals of %d hold-out images",
        fusion.detector, fusion.judge, fusion.judge_by_size, fusion.size, fusion.bias,
        fusion.move, fusion.resize, fusion.fade, fusion.merge_iou, sum(counts.values()), images,
    )  # fmt: skip
