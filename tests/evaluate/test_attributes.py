from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tinygan.detections import GroundTruth
from tinygan.errors import DataError
from tinygan.evaluate.attributes import VALUES, group_faces, load_attributes
from tinygan.formats.wider_mat import truth_of_faces

TEXT = """a.jpg
3
0 0 5 7 0 0 0 0 0 0
0 0 5 8 1 0 1 0 2 1
0 0 5 64 2 0 0 1 1 0
b.jpg
0
0 0 0 0 0 0 0 0 0 0
"""


def cell(*items: object) -> np.ndarray:
    values = np.empty((len(items), 1), dtype=object)
    for row, item in enumerate(items):
        values[row, 0] = item
    return values


def column(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint8).reshape(-1, 1)


def write_mat(folder: Path, **other: object) -> Path:
    variables: dict[str, object] = {
        "event_list": cell("0--Parade"),
        "file_list": cell(cell("a", "b")),
        "face_bbx_list": cell(cell(np.array([[0, 0, 5, 7], [0, 0, 5, 8]]), np.array([[1, 2, 3, 40]]))),
        "invalid_label_list": cell(cell(column(0, 1), column(0))),
        **{f"{attribute}_label_list": cell(cell(column(0, 1), column(1))) for attribute in VALUES},
    }
    variables.update(other)
    savemat(folder / "wider_face_val.mat", {k: v for k, v in variables.items() if v is not None})
    return folder


def test_text(tmp_path: Path) -> None:
    (tmp_path / "gt.txt").write_text(TEXT)
    attributes = load_attributes(tmp_path / "gt.txt")
    groups = group_faces(truth_of_faces(attributes).faces, attributes)
    assert list(groups) == ["height", "blur", "occlusion", "pose", "illumination"]
    assert groups["height"]["<8"]["a.jpg"].tolist() == [True, False, False]
    assert groups["height"]["8-16"]["a.jpg"].tolist() == [False, True, False]  # the lower end belongs to the range
    assert groups["height"]["64+"]["a.jpg"].tolist() == [False] * 3  # invalid
    assert groups["occlusion"]["heavy"]["a.jpg"].tolist() == [False, True, False]
    assert groups["illumination"]["extreme"]["a.jpg"].tolist() == [False, True, False]
    # An image without faces keeps one box in the evaluation, which is in no group.
    assert {masks["b.jpg"].tolist()[0] for values in groups.values() for masks in values.values()} == {False}


def test_mat(tmp_path: Path) -> None:
    attributes = load_attributes(write_mat(tmp_path))
    assert list(attributes) == ["0--Parade/a.jpg", "0--Parade/b.jpg"]
    first = attributes["0--Parade/a.jpg"]
    assert first.boxes.tolist() == [[0, 0, 5, 7], [0, 0, 5, 8]]
    assert first.invalid.tolist() == [False, True]
    assert {name: first.fields[name].tolist() for name in VALUES} == {name: [0, 1] for name in VALUES}


def test_bad_mat_files(tmp_path: Path) -> None:
    write_mat(tmp_path, blur_label_list=cell(cell(column(0), column(1))))
    with pytest.raises(DataError, match=r"blur_label_list has 1 values for the 2 faces of '0--Parade/a.jpg'"):
        load_attributes(tmp_path)
    write_mat(tmp_path, pose_label_list=cell(cell(column(0, 1))))
    with pytest.raises(DataError, match="pose_label_list has 1 images, expected 2"):
        load_attributes(tmp_path)
    write_mat(tmp_path, pose_label_list=None)
    with pytest.raises(DataError, match="pose_label_list is absent"):
        load_attributes(tmp_path)


def test_attributes_must_fit_the_faces() -> None:
    boxes = np.array([[0.0, 0, 5, 5]])
    truth = {"a": GroundTruth(boxes, np.zeros(1, bool))}
    with pytest.raises(ValueError, match="'b' has no attribute rows for 1 faces"):
        group_faces({"b": boxes}, truth)
    with pytest.raises(ValueError, match="'a' has 1 attribute rows for 2 faces"):
        group_faces({"a": np.concatenate([boxes, boxes])}, truth)
