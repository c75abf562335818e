from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinygan.detections import Detections, GroundTruth
from tinygan.errors import MissingDependency
from tinygan.evaluate.coco import evaluate_coco

BOXES = np.array([[0, 0, 10, 10], [50, 0, 100, 50], [200, 0, 320, 120]], dtype=float)  # small, medium, large


def faces(*invalid: int) -> GroundTruth:
    return GroundTruth(BOXES[: len(invalid)], np.array(invalid, bool))


def found(*rows: list[float]) -> Detections:
    values = np.array(rows, dtype=float).reshape(-1, 5)
    return Detections(values[:, :4], values[:, 4])


def perfect(score: float = 0.9) -> Detections:
    return Detections(BOXES, np.full(3, score))


@pytest.fixture(autouse=True)
def _library() -> None:
    pytest.importorskip("faster_coco_eval")


def test_perfect_detections() -> None:
    result = evaluate_coco({"a": perfect()}, {"a": faces(0, 0, 0)})
    assert (result.names, result.boxes, result.faces, result.max_detections) == (("a",), 3, 3, 1000)
    assert result.figures == pytest.approx(dict.fromkeys(result.figures, 1.0))
    assert list(result.figures)[:6] == ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]


def test_worked_by_hand() -> None:
    # One of two faces, at IoU 0.84: right at 0.50 to 0.80, wrong above. 51 of 101 recalls are reached.
    figures = evaluate_coco({"a": found([0, 0, 10, 8.4, 0.9])}, {"a": faces(0, 0)}).figures
    assert figures["AP50"] == figures["AP75"] == pytest.approx(51 / 101)
    assert figures["AP"] == pytest.approx(0.7 * 51 / 101)
    assert figures["AR"] == pytest.approx(0.7 * 0.5)
    assert figures["AP_small"] == pytest.approx(0.7) and figures["AP_medium"] == 0
    assert np.isnan([figures["AP_large"], figures["AR_large"]]).all()


def test_invalid_faces_are_ignored() -> None:
    figures = evaluate_coco({"a": perfect()}, {"a": faces(0, 1, 1)}).figures
    assert figures["AP"] == pytest.approx(1.0)
    strays = {"a": found([0, 0, 10, 10, 0.5], [500, 500, 520, 520, 0.9])}
    assert evaluate_coco(strays, {"a": faces(0, 1, 1)}).figures["AP"] == pytest.approx(0.5)


@pytest.mark.parametrize(("most", "ar"), [(1000, 1.0), (150, 0.6), (100, 0.4)])
def test_crowds_need_room(most: int, ar: float) -> None:
    corner = 20.0 * np.stack(np.unravel_index(np.arange(250), (16, 16)), axis=1)
    crowd = np.concatenate([corner, corner + 10], axis=1)
    detections = Detections(crowd, np.linspace(1, 0.5, 250))
    result = evaluate_coco({"a": detections}, {"a": GroundTruth(crowd, np.zeros(250, bool))}, max_detections=most)
    assert result.figures["AR"] == pytest.approx(ar)


def test_equals_pycocotools() -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    generator = np.random.default_rng(0)
    truth, detections = {}, {}
    for number in range(8):
        corner = generator.uniform(0, 400, (12, 2))
        boxes = np.concatenate([corner, corner + generator.uniform(8, 120, (12, 1))], axis=1)
        truth[f"i{number}"] = GroundTruth(boxes, generator.random(12) < 0.2)
        moved = np.concatenate([boxes + generator.normal(0, 3, boxes.shape), boxes + 40])
        detections[f"i{number}"] = Detections(moved, generator.random(24))

    def xywh(box: list[float]) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    annotations = [
        {"id": 1 + k, "image_id": i, "category_id": 1, "bbox": b, "area": b[2] * b[3], "iscrowd": int(invalid)}
        for k, (i, b, invalid) in enumerate(
            (i, xywh(box), invalid)
            for i, gt in enumerate(truth.values())
            for box, invalid in zip(gt.boxes.tolist(), gt.invalid, strict=True)
        )
    ]
    results = [
        {"image_id": i, "category_id": 1, "bbox": xywh(box), "score": score}
        for i, d in enumerate(detections.values())
        for box, score in zip(d.boxes.tolist(), d.scores.tolist(), strict=True)
    ]
    coco = COCO()
    coco.dataset = {"images": [{"id": i} for i in range(8)], "categories": [{"id": 1}], "annotations": annotations}
    coco.createIndex()
    judged = COCOeval(coco, coco.loadRes(results), "bbox")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()  # at 100 detections an image, more than there are
    figures = evaluate_coco(detections, truth).figures
    ours = [figures[key] for key in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR")]
    np.testing.assert_allclose(ours, judged.stats[[0, 1, 2, 3, 4, 5, 8]], atol=1e-9)


def test_order_and_absent_images() -> None:
    truth = {"a": faces(0, 0, 0), "b": faces(0), "c": GroundTruth.empty()}
    first = evaluate_coco({"a": perfect()[::-1], "c": found([0, 0, 5, 5, 0.95])}, truth)
    second = evaluate_coco({"c": found([0, 0, 5, 5, 0.95]), "a": perfect()}, truth, ["c", "b", "a"])
    assert first.figures == pytest.approx(second.figures, nan_ok=True)
    assert 0 < first.figures["AP"] < 1
    assert evaluate_coco({"a": perfect()}, truth, ["a"]).figures["AP"] == pytest.approx(1)


def test_scores_of_any_scale() -> None:
    truth = {"a": faces(0, 0, 0)}
    for score in (-7.5, 0.0, 1e6):
        assert evaluate_coco({"a": perfect(score)}, truth).figures["AP"] == pytest.approx(1)


def test_nothing_detected_and_nothing_to_find() -> None:
    missed = evaluate_coco({}, {"a": faces(0, 0, 0)}).figures
    assert set(missed.values()) == {0.0}
    for truth in ({"a": GroundTruth.empty()}, {"a": faces(1, 1)}):
        assert np.isnan(list(evaluate_coco({"a": perfect()}, truth).figures.values())).all()


def test_boxes_of_no_size() -> None:
    truth = {"a": GroundTruth(np.array([[0, 0, 10, 10], [5, 5, 5, 5]], dtype=float), np.zeros(2, bool))}
    detections = {"a": found([0, 0, 10, 10, 0.9], [30, 30, 30, 30, 0.8], [40, 40, 20, 20, 0.7])}
    result = evaluate_coco(detections, truth)
    assert result.faces == 1 and result.figures["AP"] == pytest.approx(1)


def test_bad_names() -> None:
    with pytest.raises(ValueError, match=r"unknown: \['b'\]"):
        evaluate_coco({}, {"a": faces(0)}, ["b"])


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingDependency, match=r"pip install 'tinygan\[coco\]'"):
        evaluate_coco({"a": perfect()}, {"a": faces(0)})


def test_the_library_is_loaded_when_it_is_needed() -> None:
    code = "import sys, tinygan.evaluate.coco; print('faster_coco_eval' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "False"
