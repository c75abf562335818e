from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tinygan.detections import Detections, GroundTruth
from tinygan.evaluate.attributes import group_faces
from tinygan.evaluate.breakdown import Breakdown, break_down, compare_breakdowns
from tinygan.evaluate.truth import EvaluationTruth, load_evaluation_truth, truth_of_faces
from tinygan.evaluate.wider import compare_wider, evaluate_wider
from tinygan.formats.names import match_names
from tinygan.formats.registry import open_detections
from tinygan.formats.truths import load_faces
from tinygan.formats.wider import load_subset

SIZES = (6.0, 12.0, 24.0, 48.0, 96.0)


def annotated(seed: int = 0, images: int = 20) -> dict[str, GroundTruth]:
    """Five faces an image, one of each range of heights, with attributes; some are invalid."""
    generator = np.random.default_rng(seed)
    faces = {}
    for number in range(images):
        corner = np.stack([np.arange(5) * 120.0, generator.uniform(0, 50, 5)], axis=1)
        boxes = np.concatenate([corner, corner + np.array(SIZES)[:, None]], axis=1)
        codes = {
            "blur": generator.integers(0, 3, 5),
            "occlusion": generator.integers(0, 3, 5),
            "pose": generator.integers(0, 2, 5),
            "illumination": generator.integers(0, 2, 5),
        }
        faces[f"image{number}"] = GroundTruth(boxes, generator.random(5) < 0.1, codes)
    return faces


def detected(faces: dict[str, GroundTruth], jitter: float, seed: int = 1) -> dict[str, Detections]:
    """Faces moved by a share of their size, and as many strays."""
    generator = np.random.default_rng(seed)
    detections = {}
    for name, truth in faces.items():
        moved = truth.boxes + generator.normal(0, jitter, truth.boxes.shape) * np.array(SIZES)[:, None]
        strays = truth.boxes + np.array([0, 300, 0, 300])
        scores = np.concatenate([generator.beta(4, 2, 5), generator.beta(2, 4, 5)])
        detections[name] = Detections(np.concatenate([moved, strays]), scores)
    return detections


def broken_down(faces: dict[str, GroundTruth], detections: dict[str, Detections]) -> Breakdown:
    truth = truth_of_faces(faces)
    return break_down(evaluate_wider(detections, truth), truth, group_faces(truth.faces, faces))


def test_worked_by_hand() -> None:
    # Heights 10, 20 and 40; found with IoU 1, 0.65 (not at 0.7) and not at all; a stray between the two hits.
    boxes = np.array([[0.0, 0, 10, 10], [50, 0, 70, 20], [100, 0, 140, 40]])
    codes = {"blur": [0, 2, 2], "occlusion": [0, 0, 1], "pose": [0, 0, 1], "illumination": [0, 0, 0]}
    faces = {"image": GroundTruth(boxes, np.zeros(3, bool), {k: np.array(v) for k, v in codes.items()})}
    high = 21 * 0.65 - 1
    rows = np.array([[0, 0, 10, 10, 0.9], [300, 0, 310, 10, 0.8], [50, 0, 70, high, 0.7]])
    parts = broken_down(faces, {"image": Detections(rows[:, :4], rows[:, 4])})

    at = parts.by_iou["all"]
    assert [at[iou].ap for iou in (0.5, 0.6)] == pytest.approx([1 / 3 + 1 / 3 * 2 / 3] * 2)
    assert [at[iou].ap for iou in (0.7, 0.8)] == pytest.approx([1 / 3] * 2)
    assert parts.recall_ceiling["all"] == pytest.approx(2 / 3)
    assert parts.false_positives["all"] == {10: 0, 30: 0, 50: 1, 80: None, 90: None, 95: None}

    heights = parts.groups["height"]
    assert [heights[h].faces for h in ("<8", "8-16", "16-32", "32-64", "64+")] == [0, 1, 1, 1, 0]
    assert heights["8-16"].ap == 1 and heights["16-32"].ap == 0.5 and heights["32-64"].ap == 0
    assert np.isnan([heights["<8"].ap, heights["<8"].recall]).all()
    heavy = parts.groups["blur"]["heavy"]  # the stray comes before the hit; the clear face is ignored
    assert (heavy.faces, heavy.recall, heavy.ap) == (2, 0.5, 0.25)
    assert parts.groups["pose"]["atypical"].recall == 0


def test_at_half_it_is_the_evaluation_itself() -> None:
    faces = annotated()
    truth, detections = truth_of_faces(faces), detected(faces, 0.1)
    result = evaluate_wider(detections, truth)
    parts = break_down(result, truth, {})
    assert parts.by_iou["all"][0.5].ap == result.subsets["all"].ap_exact
    assert parts.groups == {}


@pytest.mark.parametrize("iou", [0.6, 0.8])
def test_a_higher_threshold_is_an_evaluation_at_it(iou: float) -> None:
    faces = annotated()
    truth, detections = truth_of_faces(faces), detected(faces, 0.1)
    parts = break_down(evaluate_wider(detections, truth), truth, {})
    assert parts.by_iou["all"][iou].ap == evaluate_wider(detections, truth, iou_threshold=iou).subsets["all"].ap_exact


def test_groups_divide_the_valid_faces() -> None:
    faces = annotated()
    parts = broken_down(faces, detected(faces, 0.1))
    valid = sum(int(truth.usable.sum()) for truth in faces.values())
    for values in parts.groups.values():
        assert sum(part.faces for part in values.values()) == valid
        hits = sum(part.outcomes.hits.sum() for part in values.values())
        assert hits == parts.by_iou["all"][0.5].outcomes.hits.sum()


def test_against_itself_nothing_differs() -> None:
    faces = annotated()
    parts = broken_down(faces, detected(faces, 0.1))
    change = compare_breakdowns(parts, parts, resamples=50)
    differences = [d for values in (*change.by_iou.values(), *change.groups.values()) for d in values.values()]
    assert len(differences) == 4 + 5 + 3 + 3 + 2 + 2
    assert {(d.value, d.low, d.high) for d in differences} == {(0.0, 0.0, 0.0)}


def test_jitter_costs_most_where_boxes_must_fit_best() -> None:
    faces = annotated(images=40)
    before, after = (broken_down(faces, detected(faces, jitter)) for jitter in (0.02, 0.12))
    change = compare_breakdowns(before, after, resamples=200)
    at = change.by_iou["all"]
    assert at[0.8].high < 0 and at[0.8].value < at[0.5].value
    for kind in change.groups["height"].values():
        assert kind.low <= kind.value <= kind.high


def test_the_difference_is_the_one_of_the_subsets() -> None:
    faces = annotated()
    truth = truth_of_faces(faces)
    before, after = (evaluate_wider(detected(faces, jitter), truth) for jitter in (0.02, 0.12))
    parts = [break_down(result, truth, {}) for result in (before, after)]
    assert compare_breakdowns(*parts).by_iou["all"][0.5] == compare_wider(before, after)["all"]


def test_different_images_cannot_be_compared() -> None:
    faces = annotated()
    one = {name: faces[name] for name in list(faces)[:1]}
    with pytest.raises(ValueError, match="the same images"):
        compare_breakdowns(broken_down(faces, {}), broken_down(one, {}))


def test_wider_mini_val(shared_data: Path) -> None:
    widerface = shared_data / "widerface"
    truth = load_evaluation_truth(widerface / "eval")
    names = load_subset(widerface / "wider_face_split" / "wider_face_val_bbx_gt.txt")
    files = open_detections(shared_data / "proposals" / "yolov7_face.tar.gz")
    matched = match_names(files, truth.names)
    result = evaluate_wider({n: files[matched[n]] for n in names if n in matched}, truth, names)
    groups = group_faces(truth.faces, load_faces(widerface / "eval"))
    parts = break_down(result, truth, groups)
    assert parts.recall_ceiling["hard"] == pytest.approx(0.868, abs=0.0005)
    assert [parts.by_iou[s][0.5].ap for s in truth.subsets] == pytest.approx([0.941, 0.909, 0.808], abs=0.001)
    # The published counts, less two rows of no width.
    assert [part.faces for part in parts.groups["height"].values()] == [76, 510, 705, 649, 452]


def test_mat_files_and_text_give_the_same_groups(shared_data: Path) -> None:
    widerface = shared_data / "widerface"
    text = load_faces(widerface / "wider_face_split" / "wider_face_val_bbx_gt.txt")
    mat = load_faces(widerface / "eval")
    some = {name: truth.boxes for name, truth in text.items() if len(truth)}
    assert len(some) > 250
    groups = [group_faces(some, source) for source in (text, {name: mat[name] for name in some})]
    for attribute, values in groups[0].items():
        for value, masks in values.items():
            for name, mask in masks.items():
                np.testing.assert_array_equal(mask, groups[1][attribute][value][name])


def test_subsets_need_not_be_of_valid_faces() -> None:
    boxes = np.array([[0.0, 0, 10, 10]])
    truth = EvaluationTruth({"image": boxes}, {"odd": {"image": np.array([True])}})
    codes = {name: np.zeros(1, int) for name in ("blur", "occlusion", "pose", "illumination")}
    invalid = {"image": GroundTruth(boxes, np.array([True]), codes)}
    parts = break_down(evaluate_wider({}, truth), truth, group_faces(truth.faces, invalid))
    assert parts.by_iou["odd"][0.5].faces == 1
    assert {part.faces for values in parts.groups.values() for part in values.values()} == {0}
