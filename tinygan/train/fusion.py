"""Stage ``fusion``: fit how the detector's score and the face logit become one, on images nothing was trained on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
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
from tinygan.formats.files import open_detections, write_atomically
from tinygan.formats.names import select_names
from tinygan.formats.wider import WiderSplit, load_split, load_subset
from tinygan.fusion import Fusion, FusionConfig, fit_fusion, map_scores
from tinygan.judge import Judge, Request, judge_images
from tinygan.loop import FINISHED_FILE, RunFolder
from tinygan.runtime import Runtime
from tinygan.score_map import IDENTITY, fit_evidence, size_feature
from tinygan.train.prepare import TrainingInput, match_proposals
from tinygan.train.recipe import Recipe

log = logging.getLogger(__name__)
FUSION_FILE = "fusion.json"


class Labelled(NamedTuple):
    """Judged hold-out proposals of one detector, float64 [N] each."""

    scores: FloatArray
    face_logits: FloatArray
    sides_px: FloatArray
    is_face: FloatArray


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
    labelled: dict[str, Labelled] = {}
    for path in data.proposals:
        proposals = match_proposals(open_detections(path), split)
        held_out = {name: proposals[name] for name in names if name in proposals}
        rows = [*_judge_labelled(judge, held_out, split, recipe.rois, batch_size, max_rois, unreadable)]
        if rows:
            labelled[str(path)] = Labelled(*(np.concatenate(column) for column in zip(*rows, strict=True)))
    if not labelled:
        raise DataError(f"{data.proposals[0]}: holds no proposals of the {len(names)} hold-out images")
    fusion = fit_detectors(list(labelled.values()), recipe.fusion)
    facts = {**weights.facts, "fusion": fusion.to_facts()}
    if runtime.is_main:
        _report(folder, fusion, labelled, len(names))
        save_weights(folder.file(WEIGHTS_FILE), Weights("fused", to_tree(recipe), weights.tensors, facts))
        write_atomically(folder.file(FINISHED_FILE), json.dumps({"unreadable": unreadable}).encode())
    return unreadable


def fit_detectors(labelled: Sequence[Labelled], config: FusionConfig) -> Fusion:
    """Fit fusion on the proposals of one detector or more, each of which counts the same.

    With ``score_map: judge`` every detector's scores are mapped as those of an unknown one will be:
    by the judge, without its labels.

    Raises:
        DataError: if there are not both faces and non-faces.
    """
    together = Labelled(*(np.concatenate(column) for column in zip(*labelled, strict=True)))
    importance = np.concatenate([np.full(len(one.scores), 1 / len(one.scores)) for one in labelled])
    basis = Fusion()
    if config.score_map == "judge" and 0 < together.is_face.sum() < len(together.is_face):
        detector = np.repeat(np.arange(len(labelled)), [len(one.scores) for one in labelled])
        size = size_feature(together.sides_px)
        basis = Fusion(evidence=fit_evidence(together.face_logits, size, together.is_face, detector))
    usual = map_scores(basis, together.scores, together.face_logits, together.sides_px) or IDENTITY
    maps = [map_scores(basis, one.scores, one.face_logits, one.sides_px) or usual for one in labelled]
    log_odds = np.concatenate([found.log_odds(one.scores) for found, one in zip(maps, labelled, strict=True)])
    fusion = fit_fusion(
        log_odds, together.face_logits, together.sides_px, together.is_face, config, importance=importance
    )
    return replace(fusion, evidence=basis.evidence, usual_map=usual)


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


def _judge_labelled(
    judge: Judge,
    proposals: Mapping[str, Detections],
    split: WiderSplit,
    config: RoiConfig,
    batch_size: int,
    max_rois: int,
    unreadable: list[str],
) -> Iterator[Labelled]:
    best = {name: detections.sorted()[:max_rois] for name, detections in proposals.items()}
    requests = (Request(name, split.images / name, detections.boxes) for name, detections in best.items())
    answers = judge_images(judge, requests, batch_size)
    for answer in tqdm(answers, total=len(best), desc="judging hold-out", unit="image", disable=None):
        if answer.error:
            log.warning("skipped: %s", answer.error)
            unreadable.append(answer.error)
            continue
        detections = best[answer.name]
        is_face, counts = label_for_fusion(detections.boxes, split.faces[answer.name], config)
        columns: Sequence[FloatArray] = (
            detections.scores,
            answer.face_logits,
            longer_side(detections.boxes),
            is_face,
        )
        yield Labelled(*(column[counts] for column in columns))


def _report(folder: RunFolder, fusion: Fusion, labelled: Mapping[str, Labelled], images: int) -> None:
    counts = {path: {"proposals": len(one.scores), "faces": int(one.is_face.sum())} for path, one in labelled.items()}
    summary = {"images": images, "detectors": counts, "fusion": fusion.to_facts()}
    write_atomically(folder.file(FUSION_FILE), json.dumps(summary, indent=1).encode())
    log.info(
        "fusion: (%.3f %+.3f z) x log-odds of the score + (%.3f %+.3f z) x face logit %+.3f z %+.3f, "
        "z = log2(side / 16 px), fitted on %d proposals of %d hold-out images",
        fusion.detector, fusion.detector_by_size, fusion.judge, fusion.judge_by_size, fusion.size, fusion.bias,
        sum(len(one.scores) for one in labelled.values()), images,
    )  # fmt: skip
