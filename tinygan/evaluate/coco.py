"""The COCO protocol, computed by faster-coco-eval (extra ``coco``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygan.boxes import xyxy_to_xywh
from tinygan.detections import Detections, FloatArray, GroundTruth
from tinygan.errors import MissingDependency

MAX_DETECTIONS = 1000  # per image; COCO's own 100 cuts off the faces of a crowd
AREAS_PX = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
_CATEGORY = 1


@dataclass(frozen=True)
class CocoResult:
    """An evaluation.

    Attributes:
        names: the images evaluated.
        boxes: number of detections in them.
        faces: number of faces to find.
        max_detections: number of detections per image, the best ones, that were judged.
        figures: ``AP`` (mean over IoU 0.50:0.05:0.95), ``AP50``, ``AP75``, ``AP_small`` (below 32 x 32 px),
            ``AP_medium`` (to 96 x 96 px), ``AP_large``, and ``AR`` likewise; in [0, 1], NaN without such faces.
    """

    names: tuple[str, ...]
    boxes: int
    faces: int
    max_detections: int
    figures: Mapping[str, float]


def evaluate_coco(
    detections: Mapping[str, Detections],
    truth: Mapping[str, GroundTruth],
    names: Sequence[str] | None = None,
    max_detections: int = MAX_DETECTIONS,
) -> CocoResult:
    """Judge detections by the COCO protocol: 101-point AP and AR over ten IoU thresholds.

    Args:
        detections: ``{image name: detections}``, scores on any scale; an image may be absent or empty.
        truth: ``{image name: faces}``; invalid faces and those of no area are ``iscrowd``, which COCO ignores.
        names: images to evaluate; all of ``truth`` by default.
        max_detections: number of detections per image, the best ones, that are judged.

    Returns:
        The figures COCO publishes.

    Raises:
        MissingDependency: without faster-coco-eval.
        ValueError: if ``names`` holds an image twice or one that ``truth`` lacks.
    """
    chosen = tuple(truth if names is None else names)
    unknown = [name for name in chosen if name not in truth]
    if unknown or len(set(chosen)) != len(chosen):
        raise ValueError(f"names must be distinct images of the ground truth; unknown: {unknown[:3]}")
    precision, recall = _accumulate(detections, [truth[name] for name in chosen], chosen, max_detections)
    return CocoResult(
        names=chosen,
        boxes=sum(len(detections[name]) for name in chosen if name in detections),
        faces=sum(int(truth[name].usable.sum()) for name in chosen),
        max_detections=max_detections,
        figures=_figures(precision, recall),
    )


def _accumulate(
    detections: Mapping[str, Detections], faces: Sequence[GroundTruth], names: Sequence[str], max_detections: int
) -> tuple[FloatArray, FloatArray]:
    """Precision [IoU thresholds, recalls, areas] and recall [IoU thresholds, areas]; -1 where there is no face."""
    rows = [_result_rows(number, detections[name]) for number, name in enumerate(names) if name in detections]
    results = np.concatenate([np.zeros((0, 7)), *rows])
    annotations = _annotations(faces)
    if not annotations:
        return np.full((10, 101, len(AREAS_PX)), -1.0), np.full((10, len(AREAS_PX)), -1.0)
    if not len(results):  # which the library does not take: one box far outside every image finds nothing
        results = np.array([[0.0, -1e6, -1e6, 1.0, 1.0, 0.0, _CATEGORY]])
    coco, evaluator_of = _library()
    annotated = coco(
        {
            "info": {},
            "images": [{"id": number} for number in range(len(names))],
            "categories": [{"id": _CATEGORY, "name": "face"}],
            "annotations": annotations,
        }
    )
    evaluator = evaluator_of(annotated, annotated.loadRes(results), "bbox", print_function=_silent)
    evaluator.params.maxDets = [max_detections]
    evaluator.params.areaRng = [list(area) for area in AREAS_PX.values()]
    evaluator.params.areaRngLbl = list(AREAS_PX)
    evaluator.evaluate()
    evaluator.accumulate()
    # [T, R, K, A, M] and [T, K, A, M], of one category and one maximum.
    return np.asarray(evaluator.eval["precision"])[:, :, 0, :, 0], np.asarray(evaluator.eval["recall"])[:, 0, :, 0]


def _figures(precision: FloatArray, recall: FloatArray) -> dict[str, float]:
    areas = list(AREAS_PX)
    figures = {
        "AP": _mean(precision[:, :, 0]),
        "AP50": _mean(precision[0, :, 0]),
        "AP75": _mean(precision[5, :, 0]),
        **{f"AP_{area}": _mean(precision[:, :, areas.index(area)]) for area in areas[1:]},
        "AR": _mean(recall[:, 0]),
        **{f"AR_{area}": _mean(recall[:, areas.index(area)]) for area in areas[1:]},
    }
    return figures


def _mean(values: FloatArray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


def _annotations(faces: Sequence[GroundTruth]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for number, truth in enumerate(faces):
        for box, usable in zip(_xywh(truth.boxes).tolist(), truth.usable.tolist(), strict=True):
            common = {"id": len(rows) + 1, "image_id": number, "category_id": _CATEGORY}
            rows.append({**common, "bbox": box, "area": box[2] * box[3], "iscrowd": int(not usable)})
    return rows


def _result_rows(number: int, found: Detections) -> FloatArray:
    """``image, x, y, w, h, score, category`` [N, 7]."""
    image, category = np.full((len(found), 1), float(number)), np.full((len(found), 1), float(_CATEGORY))
    return np.concatenate([image, _xywh(found.boxes), found.scores[:, None], category], axis=1)


def _xywh(boxes: FloatArray) -> FloatArray:
    """``x, y, width, height`` [N, 4]; a negative side becomes 0."""
    xywh = xyxy_to_xywh(boxes)
    xywh[:, 2:] = np.clip(xywh[:, 2:], 0.0, None)
    return xywh


def _library() -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingDependency("the COCO protocol needs faster-coco-eval: pip install 'tinygan[coco]'") from error
    return COCO, COCOeval_faster


def _silent(*_: object) -> None:
    """The library reports every step; nothing here prints but the command line."""
