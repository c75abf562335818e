"""Faces of 13 pixels make IoU countable by hand: an ellipse of radii 2 is drawn as a diamond."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygan.detections import Detections, FloatArray
from tinygan.evaluate.fddb import (
    FddbResult,
    RocCurve,
    assumed_size,
    boxes_as_ellipses,
    evaluate_fddb,
    roc_report,
    roc_table,
)
from tinygan.evaluate.shapes import PixelShape, draw_ellipse, draw_rectangle
from tinygan.formats.fddb import ELLIPSE, FddbTruth, RocPoints, bounding_boxes, load_fddb, load_folds, load_roc

# By hand: the first detection overlaps A by 10 of 15 pixels and B by 7 of 18, the second A by 9 of 19 and B by 1
# of 27. The best pairs are first-B and second-A (16.3/19 in sum), not first-A and second-B.
TWO_FACES = [[2.9, 2.1, 0, 10.2, 9.8], [2, 2, 0, 12, 10]]
FIRST, SECOND = [9.0, 9, 12, 11], [8.0, 8, 10, 12]


def truth_of(*images: npt.ArrayLike) -> FddbTruth:
    ellipses = {f"image{i}": np.asarray(rows, dtype=float).reshape(-1, 5) for i, rows in enumerate(images)}
    return FddbTruth(ellipses, {name: number % 2 + 1 for number, name in enumerate(ellipses)})


def found(*rows: list[float]) -> Detections:
    values = np.array(rows, dtype=float).reshape(-1, 5)
    return Detections(values[:, :4], values[:, 4])


def as_mask(shape: PixelShape, width: int, height: int) -> npt.NDArray[np.bool_]:
    """The pixels of a shape, drawn on a whole picture."""
    x, y = np.arange(width), np.arange(height)[:, None]
    left, right = np.full((height, 1), 1), np.full((height, 1), 0)
    inside = shape.clipped((width, height))
    left[inside.top : inside.bottom + 1, 0] = inside.left
    right[inside.top : inside.bottom + 1, 0] = inside.right
    mask: npt.NDArray[np.bool_] = (x >= left) & (x <= right) & (y >= 0)
    return mask


def points(curve: RocCurve) -> list[tuple[float, float, int]]:
    return list(
        zip(curve.thresholds.tolist(), curve.true_positives.tolist(), curve.false_positives.tolist(), strict=True)
    )


def test_hungarian_matching_is_not_greedy() -> None:
    result = evaluate_fddb({"image0": found([*FIRST, 0.9], [*SECOND, 0.8])}, truth_of(TWO_FACES))
    # Alone, the first takes A and is a hit; with the second, both pairs are below 0.5.
    assert points(result.merged.discrete) == [(0.9, 1, 0), (0.8, 0, 2)]
    assert points(result.merged.continuous) == [
        (0.9, pytest.approx(10 / 15), 0),
        (0.8, pytest.approx(7 / 18 + 9 / 19), 2),
    ]
    assert result.merged.discrete.at(5).tpr == 0.5 and result.merged.discrete.at(0).tpr == 0.5
    assert result.merged.continuous.at(5).tpr == pytest.approx((7 / 18 + 9 / 19) / 2)


def test_equal_scores_form_one_point() -> None:
    detections = {
        "image0": found([*FIRST, 0.5], [40, 40, 50, 50, 0.5]),
        "image1": found([*FIRST, 0.5], [40, 40, 50, 50, 0.25]),
    }
    curve = evaluate_fddb(detections, truth_of(TWO_FACES, [TWO_FACES[0]])).merged.discrete
    assert points(curve) == [(0.5, 2, 1), (0.25, 2, 2)] and curve.faces == 3


def test_iou_of_exactly_half_is_no_hit() -> None:
    # Of the diamond of radius 1 around (0, 10), 4 pixels lie in the image; a box of 2 x 4 or 2 x 3 holds them all.
    truth = truth_of([[1, 1, 0, 0, 10]])
    half = evaluate_fddb({"image0": found([0, 8, 1, 11, 1])}, truth).merged
    assert points(half.continuous) == [(1, 0.5, 1)] and points(half.discrete) == [(1, 0, 1)]
    more = evaluate_fddb({"image0": found([0, 9, 1, 11, 1])}, truth).merged
    assert points(more.continuous) == [(1, pytest.approx(4 / 6), 0)] and points(more.discrete) == [(1, 1, 0)]


def test_no_detections_and_no_faces() -> None:
    none = evaluate_fddb({}, truth_of(TWO_FACES, [])).merged
    assert (none.images, none.faces, none.detections, len(none.discrete.thresholds)) == (2, 2, 0, 0)
    assert none.discrete.at(500).tpr == 0 and not none.discrete.at(500).reached
    empty = evaluate_fddb({"image0": found([*FIRST, 0.9])}, truth_of([])).merged
    assert points(empty.discrete) == [(0.9, 0, 1)] and np.isnan(empty.discrete.at(1).tpr)
    nothing = evaluate_fddb({}, truth_of())
    assert nothing.merged.images == 0 and not nothing.folds


def test_reading_tells_whether_the_budget_is_reached() -> None:
    curve = RocCurve(np.array([0.9, 0.5, 0.1]), np.array([4.0, 6, 5]), np.array([0, 3, 7]), 10)
    assert [(curve.at(n).tpr, curve.at(n).reached) for n in (0, 2, 3, 7, 8)] == [
        (0.4, True), (0.4, True), (0.6, True), (0.6, True), (0.6, False),
    ]  # fmt: skip
    assert curve.points.false_positives.tolist() == [7, 3, 0] and curve.points.tpr.tolist() == [0.5, 0.6, 0.4]


def test_folds_and_merged() -> None:
    detections = {
        "image0": found([*FIRST, 0.9]),
        "image1": found([*FIRST, 0.8], [40, 40, 50, 50, 0.7]),
        "image2": found([40, 40, 50, 50, 0.6]),
    }
    result = evaluate_fddb(detections, truth_of([TWO_FACES[0]], [TWO_FACES[0]], [TWO_FACES[0]]))
    assert points(result.folds[1].discrete) == [(0.9, 1, 0), (0.6, 1, 1)] and result.folds[1].faces == 2
    assert points(result.folds[2].discrete) == [(0.8, 1, 0), (0.7, 1, 1)] and result.folds[2].images == 1
    assert points(result.merged.discrete) == [(0.9, 1, 0), (0.8, 2, 0), (0.7, 2, 1), (0.6, 2, 2)]
    only = evaluate_fddb(detections, truth_of([TWO_FACES[0]], [TWO_FACES[0]]), names=["image1"])
    assert only.merged.images == 1 and list(only.folds) == [2]


@pytest.mark.parametrize("names", [["image0", "image0"], ["elsewhere"]])
def test_names_must_be_distinct_images(names: list[str]) -> None:
    with pytest.raises(ValueError, match="distinct images of the ground truth"):
        evaluate_fddb({}, truth_of(TWO_FACES), names=names)


def test_ellipses_are_judged_as_ellipses() -> None:
    ellipses = np.array(TWO_FACES)
    same = Detections(bounding_boxes(ellipses), np.array([0.9, 0.8]), {ELLIPSE: ellipses})
    result = evaluate_fddb({"image0": same}, truth_of(TWO_FACES)).merged
    assert points(result.continuous) == [(0.9, 1, 0), (0.8, 2, 0)]


def test_boxes_become_heads() -> None:
    box = found([10, 20, 50, 70, 0.9])
    ellipse = boxes_as_ellipses(box).fields[ELLIPSE]
    # 40 x 50 becomes 40 x 60, with the chin at 70.
    assert ellipse == pytest.approx(np.array([[30, 20, np.pi / 2, 30, 40]]))
    assert boxes_as_ellipses(found([60, 60, 140, 180, 1])).fields[ELLIPSE] == pytest.approx(
        np.array([[72, 40, np.pi / 2, 100, 108]])
    )
    truth = truth_of(ellipse)
    assert evaluate_fddb({"image0": box}, truth, as_ellipses=True).merged.continuous.at(0).tpr == 1
    assert evaluate_fddb({"image0": box}, truth).merged.continuous.at(0).tpr < 0.9
    already = Detections(box.boxes, box.scores, {ELLIPSE: np.array([[1.0, 2, 3, 4, 5]])})
    assert boxes_as_ellipses(already) is already


def test_what_unknown_sizes_are_clipped_to() -> None:
    inside, beyond = truth_of([[20, 20, 0, 440, 100]]), truth_of([[20, 20, 0, 451, 100]])
    assert assumed_size(inside) == (450, 450) and assumed_size(beyond) is None
    assert assumed_size(truth_of()) == (450, 450)
    right = found([420, 80, 449, 120, 1])
    clipped, whole = (
        evaluate_fddb({"image0": right}, inside, image_sizes=sizes) for sizes in (None, {"image0": (500, 500)})
    )
    assert clipped.merged.continuous.at(0).tpr > whole.merged.continuous.at(1).tpr
    assert (clipped.unsized, whole.unsized) == (1, 0)


def test_table_and_report() -> None:
    detections = {"image0": found([*FIRST, 0.9], [40, 40, 50, 50, 0.5])}
    result = evaluate_fddb(detections, truth_of([TWO_FACES[0]], []))
    assert roc_table(result, (1, 2)) == [
        ["images of", "images", "faces", "boxes", "discrete @1 FP", "discrete @2 FP", "continuous @1 FP",
         "continuous @2 FP"],
        ["all folds", "2", "1", "2", "1.0000", "1.0000*", "0.6667", "0.6667*"],
        ["fold 1", "1", "1", "2", "1.0000", "1.0000*", "0.6667", "0.6667*"],
        ["fold 2", "1", "0", "0", "-", "-", "-", "-"],
    ]  # fmt: skip
    report = json.loads(json.dumps(roc_report(result, (1,))))
    assert report["merged"]["discrete"] == {"1": {"tpr": 1.0, "reached": True}}
    assert report["folds"]["1"]["false_positives"] == 1 and report["assumed_size"] == [450, 450]


ELLIPSES = st.tuples(st.floats(0, 9), st.floats(0, 9), st.floats(-2, 2), st.floats(0, 30), st.floats(0, 30))
BOXES = st.tuples(st.floats(-5, 30), st.floats(-5, 30), st.floats(0, 20), st.floats(0, 20), st.sampled_from([1, 2, 3]))


def boxes_of(rows: list[tuple[float, ...]]) -> Detections:
    values = np.array(rows, dtype=float).reshape(-1, 5)
    return Detections(np.concatenate([values[:, :2], values[:, :2] + values[:, 2:4]], axis=1), values[:, 4])


def by_brute_force(detections: Detections, ellipses: FloatArray, threshold: float) -> float:
    """The largest sum of IoU over all ways to pair, on whole masks."""
    faces = [as_mask(draw_ellipse(row), 64, 64) for row in ellipses.tolist()]
    kept = [as_mask(draw_rectangle(box), 64, 64) for box in detections.boxes[detections.scores >= threshold].tolist()]
    iou = np.array([[(a & b).sum() / max(1, (a | b).sum()) for b in faces] for a in kept]).reshape(
        len(kept), len(faces)
    )
    if len(kept) > len(faces):
        iou = iou.T
    ways = itertools.permutations(range(iou.shape[1]), iou.shape[0])
    return max((sum(iou[row, column] for row, column in enumerate(way)) for way in ways), default=0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(BOXES, max_size=4), st.lists(ELLIPSES, max_size=4))
def test_agrees_with_brute_force(boxes: list[tuple[float, ...]], rows: list[tuple[float, ...]]) -> None:
    detections, truth = boxes_of(boxes), truth_of(np.array(rows).reshape(-1, 5))
    result = evaluate_fddb({"image0": detections}, truth, image_sizes={"image0": (64, 64)}).merged
    for threshold, value, _ in points(result.continuous):
        assert value == pytest.approx(by_brute_force(detections, truth.ellipses["image0"], threshold))
    for _, pairs, false_positives in points(result.discrete):
        assert 0 <= pairs <= len(rows) and false_positives >= 0


@settings(max_examples=40, deadline=None)
@given(st.lists(BOXES, max_size=8), st.lists(ELLIPSES, max_size=4), st.randoms(), st.floats(0.1, 9))
def test_order_and_scale_of_scores_change_nothing(
    boxes: list[tuple[float, ...]], rows: list[tuple[float, ...]], random: Random, factor: float
) -> None:
    truth = truth_of(np.array(rows).reshape(-1, 5), TWO_FACES)
    detections = {"image0": boxes_of(boxes), "image1": boxes_of(boxes[::2])}
    shuffled = list(boxes)
    random.shuffle(shuffled)
    moved = boxes_of(shuffled)
    other = {
        "image1": Detections(detections["image1"].boxes, detections["image1"].scores * factor - 1),
        "image0": Detections(moved.boxes, moved.scores * factor - 1),
    }
    first, second = (
        evaluate_fddb(d, truth, names=n).merged for d, n in ((detections, truth.names), (other, truth.names[::-1]))
    )
    assert np.array_equal(first.discrete.true_positives, second.discrete.true_positives)
    assert np.array_equal(first.discrete.false_positives, second.discrete.false_positives)
    assert np.allclose(first.continuous.true_positives, second.continuous.true_positives)


def largest_difference(curve: RocCurve, official: RocPoints) -> float:
    """Of the true positive rates at any number of false positives."""
    budgets = range(int(official.false_positives.max()) + 1)
    theirs = [official.tpr[official.false_positives <= budget].max() for budget in budgets]
    return max(abs(curve.at(budget).tpr - tpr) for budget, tpr in zip(budgets, theirs, strict=True))


@pytest.fixture(scope="module")
def mtcnn(shared_data: Path) -> FddbResult:
    return evaluate_fddb(load_fddb(shared_data / "fddb" / "mtcnn"), load_folds(shared_data / "fddb" / "FDDB-folds"))


@pytest.mark.parametrize(("kind", "file"), [("discrete", "MTCNNDiscROC.txt"), ("continuous", "MTCNNContROC.txt")])
def test_the_official_curves_of_mtcnn(mtcnn: FddbResult, shared_data: Path, kind: str, file: str) -> None:
    official = load_roc(shared_data / "fddb" / "mtcnn" / file)
    curve: RocCurve = getattr(mtcnn.merged, kind)
    assert largest_difference(curve, official) <= 0.004
    # The official file has one more point: nothing kept. At the same threshold 2 of 5,171 faces differ at most.
    assert len(curve.thresholds) == len(official.tpr) - 1
    assert np.abs(curve.points.tpr - official.tpr[:-1]).max() <= 0.0008
    assert np.abs(curve.points.false_positives - official.false_positives[:-1]).max() <= 2


def test_mtcnn_by_fold(mtcnn: FddbResult) -> None:
    assert sum(scores.faces for scores in mtcnn.folds.values()) == 5171 and list(mtcnn.folds) == list(range(1, 11))
    ends = [scores.discrete.true_positives[-1] for scores in mtcnn.folds.values()]
    assert sum(ends) == mtcnn.merged.discrete.true_positives[-1]
    assert not mtcnn.merged.discrete.at(500).reached and mtcnn.assumed_size == (450, 450)
