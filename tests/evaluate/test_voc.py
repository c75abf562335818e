from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tinygan.detections import Detections, GroundTruth
from tinygan.errors import DataError
from tinygan.evaluate.voc import VocResult, compare_voc, evaluate_voc, mafa_truth, mark_masked, voc_truth

BOXES = np.array([[0, 0, 10, 10], [50, 0, 70, 20], [100, 0, 140, 40]], dtype=float)


def faces(*invalid: int, **fields: list[int]) -> GroundTruth:
    return GroundTruth(BOXES[: len(invalid)], np.array(invalid, bool), {k: np.array(v) for k, v in fields.items()})


def found(*rows: list[float]) -> Detections:
    values = np.array(rows, dtype=float).reshape(-1, 5)
    return Detections(values[:, :4], values[:, 4])


def official(detections: dict[str, Detections], truth: dict[str, GroundTruth]) -> npt.NDArray[np.float64]:
    """VOCevaldet.m, line by line, on VOC's pixels from 1 with inclusive ends: all-point AP and eleven-point AP."""
    rows = [(s, n, b) for n, d in detections.items() for s, b in zip(d.scores, d.boxes, strict=True)]
    rows.sort(key=lambda row: -row[0])
    taken = {name: np.zeros(len(gt), bool) for name, gt in truth.items()}
    tp, fp = np.zeros(len(rows)), np.zeros(len(rows))
    for d, (_, name, box) in enumerate(rows):
        bb = np.array([box[0] + 1, box[1] + 1, box[2], box[3]])
        best, ovmax = -1, -np.inf
        for j, gt in enumerate(truth[name].boxes):
            bbgt = np.array([gt[0] + 1, gt[1] + 1, gt[2], gt[3]])
            iw = min(bb[2], bbgt[2]) - max(bb[0], bbgt[0]) + 1
            ih = min(bb[3], bbgt[3]) - max(bb[1], bbgt[1]) + 1
            if iw > 0 and ih > 0:
                sizes = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (bb, bbgt)]
                overlap = iw * ih / (sum(sizes) - iw * ih)
                if overlap > ovmax:
                    ovmax, best = overlap, j
        if ovmax >= 0.5:
            if not truth[name].invalid[best]:
                tp[d], fp[d] = not taken[name][best], taken[name][best]
                taken[name][best] = True
        else:
            fp[d] = 1
    npos = sum((~gt.invalid).sum() for gt in truth.values())
    rec, cum = np.cumsum(tp) / npos, np.cumsum(tp) + np.cumsum(fp)
    prec = np.divide(np.cumsum(tp), cum, out=np.zeros(len(rows)), where=cum > 0)
    ap11 = np.mean([max(prec[rec >= t - 1e-12], default=0.0) for t in np.arange(11) / 10])
    mrec, mpre = np.concatenate([[0], rec, [1]]), np.concatenate([[0], prec, [0]])
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    at = np.flatnonzero(mrec[1:] != mrec[:-1]) + 1
    return np.array([((mrec[at] - mrec[at - 1]) * mpre[at]).sum(), ap11])


def crowd(seed: int, jitter: float = 2.0) -> tuple[dict[str, Detections], dict[str, GroundTruth]]:
    generator = np.random.default_rng(seed)
    truth, detections = {}, {}
    for number in range(12):
        corner = 40.0 * np.stack(np.unravel_index(generator.permutation(25)[:6], (5, 5)), axis=1)
        boxes = np.concatenate([corner, corner + generator.integers(10, 30, (6, 1))], axis=1)
        truth[f"i{number}"] = GroundTruth(boxes, generator.random(6) < 0.2)
        moved = np.concatenate([boxes, boxes[:3], boxes + np.array([13, 9, 13, 9])]) + generator.normal(
            0, jitter, (15, 4)
        )
        detections[f"i{number}"] = Detections(moved, generator.random(15))
    return detections, truth


def evaluated(detections: dict[str, Detections], truth: dict[str, GroundTruth]) -> VocResult:
    return evaluate_voc(detections, voc_truth(truth))


def test_worked_by_hand() -> None:
    # Hit, second detection, ignored face, stray, hit; one face is missed, and one image has none.
    truth = {"a": faces(0, 0, 1), "b": faces(0), "c": GroundTruth.empty()}
    detections = {
        "a": found([0, 0, 10, 10, 0.9], [0, 0, 10, 9, 0.8], [100, 0, 140, 40, 0.7], [50, 0, 70, 20, 0.5]),
        "c": found([0, 0, 10, 10, 0.6]),
    }
    subset = evaluated(detections, truth).subsets["all"]
    assert subset.faces == 3
    assert subset.outcomes.counted.tolist() == [True, True, False, True, True]
    assert subset.ap == pytest.approx(1 / 3 + 1 / 3 * 1 / 2)
    assert subset.ap_11 == pytest.approx((4 * 1 + 3 * 1 / 2) / 11)  # recall 0 to 0.3, then to 0.6


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_official_code(seed: int) -> None:
    detections, truth = crowd(seed)
    subset = evaluated(detections, truth).subsets["all"]
    assert 0.3 < subset.ap < 0.95
    np.testing.assert_allclose([subset.ap, subset.ap_11], official(detections, truth), atol=1e-12)


def test_half_is_enough() -> None:
    assert evaluated({"a": found([0, 0, 10, 5, 0.9])}, {"a": faces(0)}).subsets["all"].ap == 1
    assert evaluated({"a": found([0, 0, 10, 4.99, 0.9])}, {"a": faces(0)}).subsets["all"].ap == 0


def test_mafa_subsets() -> None:
    # Unmasked, masked, ignored; all three are found, after a stray.
    truth = mafa_truth({"a": faces(0, 0, 1, masked=[0, 1, 0]), "b": GroundTruth.empty()})
    rows = [[200.0, 0, 210, 10, 0.99], *([*box, 0.9 - k / 10] for k, box in enumerate(BOXES.tolist()))]
    subsets = evaluate_voc({"a": found(*rows)}, truth).subsets
    assert {name: subset.faces for name, subset in subsets.items()} == {"whole": 3, "masked": 1, "unignored": 2}
    assert subsets["whole"].ap == pytest.approx(3 / 4)
    assert subsets["unignored"].ap == pytest.approx(2 / 3)
    assert subsets["masked"].ap == pytest.approx(1 / 2)  # the unmasked face is neither right nor wrong
    empty = evaluate_voc({"b": found([0, 0, 1, 1, 0.9])}, truth).subsets["masked"]
    assert empty.outcomes.counted.tolist() == [True]


def test_mafa_needs_its_column() -> None:
    with pytest.raises(DataError, match=r"'a': no column 'masked'.*\(columns: blur\)"):
        mafa_truth({"a": faces(0, blur=[1])})


def test_two_classes_become_one_ground_truth() -> None:
    joined = mark_masked({"a": faces(0, 1), "b": GroundTruth.empty()}, {"a": faces(1), "c": faces(0)})
    assert list(joined) == ["a", "b", "c"]
    assert joined["a"].fields["masked"].tolist() == [False, False, True]
    assert joined["a"].invalid.tolist() == [False, True, True]
    assert len(joined["b"]) == 0 and joined["c"].fields["masked"].tolist() == [True]
    assert {n: s.faces for n, s in evaluate_voc({}, mafa_truth(joined)).subsets.items()} == {
        "whole": 4,
        "masked": 1,
        "unignored": 2,
    }


def test_no_faces_and_no_detections() -> None:
    nothing = evaluated({}, {"a": faces(1)}).subsets["all"]
    assert np.isnan([nothing.ap, nothing.ap_11]).all()
    missed = evaluated({}, {"a": faces(0)}).subsets["all"]
    assert (missed.ap, missed.ap_11) == (0, 0)


def test_comparison() -> None:
    detections, truth = crowd(0)
    before = evaluated(detections, truth)
    same = compare_voc(before, before)["all"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    worse = compare_voc(before, evaluated(crowd(0, jitter=6.0)[0], truth))["all"]
    assert worse.low <= worse.value <= worse.high < 0
    with pytest.raises(ValueError, match="the same images"):
        compare_voc(before, evaluated({}, {"a": faces(0)}))
