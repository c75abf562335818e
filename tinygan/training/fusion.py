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
from tqdm import tqdm

from tinygan.boxes import iou
from tinygan.checkpoint import WEIGHTS_FILE, Checkpoint, load_checkpoint, save_checkpoint
from tinygan.config import to_tree
from tinygan.data.rois import RoiConfig
from tinygan.detections import BoolArray, Detections, FloatArray, GroundTruth
from tinygan.errors import DataError
from tinygan.evaluate.truth import truth_by_height
from tinygan.evaluate.wider import evaluate_wider
from tinygan.files import write_atomically
from tinygan.formats.dialect import AS_WRITTEN, Dialect
from tinygan.formats.names import select_names
from tinygan.formats.plausible import explain_scores
from tinygan.formats.wider import WiderSplit, load_split, load_subset
from tinygan.runtime import Runtime
from tinygan.second_stage.calibration import PLAIN, Calibration, fit_evidence, size_feature
from tinygan.second_stage.fusion import (
    Fusion,
    FusionConfig,
    calibrate,
    calibrate_detector,
    fused_logits,
    move_boxes,
    search_weights,
)
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import Judged, Request, judge_images
from tinygan.second_stage.rescoring import RescoreConfig, judged_columns, rescore_judged
from tinygan.training.prepare import TrainingInput, read_proposals
from tinygan.training.recipe import Recipe
from tinygan.training.run import FINISHED_FILE, FUSION_FILE, RunFolder

log = logging.getLogger(__name__)
LEAST_ERROR = 1e-3


ByImage = Mapping[str, Judged]  # one detector's judged proposals by image name
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

    Returns:
        A line for every image that could not be read.

    Raises:
        DataError: if a listed image was trained on, or none is left.
    """
    weights = load_checkpoint(init, ("gan", "fused"))
    split = load_split(data.root, "train")
    names = holdout_names(split, weights, subset, init)
    judge = Judge.from_weights(weights, runtime)
    unreadable: list[str] = []
    judged: dict[str, ByImage] = {}
    for path in data.proposals:
        of_detector = judge_proposals(
            judge, path, split, names, batch_size, max_rois, unreadable, recipe.fusion_search.looks, data.dialect
        )
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


def fit_fusion(detectors: Sequence[ByImage], truths: Truths, labels: RoiConfig, config: FusionConfig) -> Fusion:
    """Fit fusion on judged proposals of one detector or more, each of which counts the same.

    What a face logit is worth is fitted on the labels; every detector's calibration then without them, as an unknown
    detector's will be; the weights for the least :func:`mean_log_error`; last, the final scores are calibrated.

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
    columns = [judged_columns(one.values()) for one in detectors]
    moving = Fusion(
        move=_middle(config.move), resize=_middle(config.resize), fade=_middle(config.fade), looks=config.looks
    )
    is_face, counts = zip(*(_labels_of(one, truths, labels, moving) for one in detectors), strict=True)
    pooled = [np.concatenate(column) for column in zip(*columns, strict=True)]
    kept = np.concatenate(counts)
    faces = int(np.concatenate(is_face)[kept].sum())
    if not 0 < faces < kept.sum():
        raise DataError(
            f"fusion needs both faces and non-faces among the hold-out proposals, got {faces} faces in "
            f"{int(kept.sum())} proposals; give more images"
        )
    detector = np.repeat(np.arange(len(columns)), [len(column[0]) for column in columns])
    evidence = fit_evidence(
        pooled[1][kept], size_feature(pooled[2][kept]), np.concatenate(is_face)[kept], detector[kept]
    )
    basis = replace(moving, judge=0.75, sure=config.sure, fitted=True, evidence=evidence)
    usual = calibrate_detector(basis, *pooled) or PLAIN
    calibrations = [calibrate_detector(basis, *column) or usual for column in columns]
    counted = [truth_by_height({name: truths[name] for name in one}, config.heights_px) for one in detectors]

    def quality(trial: Fusion) -> float:
        aps = []
        for one, calibration, truth in zip(detectors, calibrations, counted, strict=True):
            detections = rescored(one, trial, calibration)
            for iou_threshold in config.ious:
                result = evaluate_wider(detections, truth, iou_threshold=iou_threshold)
                aps += [subset.ap_exact for subset in result.subsets.values() if subset.faces]
        return -mean_log_error(aps)

    best = search_weights(quality, basis, config)
    logits = [
        fused_logits(best, *column, calibration) for column, calibration in zip(columns, calibrations, strict=True)
    ]
    calibrated = calibrate(best, np.concatenate(logits)[kept], np.concatenate(is_face)[kept])
    return replace(calibrated, usual_calibration=usual)


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


def _labels_of(judged: ByImage, truths: Truths, labels: RoiConfig, fusion: Fusion) -> tuple[FloatArray, BoolArray]:
    """Labels of the boxes where this fusion moves them."""
    moved = [(move_boxes(fusion, one.best.boxes, one.boxes), truths[name]) for name, one in judged.items()]
    found = [label_for_fusion(boxes, truth, labels) for boxes, truth in moved]
    return np.concatenate([is_face for is_face, _ in found]), np.concatenate([counts for _, counts in found])


def _middle(values: Sequence[float]) -> float:
    """Where a search begins."""
    return sorted(values)[len(values) // 2]


def calibration_of(judged: ByImage, fusion: Fusion) -> Calibration:
    """The calibration of one detector, found in these proposals; of too few, the fusion's usual one."""
    return calibrate_detector(fusion, *judged_columns(judged.values())) or fusion.usual_calibration


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


def judge_proposals(
    judge: Judge,
    path: Path,
    split: WiderSplit,
    names: Sequence[str],
    batch_size: int,
    max_rois: int,
    unreadable: list[str],
    looks: int = 1,
    dialect: Dialect = AS_WRITTEN,
) -> dict[str, Judged]:
    """One detector's best proposals in these images, judged.

    Args:
        judge: the networks.
        path: the detector's proposals.
        split: images and faces.
        names: images to judge; those without proposals are left out.
        batch_size: patches in one forward pass.
        max_rois: proposals judged of an image.
        unreadable: gets a line for every image that could not be read.
        looks: how often the judge looks at a box.
        dialect: what the proposals leave unsaid.

    Raises:
        DataError: if their scores lie outside [0, 1].
    """
    proposals = read_proposals(path, split, dialect)
    if problem := explain_scores(np.concatenate([np.zeros(0), *(found.scores for found in proposals.values())])):
        raise DataError(f"{path}: {problem}")
    best = {name: proposals[name].sorted()[:max_rois] for name in names if name in proposals}
    requests = (Request(name, split.images / name, detections) for name, detections in best.items())
    judged = {}
    for one in tqdm(
        judge_images(judge, requests, batch_size, looks=looks),
        total=len(best), desc="judging hold-out", unit="image", disable=None,
    ):  # fmt: skip
        if one.error is not None:
            log.warning("skipped: %s", one.error)
            if one.error not in unreadable:  # another detector's proposals may have met it
                unreadable.append(one.error)
            continue
        judged[one.name] = one
    return judged


def fitted_gains(
    judged: Mapping[str, ByImage], truths: Truths, fusion: Fusion, config: FusionConfig
) -> dict[str, dict[str, Gain]]:
    """Exact AP of the proposals and of what becomes of them, on the very images that the fusion was fitted on.

    Args:
        judged: ``{detector: {image name: judged proposals}}``.
        truths: the faces of these images.
        fusion: as fitted.
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
