"""Which faces rose, fell, came or went, and which boxes cost most, worked by hand."""

import numpy as np
import pytest
from PIL import Image

from tinygan.detections import Detections, GroundTruth
from tinygan.evaluate.truth import truth_of_faces
from tinygan.evaluate.wider import evaluate_wider
from tinygan.report.faces import (
    Change,
    Pictures,
    Scale,
    changes_of_boxes,
    changes_of_faces,
    costliest,
    most_changed,
    only_once,
)
from tinygan.second_stage.upscaling import SuperResolver

A, B, C, D = ([x, 10.0, x + 20, 30.0] for x in (0.0, 50.0, 100.0, 150.0))


def found(*rows):
    return Detections(np.array([box for box, _ in rows]), np.array([score for _, score in rows]))


@pytest.fixture
def sides():
    """Before and after in one image: A rises, B falls, C comes, D goes; one box is on no face."""
    far = [300.0, 10.0, 320.0, 30.0]
    before = {"a.jpg": found((A, 0.2), (B, 0.9), (D, 0.4), (far, 0.1)), "b.jpg": found((A, 0.5))}
    after = {"a.jpg": found((B, 0.6), (A, 0.7), (C, 0.8), (far, 0.95), (A, 0.65)), "b.jpg": found((A, 0.5))}
    return before, after


@pytest.fixture
def truth():
    faces = GroundTruth(np.array([A, B, C, D]), np.zeros(4, bool))
    return truth_of_faces({"a.jpg": faces, "b.jpg": GroundTruth(np.array([A]), np.zeros(1, bool))})


def told(changes):
    return [(one.image, one.box[0], one.before, one.after) for one in changes]


def test_faces_that_changed(sides, truth):
    before, after = (evaluate_wider(side, truth) for side in sides)
    changes = changes_of_faces(before, after, truth)
    assert len(changes) == 5
    rose, fell = most_changed(changes, Scale(sides[0]), Scale(sides[1]))
    assert told(rose) == [("a.jpg", 0.0, 0.2, 0.7)] and told(fell) == [("a.jpg", 50.0, 0.9, 0.6)]
    new, lost = only_once(changes)
    assert told(new) == [("a.jpg", 100.0, None, 0.8)] and told(lost) == [("a.jpg", 150.0, 0.4, None)]


def test_faces_that_do_not_count_are_left_out(sides):
    faces = {"a.jpg": GroundTruth(np.array([A, B]), np.array([True, False])), "b.jpg": GroundTruth.empty()}
    truth = truth_of_faces(faces)
    before, after = (evaluate_wider(side, truth) for side in sides)
    assert told(changes_of_faces(before, after, truth)) == [("a.jpg", 50.0, 0.9, 0.6)]


def test_boxes_that_changed_without_faces_to_compare_with(sides):
    changes = changes_of_boxes(*sides)
    assert [(one.before, one.after) for one in changes if one.image == "a.jpg"] == [
        (0.9, 0.6), (0.2, 0.7), (None, 0.8), (0.1, 0.95), (0.2, 0.65),
    ]  # fmt: skip
    rose, fell = most_changed(changes, Scale(sides[0]), Scale(sides[1]))
    assert told(rose)[0] == ("a.jpg", 300.0, 0.1, 0.95) and told(fell) == [("a.jpg", 50.0, 0.9, 0.6)]


def test_scores_of_any_scale_are_compared():
    logits = {"a.jpg": found((A, -4.0), (B, 6.0))}
    scale = Scale(logits)
    assert scale.is_mapped and (scale(-4.0), scale(1.0), scale(6.0)) == (0.0, 0.5, 1.0)
    assert not Scale({"a.jpg": found((A, 0.2))}).is_mapped and Scale({"a.jpg": found((A, 0.2))})(0.3) == 0.3
    assert Scale({"a.jpg": found((A, 7.0))})(7.0) == 0.0 and not Scale({}).is_mapped


def test_the_costliest_false_positives_come_with_their_boxes(sides, truth):
    result = evaluate_wider(sides[1], truth)
    chosen = costliest(result, *sides, most=5)
    assert told(chosen) == [("a.jpg", 300.0, 0.1, 0.95), ("a.jpg", 0.0, 0.2, 0.65)]
    assert [one.kind for one in chosen] == ["on no annotated face", "a second box on one face"]
    assert told(costliest(result, *sides, most=1)) == told(chosen)[:1]


def test_pictures_are_enlarged_fourfold_and_unreadable_ones_noted_once(tmp_path, checkpoint):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (120, 400, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    files = {"a.png": tmp_path / "a.png", "b.png": tmp_path / "b.png"}
    pictures = Pictures(files, SuperResolver(checkpoint, device="cpu"), "upright")
    bicubic, resolved = pictures.enlarge(Change("a.png", np.array(B), 0.1, 0.2, "face"))
    assert bicubic.shape == resolved.shape == (160, 160, 3) and (bicubic != resolved).any()
    large, _ = pictures.enlarge(Change("a.png", np.array([0.0, 0.0, 90.0, 100.0]), 0.1, 0.2, "face"))
    assert large.shape == (384, 384, 3)
    for name in ("b.png", "b.png", "c.png"):
        assert pictures.enlarge(Change(name, np.array(A), 0.1, 0.2, "face")) is None
    assert len(pictures.skipped) == 2 and "b.png: expected a readable image" in pictures.skipped[0]
    assert pictures.skipped[1] == "c.png: no such image"
