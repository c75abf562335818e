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
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tinygan.checkpoint import WEIGHTS_FILE, Checkpoint, load_checkpoint, save_checkpoint
from tinygan.config import build_config, to_tree
from tinygan.data.cutting import CropConfig
from tinygan.errors import CheckpointError, DataError
from tinygan.evaluate.truth import truth_by_height
from tinygan.evaluate.wider import evaluate_wider
from tinygan.files import write_atomically
from tinygan.formats.names import select_names
from tinygan.formats.wider import WiderSplit, load_split, load_subset
from tinygan.models.discriminator import DiscriminatorConfig
from tinygan.runtime import Runtime
from tinygan.second_stage.fusion import (
    Fusion,
    FusionConfig,
)
from tinygan.second_stage.judge import Judge
from tinygan.training.fusion_fit import Truths, calibration_of, fit_fusion, rescored
from tinygan.training.holdout import ByImage, judge_proposals, load_judged, save_judged
from tinygan.training.prepare import TrainingInput
from tinygan.training.recipe import Recipe
from tinygan.training.run import FINISHED_FILE, FUSION_FILE, RunFolder

log = logging.getLogger(__name__)


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
        second: run folder of stage ``judge`` of another judge, which takes the second look, or a checkpoint that has
            one for that.

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
    """A checkpoint whose second look is taken by another one's judge; if that has two, by the one that looks second.

    Raises:
        CheckpointError: if the two see different pictures, or one of them does not find boxes.
    """
    forms: dict[str, type[CropConfig | DiscriminatorConfig]] = {
        "crops": CropConfig,
        "discriminator": DiscriminatorConfig,
    }
    part = "discriminator" if other.recipe.get("second") is None else "second"
    for section, form in forms.items():
        theirs = part if section == "discriminator" else section
        first = vars(build_config(form, weights.recipe[section]))
        second = vars(build_config(form, other.recipe[theirs]))
        for key in first if section == "crops" else ("surroundings", "box"):
            if first[key] != second[key]:
                raise CheckpointError(
                    f"{path}: as the judge that looks second it must have {section}.{key} = {first[key]} "
                    f"like the first one, got {second[key]}"
                )
    if not weights.recipe["discriminator"]["box"]:
        raise CheckpointError(f"{path}: there is no second look, as the first judge finds no boxes; train stage judge")
    tensors = {name: value for name, value in weights.tensors.items() if not name.startswith("second.")}
    tensors |= {f"second.{name}": value for name, value in other.part(part).items()}
    recipe = {**weights.recipe, "second": other.recipe[part]}
    return replace(weights, recipe=recipe, tensors=tensors, trained_on=weights.trained_on | other.trained_on)


def count_proposals(judged: ByImage) -> int:
    """How many proposals of one detector were judged."""
    return sum(len(one.best) for one in judged.values())


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
