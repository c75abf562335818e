from __future__ import annotations

import numpy as np
import pytest

from tinygan.detections import GroundTruth
from tinygan.evaluate.attributes import group_faces
from tinygan.evaluate.truth import truth_of_faces
from tinygan.formats.wider import parse_ground_truth

TEXT = """a.jpg
3
0 0 5 7 0 0 0 0 0 0
0 0 5 8 1 0 1 0 2 1
0 0 5 64 2 0 0 1 1 0
b.jpg
0
0 0 0 0 0 0 0 0 0 0
"""


def test_groups_by_hand() -> None:
    attributes = parse_ground_truth(TEXT, "gt.txt")
    groups = group_faces(truth_of_faces(attributes).faces, attributes)
    assert list(groups) == ["height", "blur", "occlusion", "pose", "illumination"]
    assert groups["height"]["<8"]["a.jpg"].tolist() == [True, False, False]
    assert groups["height"]["8-16"]["a.jpg"].tolist() == [False, True, False]  # the lower end belongs to the range
    assert groups["height"]["64+"]["a.jpg"].tolist() == [False] * 3  # invalid
    assert groups["occlusion"]["heavy"]["a.jpg"].tolist() == [False, True, False]
    assert groups["illumination"]["extreme"]["a.jpg"].tolist() == [False, True, False]
    # An image without faces keeps one box in the evaluation, which is in no group.
    assert {masks["b.jpg"].tolist()[0] for values in groups.values() for masks in values.values()} == {False}


def test_attributes_must_fit_the_faces() -> None:
    boxes = np.array([[0.0, 0, 5, 5]])
    truth = {"a": GroundTruth(boxes, np.zeros(1, bool))}
    with pytest.raises(ValueError, match="'b' has no attribute rows for 1 faces"):
        group_faces({"b": boxes}, truth)
    with pytest.raises(ValueError, match="'a' has 1 attribute rows for 2 faces"):
        group_faces({"a": np.concatenate([boxes, boxes])}, truth)
