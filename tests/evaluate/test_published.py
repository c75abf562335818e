from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from tinygan.errors import DataError
from tinygan.evaluate.published import load_published_curve, load_published_curves

POINTS = np.array([[np.nan, 0.0], [1.0, 0.25], [0.5, 0.5], [0.75, 0.75]])  # 0/0 where nothing is counted
AP = 0.25 * 1 + 0.5 * 0.75
GATE = {  # easy, medium, hard
    "HR": (0.926, 0.911, 0.806),
    "MSCNN": (0.917, 0.904, 0.803),
    "RefineFace": (0.972, 0.963, 0.920),
    "RetinaFace": (0.969, 0.962, 0.919),
    "SFD": (0.938, 0.926, 0.859),
    "SRN": (0.964, 0.953, 0.902),
    "SSH": (0.931, 0.921, 0.846),
    "TinaFace": (0.970, 0.964, 0.935),
    "CMS-RCNN": (0.899, 0.875, 0.624),
    "Multitask Cascade CNN": (0.849, 0.826, 0.598),
}


def file_of(folder: Path, method: str, subset: str) -> Path:
    path = folder / method / f"wider_pr_info_{method}_{subset}_val.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_v5(path: Path, name: str, points: object = POINTS) -> Path:
    savemat(path, {"pr_cruve": points, "legend_name": name})
    return path


def write_v73(path: Path, name: str) -> Path:
    with h5py.File(path, "w", userblock_size=512) as file:
        file["pr_cruve"] = POINTS.T  # as MATLAB writes it
        file["pr_cruve"].attrs["MATLAB_class"] = np.bytes_("double")
        file["legend_name"] = np.array([[ord(character)] for character in name], dtype=np.uint16)
        file["legend_name"].attrs["MATLAB_class"] = np.bytes_("char")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM")
    return path


def test_both_kinds_of_file(tmp_path: Path) -> None:
    write_v5(file_of(tmp_path, "old-one", "hard"), "Old")
    write_v73(file_of(tmp_path, "new_one", "hard"), "New")
    write_v5(file_of(tmp_path, "old-one", "easy"), "Old", POINTS * [0.5, 1])
    (tmp_path / "wider_pr_info_old-one_hard_test.mat").write_bytes(b"of the test set, left alone")
    curves = load_published_curves(tmp_path)
    assert {subset: [c.method for c in found] for subset, found in curves.items()} == {
        "easy": ["Old"],
        "hard": ["New", "Old"],
    }
    for curve in curves["hard"]:
        assert curve.subset == "hard" and curve.ap == pytest.approx(AP)
        np.testing.assert_array_equal(curve.curve.recall, [0, 0.25, 0.5, 0.75])
        np.testing.assert_array_equal(curve.curve.precision, [0, 1, 0.5, 0.75])
        np.testing.assert_allclose(curve.curve.thresholds, [0.75, 0.5, 0.25, 0])
    assert curves["easy"][0].ap == pytest.approx(AP / 2)


def test_best_first(tmp_path: Path) -> None:
    for name, factor in (("a", 0.5), ("b", 1.0), ("c", 0.7)):
        write_v5(file_of(tmp_path, name, "hard"), name, POINTS * [factor, 1])
    assert [curve.method for curve in load_published_curves(tmp_path)["hard"]] == ["b", "c", "a"]


@pytest.mark.parametrize(
    "points", [POINTS.T, POINTS * 2, POINTS[::-1] * [1, 1], POINTS[:0], np.array([["a", "b"]])], ids=str
)
def test_other_content_is_an_error(tmp_path: Path, points: object) -> None:
    path = write_v5(file_of(tmp_path, "x", "hard"), "x", points)
    with pytest.raises(DataError, match=r"wider_pr_info_x_hard_val.mat: expected pr_cruve \[K, 2\]"):
        load_published_curve(path, "hard")


def test_bad_folders_and_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        load_published_curves(tmp_path / "nowhere")
    with pytest.raises(DataError, match="found none"):
        load_published_curves(tmp_path)
    path = file_of(tmp_path, "x", "hard")
    savemat(path, {"pr_curve": POINTS, "legend_name": "x"})
    with pytest.raises(DataError, match="pr_cruve is absent"):
        load_published_curves(tmp_path)
    path.write_bytes(b"no MATLAB file")
    with pytest.raises(DataError, match="expected a MATLAB file"):
        load_published_curves(tmp_path)


def test_published_curves_integrate_to_their_ap(shared_data: Path) -> None:
    curves = load_published_curves(shared_data / "widerface" / "eval" / "pr_curves")
    assert {subset: len(found) for subset, found in curves.items()} == {"easy": 10, "medium": 10, "hard": 10}
    for number, subset in enumerate(("easy", "medium", "hard")):
        found = {curve.method: curve.ap for curve in curves[subset]}
        assert found == pytest.approx({method: values[number] for method, values in GATE.items()}, abs=0.001)
