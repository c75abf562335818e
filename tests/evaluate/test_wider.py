from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygan.detections import Detections
from tinygan.evaluate.truth import EvaluationTruth, load_evaluation_truth
from tinygan.evaluate.wider import WiderResult, compare_wider, evaluate_wider
from tinygan.formats.names import match_names
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import load_subset

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs WIDER FACE's evaluation files in ../shared/data")

FACES = np.array([[0, 0, 10, 10], [50, 50, 70, 70], [100, 0, 130, 30]], dtype=float)
ELSEWHERE = [300.0, 300, 320, 320]


def truth_of(*images: tuple[npt.ArrayLike, list[bool]]) -> EvaluationTruth:
    names = [f"image{i}" for i in range(len(images))]
    faces = {n: np.asarray(b, dtype=float).reshape(-1, 4) for n, (b, _) in zip(names, images, strict=True)}
    members = {n: np.array(m, dtype=bool) for n, (_, m) in zip(names, images, strict=True)}
    return EvaluationTruth(faces, {"all": members})


def found(*rows: list[float]) -> Detections:
    values = np.array(rows, dtype=float).reshape(-1, 5)
    return Detections(values[:, :4], values[:, 4])


def ap(detections: dict[str, Detections], truth: EvaluationTruth) -> float:
    return evaluate_wider(detections, truth).subsets["all"].ap_exact


def crowd(seed: int, images: int = 30) -> tuple[dict[str, Detections], EvaluationTruth]:
    """Faces on a grid; detections are jittered copies and strays with overlapping scores."""
    generator = np.random.default_rng(seed)
    shown, detections = [], {}
    for number in range(images):
        corner = 40.0 * np.stack(np.unravel_index(generator.permutation(36)[:8], (6, 6)), axis=1)
        faces = np.concatenate([corner, corner + generator.integers(12, 30, (8, 1))], axis=1)
        strays = faces + generator.normal(0, 12, (8, 4))
        boxes = np.concatenate(
            [faces + generator.normal(0, 1, (8, 4)), np.sort(strays.reshape(8, 2, 2), 1).reshape(8, 4)]
        )
        scores = np.concatenate([generator.beta(4, 2, 8), generator.beta(2, 4, 8)]).round(2)
        shown.append((faces, (generator.random(8) < 0.7).tolist()))
        detections[f"image{number}"] = Detections(boxes, scores)
    return detections, truth_of(*shown)


def test_worked_by_hand() -> None:
    # By score: hit, double, ignored face, stray, hit. Two of three faces count, and one more in image1.
    truth = truth_of((FACES, [True, True, False]), ([[0, 0, 20, 20]], [True]))
    detections = {
        "image0": found(
            [0, 0, 10, 10, 0.9], [1, 0, 11, 10, 0.8], [100, 0, 130, 30, 0.7], [*ELSEWHERE, 0.6], [50, 50, 70, 70, 0.5]
        )
    }
    result = evaluate_wider(detections, truth)
    subset = result.subsets["all"]
    assert (result.boxes, subset.faces) == (5, 3)
    assert subset.outcomes.hits.tolist() == [True, False, False, False, True]
    assert subset.outcomes.counted.tolist() == [True, True, False, True, True]
    np.testing.assert_allclose(subset.exact.precision, [1, 1 / 2, 1 / 2, 1 / 3, 1 / 2])
    np.testing.assert_allclose(subset.exact.recall, [1 / 3, 1 / 3, 1 / 3, 1 / 3, 2 / 3])
    assert subset.ap_exact == pytest.approx(1 / 3 + 1 / 3 / 2)
    assert subset.ap_binned == pytest.approx(subset.ap_exact)
    assert len(subset.binned.recall) == 1000


def test_ignored_faces_are_neither_hits_nor_false_positives() -> None:
    truth = truth_of((FACES, [False, True, False]))
    assert ap({"image0": found([0, 0, 10, 10, 0.9], [0, 0, 10, 10, 0.8], [50, 50, 70, 70, 0.1])}, truth) == 1


def test_a_second_detection_is_a_false_positive() -> None:
    truth = truth_of((FACES[:2], [True, True]))
    boxes = ([0.0, 0, 10, 10, 0.9], [0.0, 0, 10, 10, 0.8], [50.0, 50, 70, 70, 0.7])
    assert ap({"image0": found(*boxes)}, truth) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_a_detection_takes_its_arg_max_face_only() -> None:
    # Both detections overlap the first face most; the second face, by IoU > 0.5 too, is not taken instead.
    truth = truth_of(([[0, 0, 20, 20], [4, 0, 24, 20]], [True, True]))
    result = evaluate_wider({"image0": found([0, 0, 20, 20, 0.9], [1, 0, 21, 20, 0.8])}, truth)
    assert result.subsets["all"].outcomes.hits.tolist() == [True, False]


def test_iou_counts_one_more_pixel() -> None:
    # 10 x 10 against 10 x 4: IoU 0.4, but 11 x 11 against 11 x 5 is 0.4545; 10 x 5 gives 0.5454.
    truth = truth_of(([[0, 0, 10, 10]], [True]))
    assert ap({"image0": found([0, 0, 10, 4, 0.9])}, truth) == 0
    assert ap({"image0": found([0, 0, 10, 4.5, 0.9])}, truth) == 1  # exactly 0.5


def test_boxes_of_no_size_are_allowed() -> None:
    truth = truth_of(([[5, 5, 5, 5], [9, 9, 7, 30]], [True, False]))
    assert ap({"image0": found([5, 5, 5, 5, 0.9], [80, 80, 80, 90, 0.1], [80, 80, 70, 70, 0.1])}, truth) == 1


def test_images_without_boxes_are_skipped_but_normalise() -> None:
    truth = truth_of((FACES[:1], [True]), ([], []))
    result = evaluate_wider({"image0": found([0, 0, 10, 10, 0.5]), "image1": found([*ELSEWHERE, 1.0])}, truth)
    subset = result.subsets["all"]
    assert subset.ap_exact == 1
    assert subset.outcomes.counted.sum() == 1
    # image1's 1.0 is the largest score and 0.5 the smallest: 0.5 maps to 0, found at the last threshold alone.
    assert np.flatnonzero(subset.binned.recall).tolist() == [999]


def test_images_without_a_subset_face_are_not_skipped() -> None:
    truth = truth_of((FACES[:1], [True]), (FACES, [False] * 3))
    detections = {"image0": found([0, 0, 10, 10, 0.5]), "image1": found([*ELSEWHERE, 0.9])}
    assert ap(detections, truth) == 0.5


def test_faces_count_in_images_without_a_prediction() -> None:
    truth = truth_of((FACES[:1], [True]), (FACES, [True] * 3), (FACES[:1], [True]))
    assert ap({"image0": found([0, 0, 10, 10, 0.5]), "image2": Detections.empty()}, truth) == 0.2


def test_no_detection_and_no_face() -> None:
    assert ap({}, truth_of((FACES, [True] * 3))) == 0
    assert np.isnan(ap({}, truth_of((FACES, [False] * 3))))
    nothing = evaluate_wider({}, truth_of((FACES, [True] * 3)), names=[])
    assert nothing.names == () and np.isnan(nothing.subsets["all"].ap_exact)


@pytest.mark.parametrize("score", [0.0, 0.7, -3.0])
def test_constant_scores(score: float) -> None:
    truth = truth_of((FACES[:2], [True, True]))
    result = evaluate_wider({"image0": found([0, 0, 10, 10, score], [*ELSEWHERE, score])}, truth).subsets["all"]
    assert result.ap_exact == result.ap_binned == 0.25


def test_names_restrict_images_and_normalisation() -> None:
    truth = truth_of((FACES[:1], [True]), (FACES, [True] * 3))
    detections = {
        "image0": found([0, 0, 10, 10, 0.5], [*ELSEWHERE, 0.1]),
        "image1": found([*ELSEWHERE, 9.0]),
    }
    result = evaluate_wider(detections, truth, ["image0"])
    assert (result.boxes, result.subsets["all"].faces, result.subsets["all"].ap_exact) == (2, 1, 1.0)
    assert result.subsets["all"].binned.recall[0] == 1  # 0.5 is now the largest score


def test_perfect_detections() -> None:
    _, truth = crowd(0)
    perfect = {
        n: Detections(b[m], np.full(m.sum(), 0.9))
        for (n, b), m in zip(truth.faces.items(), truth.subsets["all"].values(), strict=True)
    }
    subset = evaluate_wider(perfect, truth).subsets["all"]
    assert subset.ap_exact == subset.ap_binned == 1


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 3), st.randoms(use_true_random=False))
def test_order_within_an_image_does_not_matter(seed: int, random: object) -> None:
    detections, truth = crowd(seed, images=6)  # scores rounded to 0.01: ties within and across images
    generator = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    shuffled = {n: d[generator.permutation(len(d))] for n, d in detections.items()}
    ordered = {n: d.sorted() for n, d in detections.items()}
    a, b, c = (evaluate_wider(d, truth).subsets["all"] for d in (detections, shuffled, ordered))
    assert a.ap_exact == b.ap_exact == c.ap_exact
    assert a.ap_binned == b.ap_binned == c.ap_binned


@settings(deadline=None, max_examples=25)
@given(st.sampled_from([0.25, 0.5, 2.0, 8.0, 1024.0]), st.integers(-8, 8))
def test_affine_score_maps_leave_ap_unchanged(scale: float, shift: int) -> None:
    detections, truth = crowd(1, images=6)
    # Sixteenths and powers of two: the map is exact in floating point, so that no tie appears or vanishes.
    coarse = {n: Detections(d.boxes, np.round(d.scores * 16) / 16) for n, d in detections.items()}
    mapped = {n: Detections(d.boxes, d.scores * scale + shift) for n, d in coarse.items()}
    first, second = (evaluate_wider(d, truth).subsets["all"] for d in (coarse, mapped))
    assert first.ap_exact == second.ap_exact
    assert first.ap_binned == second.ap_binned


def official(detections: dict[str, Detections], truth: EvaluationTruth, bins: int = 1000) -> npt.NDArray[np.float64]:
    """The official MATLAB code, line by line: precision and recall [bins, 2]."""
    pool = np.concatenate([d.scores for d in detections.values()])
    sums, count_face = np.zeros((bins, 2)), 0
    for name, gt in truth.faces.items():
        keep = truth.subsets["all"][name]
        count_face += keep.sum()
        ordered = detections[name].sorted()
        scores = (ordered.scores - pool.min()) / (pool.max() - pool.min())
        recall_list, proposal, pred_recall = np.zeros(len(gt)), np.ones(len(scores)), np.zeros(len(scores))
        for h, box in enumerate(ordered.boxes):
            w = np.minimum(gt[:, 2], box[2]) - np.maximum(gt[:, 0], box[0]) + 1
            t = np.minimum(gt[:, 3], box[3]) - np.maximum(gt[:, 1], box[1]) + 1
            inter = np.where((w > 0) & (t > 0), w * t, 0)
            sizes = (gt[:, 2] - gt[:, 0] + 1) * (gt[:, 3] - gt[:, 1] + 1)
            overlap = inter / (sizes + (box[2] - box[0] + 1) * (box[3] - box[1] + 1) - inter)
            best = overlap.argmax()
            if overlap[best] >= 0.5:
                if not keep[best]:
                    recall_list[best], proposal[h] = -1, -1
                elif recall_list[best] == 0:
                    recall_list[best] = 1
            pred_recall[h] = (recall_list == 1).sum()
        for t in range(1, bins + 1):
            above = np.flatnonzero(scores >= 1 - t / bins)
            if len(above):
                sums[t - 1] += (proposal[: above[-1] + 1] == 1).sum(), pred_recall[above[-1]]
    precision = np.divide(sums[:, 1], sums[:, 0], out=np.zeros(bins), where=sums[:, 0] > 0)
    return np.stack([precision, sums[:, 1] / count_face], axis=1)


@pytest.mark.parametrize("seed", [5, 6])
def test_equals_the_official_code_point_by_point(seed: int) -> None:
    detections, truth = crowd(seed, images=8)
    curve = evaluate_wider(detections, truth).subsets["all"].binned
    np.testing.assert_allclose(np.stack([curve.precision, curve.recall], axis=1), official(detections, truth))


def test_crowds_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    detections, truth = crowd(2)
    whole = evaluate_wider(detections, truth).subsets["all"]
    monkeypatch.setattr("tinygan.evaluate.claims._MAX_PAIRS", 20)
    parts = evaluate_wider(detections, truth).subsets["all"]
    np.testing.assert_array_equal(whole.outcomes.hits, parts.outcomes.hits)
    np.testing.assert_array_equal(whole.outcomes.counted, parts.outcomes.counted)


def test_a_detector_against_itself_does_not_differ() -> None:
    detections, truth = crowd(3)
    result = evaluate_wider(detections, truth)
    difference = compare_wider(result, evaluate_wider(detections, truth))["all"]
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    # A positive affine map changes normalisation, not exact AP.
    mapped = {n: Detections(d.boxes, d.scores * 4) for n, d in detections.items()}
    difference = compare_wider(result, evaluate_wider(mapped, truth))["all"]
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_a_jittered_copy_is_worse() -> None:
    detections, truth = crowd(4)
    generator = np.random.default_rng(0)
    jittered = {n: Detections(d.boxes + generator.normal(0, 3, d.boxes.shape), d.scores) for n, d in detections.items()}
    before, after = evaluate_wider(detections, truth), evaluate_wider(jittered, truth)
    difference = compare_wider(before, after)["all"]
    assert difference.low <= difference.value <= difference.high < 0
    assert difference == compare_wider(before, after)["all"]  # seeded
    assert difference != compare_wider(before, after, seed=1)["all"]
    narrow = compare_wider(before, after, level=0.5)["all"]
    assert difference.low < narrow.low < narrow.high < difference.high


def test_a_difference_without_faces_is_nan() -> None:
    result = evaluate_wider({}, truth_of((FACES, [False] * 3)))
    difference = compare_wider(result, result, resamples=10)["all"]
    assert np.isnan([difference.value, difference.low, difference.high]).all()


def test_bad_input() -> None:
    truth = truth_of((FACES, [True] * 3), (FACES, [True] * 3))
    with pytest.raises(ValueError, match=r"unknown: \['nobody'\]"):
        evaluate_wider({}, truth, ["nobody"])
    with pytest.raises(ValueError, match="distinct images"):
        evaluate_wider({}, truth, ["image0", "image0"])
    with pytest.raises(ValueError, match="the same images"):
        compare_wider(evaluate_wider({}, truth), evaluate_wider({}, truth, ["image0"]))


def evaluate_files(detections: Path, ground_truth: Path, subset: Path | None = None) -> WiderResult:
    truth = load_evaluation_truth(ground_truth)
    names = truth.names if subset is None else load_subset(subset)
    files = open_detections(detections)
    matched = match_names(files, truth.names)
    return evaluate_wider({name: files[matched[name]] for name in names if name in matched}, truth, names)


@needs_data
def test_published_gate() -> None:
    folder = DATA / "widerface" / "eval"
    result = evaluate_files(folder / "retinaface_mobilenet025_val_detections.tar.gz", folder)
    assert (len(result.names), result.boxes) == (3226, 297333)
    subsets = result.subsets.values()
    assert [s.ap_binned for s in subsets] == pytest.approx([0.9070, 0.8816, 0.7383], abs=0.0005)
    assert [s.ap_exact for s in subsets] == pytest.approx([0.9074, 0.8819, 0.7387], abs=0.0005)


@needs_data
def test_proposals_on_wider_mini_val() -> None:
    widerface = DATA / "widerface"
    result = evaluate_files(
        DATA / "proposals" / "retinaface_mobilenet025.tar.gz",
        widerface / "eval",
        widerface / "wider_face_split" / "wider_face_val_bbx_gt.txt",
    )
    assert [s.faces for s in result.subsets.values()] == [649, 1141, 2103]
    assert [s.ap_exact for s in result.subsets.values()] == pytest.approx([0.911, 0.866, 0.729], abs=0.0005)
