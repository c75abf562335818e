from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tinygan.detections import GroundTruth
from tinygan.errors import DataError
from tinygan.evaluate.truth import EvaluationTruth, load_evaluation_truth, truth_by_height, truth_of_faces


def cell(*items: object) -> np.ndarray:
    values = np.empty((len(items), 1), dtype=object)
    for row, item in enumerate(items):
        values[row, 0] = item
    return values


def test_a_folder_of_mat_files_makes_the_official_subsets(tmp_path: Path) -> None:
    images = {"event_list": cell("e"), "file_list": cell(cell("a"))}
    savemat(tmp_path / "wider_face_val.mat", {**images, "face_bbx_list": cell(cell([[1, 2, 10, 20], [5, 5, 1, 1]]))})
    for subset, chosen in {"easy": [[1]], "medium": [[1], [2]], "hard": [[2]]}.items():
        savemat(tmp_path / f"wider_{subset}_val.mat", {**images, "gt_list": cell(cell(chosen))})
    truth = load_evaluation_truth(tmp_path)
    assert truth.names == ["e/a.jpg"] and truth.faces["e/a.jpg"].tolist() == [[1, 2, 11, 22], [5, 5, 6, 6]]
    got = {subset: members["e/a.jpg"].tolist() for subset, members in truth.subsets.items()}
    assert got == {"easy": [True, False], "medium": [True, True], "hard": [False, True]}


def test_a_text_file_makes_one_subset_of_the_usable_faces(tmp_path: Path) -> None:
    file = tmp_path / "val_bbx_gt.txt"
    file.write_text(
        "e/a.jpg\n3\n1 2 10 20 0 0 0 0 0 0 \n5 5 9 9 0 0 0 1 0 0 \n5 5 0 9 0 0 0 0 0 0 \n"
        "e/none.jpg\n0\n0 0 0 0 0 0 0 0 0 0 \n"
    )
    truth = load_evaluation_truth(file)
    np.testing.assert_array_equal(truth.faces["e/a.jpg"], [[1, 2, 11, 22], [5, 5, 14, 14], [5, 5, 5, 14]])
    assert truth.subsets["all"]["e/a.jpg"].tolist() == [True, False, False]
    # As in the official .mat files: one ignored all-zero box, so that false positives count here.
    np.testing.assert_array_equal(truth.faces["e/none.jpg"], [[0, 0, 0, 0]])
    assert truth.subsets["all"]["e/none.jpg"].tolist() == [False]


def test_an_image_without_faces_from_memory() -> None:
    assert truth_of_faces({"a": GroundTruth.empty()}, "mine").subsets["mine"]["a"].tolist() == [False]


def test_the_type_checks_itself() -> None:
    with pytest.raises(ValueError, match="subset 'all' has 1 flags for the 2 faces of 'a'"):
        EvaluationTruth({"a": np.zeros((2, 4))}, {"all": {"a": np.ones(1, dtype=bool)}})
    with pytest.raises(ValueError, match="has no flags for the 2 faces of 'a'"):
        EvaluationTruth({"a": np.zeros((2, 4))}, {"all": {}})


def test_a_subset_per_height() -> None:
    boxes = np.array([[0.0, 0, 5, 10], [0, 0, 5, 20], [0, 0, 5, 30]])
    truth = truth_by_height({"a": GroundTruth(boxes, np.array([False, False, True]))}, (0, 12, 12))
    assert {subset: members["a"].tolist() for subset, members in truth.subsets.items()} == {
        "0: 0 px": [True, True, False],
        "1: 12 px": [False, True, False],
        "2: 12 px": [False, True, False],
    }


def test_missing_paths_and_files_say_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file or folder; expected a folder with wider_face_val.mat"):
        load_evaluation_truth(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r": no wider_face_val.mat, .*; or give a \*_bbx_gt.txt"):
        load_evaluation_truth(tmp_path)
    (tmp_path / "wider_easy_val.mat").touch()
    with pytest.raises(DataError, match="give the folder that holds"):
        load_evaluation_truth(tmp_path / "wider_easy_val.mat")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match=r"empty.txt: the file is empty"):
        load_evaluation_truth(tmp_path / "empty.txt")
