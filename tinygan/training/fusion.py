"""Stage ``fusion``: fit how the detector's score and the face logit become one, on images nothing was trained on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tinygan.boxes import iou, longer_side
from tinygan.checkpoint import WEIGHTS_FILE, Weights, load_weights, name_hash, save_weights
from tinygan.config import to_tree
from tinygan.data.rois import RoiConfig
from tinygan.detections import BoolArray, Detections, FloatArray, GroundTruth
from tinygan.errors import DataError
from tinygan.evaluate.truth import truth_by_height
from tinygan.evaluate.wider import evaluate_wider
from tinygan.files import write_atomically
from tinygan.formats.names import select_names
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import WiderSplit, load_split, load_subset
from tinygan.runtime import Runtime
from tinygan.second_stage.calibration import PLAIN, DetectorView, fit_evidence, size_feature
from tinygan.second_stage.fusion import (
    Fusion,
    FusionConfig,
    calibrate,
    fused_logits,
    merge_same_face,
    move_boxes,
    search_weights,
    view_detector,
)
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import Request, judge_images
from tinygan.training.prepare import TrainingInput, match_proposals
from tinygan.training.recipe import Recipe
from tinygan.training.run import FINISHED_FILE, RunFolder

log = logging.getLogger(__name__)
FUSION_FILE = "fusion.json"
LEAST_ERROR = 1e-3


class Judged(NamedTuple):
    """One detector's best proposals in one hold-out image.

    Attributes:
        detections: the proposals.
        face_logits: float64 [N].
        boxes: float64 [N, 4], where the judge says the faces lie; NaN if it has no such head.
        truth: the image's faces.
    """

    detections: Detections
    face_logits: FloatArray
    boxes: FloatArray
    truth: GroundTruth


ByImage = Mapping[str, Judged]


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
    weights = load_weights(init, ("gan", "fused"))
    split = load_split(data.root, "train")
    names = holdout_names(split, weights, subset, init)
    judge = Judge.from_weights(weights, runtime)
    unreadable: list[str] = []
    judged: dict[str, ByImage] = {}
    for path in data.proposals:
        of_detector = judge_proposals(
            judge, path, split, names, batch_size, max_rois, unreadable, looks=recipe.fusion_search.looks
        )
        if of_detector:
            judged[str(path)] = of_detector
            log.info(
                "%s: %d proposals of %d hold-out images judged", path, count_proposals(of_detector), len(of_detector)
            )
    if not judged:
        raise DataError(f"{data.proposals[0]}: holds no proposals of the {len(names)} hold-out images")
    fusion = fit_fusion(list(judged.values()), recipe.rois, recipe.fusion_search)
    facts = {**weights.facts, "fusion": fusion.to_facts()}
    if runtime.is_main:
        _report(folder, fusion, judged, len(names), recipe.fusion_search)
        save_weights(folder.file(WEIGHTS_FILE), Weights("fused", to_tree(recipe), weights.tensors, facts))
        write_atomically(folder.file(FINISHED_FILE), json.dumps({"unreadable": unreadable}).encode())
    return unreadable


def fit_fusion(detectors: Sequence[ByImage], labels: RoiConfig, config: FusionConfig) -> Fusion:
    """Fit fusion on judged proposals of one detector or more, each of which counts the same.

    What a face logit is worth is fitted on the labels; every detector's view then without them, as an unknown
    detector's will be; the weights for the least :func:`mean_log_error`; last, the final scores are calibrated.

    Args:
        detectors: ``{image name: judged proposals}`` of each.
        labels: ``positive_iou``.
        config: values to try.

    Raises:
        DataError: if there are not both faces and non-faces.
    """
    if not any(np.isfinite(judged.boxes).any() for one in detectors for judged in one.values()):
        stay = (0.0,)  # a judge without the third head
        config = replace(config, move=stay, resize=stay, fade=stay, merge_iou=(None,))
    columns = [columns_of(one.values()) for one in detectors]
    moving = Fusion(
        move=_middle(config.move), resize=_middle(config.resize), fade=_middle(config.fade), looks=config.looks
    )
    is_face, counts = zip(*(_labels_of(one, labels, moving) for one in detectors), strict=True)
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
    usual = view_detector(basis, *pooled) or PLAIN
    views = [view_detector(basis, *column) or usual for column in columns]
    truths = [
        truth_by_height({name: judged.truth for name, judged in one.items()}, config.heights_px) for one in detectors
    ]

    def quality(trial: Fusion) -> float:
        aps = []
        for one, view, truth in zip(detectors, views, truths, strict=True):
            detections = rescored(one, trial, view)
            for iou_threshold in config.ious:
                result = evaluate_wider(detections, truth, iou_threshold=iou_threshold)
                aps += [subset.ap_exact for subset in result.subsets.values() if subset.faces]
        return -mean_log_error(aps)

    best = search_weights(quality, basis, config)
    logits = [fused_logits(best, *column, view) for column, view in zip(columns, views, strict=True)]
    calibrated = calibrate(best, np.concatenate(logits)[kept], np.concatenate(is_face)[kept])
    return replace(calibrated, usual_view=usual)


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
    return sum(len(one.face_logits) for one in judged.values())


def columns_of(judged: Iterable[Judged]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Scores, face logits and longer sides of all proposals, float64 [N] each."""
    empty = (np.zeros(0), np.zeros(0), np.zeros(0))
    rows = [(one.detections.scores, one.face_logits, longer_side(one.detections.boxes)) for one in judged]
    scores, face_logits, sides_px = (np.concatenate(column) for column in zip(empty, *rows, strict=True))
    return scores, face_logits, sides_px


def _labels_of(judged: ByImage, labels: RoiConfig, fusion: Fusion) -> tuple[FloatArray, BoolArray]:
    """Labels of the boxes where this fusion moves them."""
    moved = [(move_boxes(fusion, one.detections.boxes, one.boxes), one.truth) for one in judged.values()]
    found = [label_for_fusion(boxes, truth, labels) for boxes, truth in moved]
    return np.concatenate([is_face for is_face, _ in found]), np.concatenate([counts for _, counts in found])


def _middle(values: Sequence[float]) -> float:
    """Where a search begins."""
    return sorted(values)[len(values) // 2]


def view_of(judged: ByImage, fusion: Fusion) -> DetectorView:
    """The view of one detector, found in these proposals; of too few, the fusion's usual one."""
    return view_detector(fusion, *columns_of(judged.values())) or fusion.usual_view


def rescored(judged: ByImage, fusion: Fusion, view: DetectorView) -> dict[str, Detections]:
    """The detections that fusion makes of one detector's proposals, scored by their fused logits.

    Args:
        judged: by image.
        fusion: what scores and face logits weigh, how boxes move and merge.
        view: of the detector.
    """
    logits = fused_logits(fusion, *columns_of(judged.values()), view)
    ends = np.cumsum([len(one.face_logits) for one in judged.values()])
    parts = np.split(logits, ends[:-1])
    return {name: _move_and_merge(one, fusion, part) for (name, one), part in zip(judged.items(), parts, strict=True)}


def _move_and_merge(judged: Judged, fusion: Fusion, logits: FloatArray) -> Detections:
    boxes = move_boxes(fusion, judged.detections.boxes, judged.boxes)
    stay, best = merge_same_face(fusion, boxes, judged.boxes, logits, judged.detections.scores)
    return Detections(boxes[stay], best)


def holdout_names(split: WiderSplit, weights: Weights, subset: Path | None, init: Path) -> list[str]:
    """Images that the checkpoint was not trained on.

    Raises:
        DataError: if ``subset`` names one that it was trained on, or none is left.
    """
    trained_on = set(weights.facts.get("trained_on", []))
    if subset is not None:
        chosen = select_names(load_subset(subset), split.faces, str(subset))
        seen = [name for name in chosen if name_hash(name) in trained_on]
        if seen:
            raise DataError(
                f"{subset}: {init} was trained on {len(seen)} of these images, such as '{seen[0]}'; fusion must be "
                "fitted on images it never saw, or it trusts the judge too much"
            )
        return chosen
    names = [name for name in split.faces if name_hash(name) not in trained_on]
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
    """
    proposals = match_proposals(open_detections(path), split)
    best = {name: proposals[name].sorted()[:max_rois] for name in names if name in proposals}
    requests = (Request(name, split.images / name, detections.boxes) for name, detections in best.items())
    judged = {}
    answers = judge_images(judge, requests, batch_size, looks=looks)
    for answer in tqdm(answers, total=len(best), desc="judging hold-out", unit="image", disable=None):
        if answer.error:
            log.warning("skipped: %s", answer.error)
            if answer.error not in unreadable:  # another detector's proposals may have met it
                unreadable.append(answer.error)
            continue
        judged[answer.name] = Judged(best[answer.name], answer.face_logits, answer.boxes, split.faces[answer.name])
    return judged


def fitted_gains(judged: Mapping[str, ByImage], fusion: Fusion, config: FusionConfig) -> dict[str, dict[str, Gain]]:
    """Exact AP of the proposals and of what becomes of them, on the very images that the fusion was fitted on.

    Args:
        judged: ``{detector: {image name: judged proposals}}``.
        fusion: as fitted.
        config: faces of which heights count, and the IoUs of a hit.

    Returns:
        ``{detector: {"0 px, IoU 0.5": (before, after)}}``; where no face is that high there is no entry.
    """
    gains: dict[str, dict[str, Gain]] = {}
    heights_px = sorted(set(config.heights_px))
    for detector, images in judged.items():
        before = {name: one.detections for name, one in images.items()}
        after = rescored(images, fusion, view_of(images, fusion))
        truth = truth_by_height({name: one.truth for name, one in images.items()}, heights_px)
        gains[detector] = {}
        for iou_threshold in config.ious:
            results = [evaluate_wider(side, truth, iou_threshold=iou_threshold) for side in (before, after)]
            for height_px, old, new in zip(heights_px, *(one.subsets.values() for one in results), strict=True):
                if old.faces:
                    gains[detector][f"{height_px:g} px, IoU {iou_threshold:g}"] = Gain(old.ap_exact, new.ap_exact)
    return gains


def _report(
    folder: RunFolder, fusion: Fusion, judged: Mapping[str, ByImage], images: int, config: FusionConfig
) -> None:
    counts = {path: count_proposals(of_detector) for path, of_detector in judged.items()}
    gains = fitted_gains(judged, fusion, config)
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
