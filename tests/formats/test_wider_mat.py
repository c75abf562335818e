from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from scipy.io import savemat

from tinygan.detections import GroundTruth
from tinygan.errors import DataError
from tinygan.formats.wider_mat import MAT_FILES, EvaluationTruth, load_evaluation_ground_truth, truth_of_faces

DATA = Path(__file__).parents[3] / "shared" / "data" / "widerface"
EVENTS = {"0--Parade": ["a_1", "a_2"], "7--Cheering": ["b.c_3"]}
BOXES = [[[1, 2, 10, 20], [30, 40, 5, 5]], [], [[7, 8, 3, 0]]]
LISTS = {"easy": [[1], [], []], "medium": [[2, 1], [], []], "hard": [[1, 2], [], [1]]}
NAMES = ["0--Parade/a_1.jpg", "0--Parade/a_2.jpg", "7--Cheering/b.c_3.jpg"]

Images = list[npt.NDArray[Any]]


def rows(values: Any, columns: int) -> npt.NDArray[np.int32]:
    return np.array(values, dtype=np.int32).reshape(-1, columns)


def variables(lists: list[list[int]] | None) -> dict[str, list[list[npt.NDArray[Any] | str]] | list[str]]:
    def by_event(images: Any) -> list[list[Any]]:
        return [list(images[:2]), list(images[2:])]

    content: dict[str, Any] = {
        "event_list": list(EVENTS),
        "file_list": list(EVENTS.values()),
        "face_bbx_list": by_event([rows(b, 4) for b in BOXES]),
    }
    if lists is not None:
        content["gt_list"] = by_event([rows(chosen, 1) for chosen in lists])
    return content


def cell(items: Any) -> Any:
    if not isinstance(items, list):
        return items
    array = np.empty((len(items), 1), dtype=object)
    for at, item in enumerate(items):
        array[at, 0] = cell(item)
    return array


def write_v5(path: Path, content: Mapping[str, Any]) -> None:
    savemat(path, {key: cell(value) for key, value in content.items()})


def write_v73(path: Path, content: Mapping[str, Any]) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:

        def store(name: str, value: Any) -> h5py.Dataset:
            if isinstance(value, list):
                references = [store(f"{name}_{i}", v).ref for i, v in enumerate(value)]
                dataset = file.create_dataset(name, (1, len(value)), dtype=h5py.ref_dtype)
                dataset[0] = references
                kind = b"cell"
            elif isinstance(value, str):
                dataset = file.create_dataset(name, data=np.array([[ord(c)] for c in value], dtype=np.uint16))
                kind = b"char"
            elif value.size == 0:
                dataset = file.create_dataset(name, data=np.array(value.shape, dtype=np.uint64))
                dataset.attrs["MATLAB_empty"] = np.uint8(1)
                kind = b"int32"
            else:
                dataset = file.create_dataset(name, data=value.T)
                kind = b"int32"
            dataset.attrs["MATLAB_class"] = np.bytes_(kind)
            return dataset

        for key, value in content.items():
            store(key, value)
    head = b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM"
    with path.open("r+b") as raw:
        raw.write(head)


def write_all(folder: Path, write: Callable[[Path, Mapping[str, Any]], None] = write_v5) -> Path:
    for name in MAT_FILES:
        write(folder / name, variables(LISTS.get(name.split("_")[1])))
    return folder


@pytest.mark.parametrize("write", [write_v5, write_v73])
def test_reads_both_kinds_of_mat_file(tmp_path: Path, write: Callable[[Path, Mapping[str, Any]], None]) -> None:
    truth = load_evaluation_ground_truth(write_all(tmp_path, write))
    assert truth.names == NAMES
    np.testing.assert_array_equal(truth.faces[NAMES[0]], [[1, 2, 11, 22], [30, 40, 35, 45]])
    assert truth.faces[NAMES[1]].shape == (0, 4)
    np.testing.assert_array_equal(truth.faces[NAMES[2]], [[7, 8, 10, 8]])
    assert list(truth.subsets) == ["easy", "medium", "hard"]
    got = {s: [members[name].tolist() for name in NAMES] for s, members in truth.subsets.items()}
    assert got == {
        "easy": [[True, False], [], [False]],
        "medium": [[True, True], [], [False]],
        "hard": [[True, True], [], [True]],
    }


def test_a_text_file_makes_one_subset_of_the_usable_faces(tmp_path: Path) -> None:
    file = tmp_path / "val_bbx_gt.txt"
    file.write_text(
        "e/a.jpg\n3\n1 2 10 20 0 0 0 0 0 0 \n5 5 9 9 0 0 0 1 0 0 \n5 5 0 9 0 0 0 0 0 0 \n"
        "e/none.jpg\n0\n0 0 0 0 0 0 0 0 0 0 \n"
    )
    truth = load_evaluation_ground_truth(file)
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


def test_missing_paths_and_files_say_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file or folder; expected a folder with wider_face_val.mat"):
        load_evaluation_ground_truth(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no wider_face_val.mat, wider_easy_val.mat.*eval_tools.zip"):
        load_evaluation_ground_truth(tmp_path)
    write_all(tmp_path)
    (tmp_path / "wider_hard_val.mat").unlink()
    with pytest.raises(DataError, match=r": no wider_hard_val.mat; expected"):
        load_evaluation_ground_truth(tmp_path)
    with pytest.raises(DataError, match="give the folder that holds"):
        load_evaluation_ground_truth(tmp_path / "wider_easy_val.mat")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match=r"empty.txt: the file is empty"):
        load_evaluation_ground_truth(tmp_path / "empty.txt")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 4000, None])
def test_damaged_mat_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    file = write_all(tmp_path) / "wider_medium_val.mat"
    file.write_bytes(file.read_bytes()[:-300] if content is None else content)
    with pytest.raises(DataError, match=r"wider_medium_val.mat: expected"):
        load_evaluation_ground_truth(tmp_path)


def test_mat_files_at_odds_are_named(tmp_path: Path) -> None:
    write_all(tmp_path)
    hard = tmp_path / "wider_hard_val.mat"
    write_v5(hard, variables([[3], [], []]))
    with pytest.raises(DataError, match=r"wider_hard_val.mat: gt_list of '0--Parade/a_1.jpg' must hold numbers 1..2"):
        load_evaluation_ground_truth(tmp_path)
    write_v5(hard, variables(None))
    with pytest.raises(DataError, match=r"wider_hard_val.mat: .*gt_list is absent"):
        load_evaluation_ground_truth(tmp_path)
    write_v5(hard, {**variables(LISTS["hard"]), "file_list": [["a_1"], ["b.c_3"]]})
    with pytest.raises(DataError, match=r"wider_hard_val.mat: lists other images than wider_face_val.mat"):
        load_evaluation_ground_truth(tmp_path)
    write_v5(hard, {**variables(LISTS["hard"]), "gt_list": ["a", "b"]})
    with pytest.raises(DataError, match=r"wider_hard_val.mat: expected gt_list to be a cell array"):
        load_evaluation_ground_truth(tmp_path)
    face = tmp_path / "wider_face_val.mat"
    write_v5(face, {**variables(None), "face_bbx_list": [[rows([1, 2, 3], 3)] * 2, [rows([], 4)]]})
    with pytest.raises(DataError, match=r"wider_face_val.mat: expected face_bbx_list to hold rows of 'x y w h'"):
        load_evaluation_ground_truth(tmp_path)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs WIDER FACE's evaluation files in ../shared/data/widerface")
def test_the_official_files() -> None:
    truth = load_evaluation_ground_truth(DATA / "eval")
    assert len(truth.names) == 3226
    assert "0--Parade/0_Parade_Parade_0_205.jpg" in truth.faces
    counts = {s: sum(int(m.sum()) for m in members.values()) for s, members in truth.subsets.items()}
    assert counts == {"easy": 7211, "medium": 13319, "hard": 31958}
