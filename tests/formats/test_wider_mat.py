from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from scipy.io import savemat

from tinygan.errors import DataError
from tinygan.formats.wider_mat import ATTRIBUTES, MAT_FILES, load_mat, load_mat_faces

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
    faces, subsets = load_mat(write_all(tmp_path, write))
    assert list(faces) == NAMES
    np.testing.assert_array_equal(faces[NAMES[0]], [[1, 2, 11, 22], [30, 40, 35, 45]])
    assert faces[NAMES[1]].shape == (0, 4)
    np.testing.assert_array_equal(faces[NAMES[2]], [[7, 8, 10, 8]])
    assert list(subsets) == ["easy", "medium", "hard"]
    got = {s: [members[name].tolist() for name in NAMES] for s, members in subsets.items()}
    assert got == {
        "easy": [[True, False], [], [False]],
        "medium": [[True, True], [], [False]],
        "hard": [[True, True], [], [True]],
    }


def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no wider_face_val.mat, wider_easy_val.mat.*eval_tools.zip"):
        load_mat(tmp_path)
    write_all(tmp_path)
    (tmp_path / "wider_hard_val.mat").unlink()
    with pytest.raises(DataError, match=r": no wider_hard_val.mat; expected"):
        load_mat(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 4000, None])
def test_damaged_mat_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    file = write_all(tmp_path) / "wider_medium_val.mat"
    file.write_bytes(file.read_bytes()[:-300] if content is None else content)
    with pytest.raises(DataError, match=r"wider_medium_val.mat: expected"):
        load_mat(tmp_path)


def test_mat_files_at_odds_are_named(tmp_path: Path) -> None:
    write_all(tmp_path)
    hard = tmp_path / "wider_hard_val.mat"
    write_v5(hard, variables([[3], [], []]))
    with pytest.raises(DataError, match=r"wider_hard_val.mat: gt_list of '0--Parade/a_1.jpg' must hold numbers 1..2"):
        load_mat(tmp_path)
    write_v5(hard, variables(None))
    with pytest.raises(DataError, match=r"wider_hard_val.mat: .*gt_list is absent"):
        load_mat(tmp_path)
    write_v5(hard, {**variables(LISTS["hard"]), "file_list": [["a_1"], ["b.c_3"]]})
    with pytest.raises(DataError, match=r"wider_hard_val.mat: lists other images than wider_face_val.mat"):
        load_mat(tmp_path)
    write_v5(hard, {**variables(LISTS["hard"]), "gt_list": ["a", "b"]})
    with pytest.raises(DataError, match=r"wider_hard_val.mat: expected gt_list to be a cell array"):
        load_mat(tmp_path)
    face = tmp_path / "wider_face_val.mat"
    write_v5(face, {**variables(None), "face_bbx_list": [[rows([1, 2, 3], 3)] * 2, [rows([], 4)]]})
    with pytest.raises(DataError, match=r"wider_face_val.mat: expected face_bbx_list to hold rows of 'x y w h'"):
        load_mat(tmp_path)


def write_attributes(folder: Path, **other: object) -> Path:
    lists = {f"{attribute}_label_list": [[codes(0, 1), codes()], [codes(1)]] for attribute in ATTRIBUTES}
    content = {**variables(None), "invalid_label_list": [[codes(0, 1), codes()], [codes(0)]], **lists, **other}
    write_v5(folder / "wider_face_val.mat", {key: value for key, value in content.items() if value is not None})
    return folder


def codes(*values: int) -> npt.NDArray[np.int32]:
    return rows(values, 1)


def test_faces_with_their_attributes(tmp_path: Path) -> None:
    faces = load_mat_faces(write_attributes(tmp_path))
    assert list(faces) == NAMES
    first = faces[NAMES[0]]
    assert first.boxes.tolist() == [[1, 2, 11, 22], [30, 40, 35, 45]]
    assert first.invalid.tolist() == [False, True]
    assert {name: first.fields[name].tolist() for name in ATTRIBUTES} == {name: [0, 1] for name in ATTRIBUTES}
    assert [len(faces[name]) for name in NAMES] == [2, 0, 1]


def test_attributes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    write_attributes(tmp_path, blur_label_list=[[codes(0), codes()], [codes(1)]])
    with pytest.raises(DataError, match=r"blur_label_list has 1 values for the 2 faces of '0--Parade/a_1.jpg'"):
        load_mat_faces(tmp_path)
    write_attributes(tmp_path, pose_label_list=[[codes(0, 1)], []])
    with pytest.raises(DataError, match="pose_label_list has 1 images, expected 3"):
        load_mat_faces(tmp_path)
    write_attributes(tmp_path, pose_label_list=None)
    with pytest.raises(DataError, match="pose_label_list is absent"):
        load_mat_faces(tmp_path)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs WIDER FACE's evaluation files in ../shared/data/widerface")
def test_the_official_files() -> None:
    faces, subsets = load_mat(DATA / "eval")
    assert len(faces) == 3226
    assert "0--Parade/0_Parade_Parade_0_205.jpg" in faces
    counts = {s: sum(int(m.sum()) for m in members.values()) for s, members in subsets.items()}
    assert counts == {"easy": 7211, "medium": 13319, "hard": 31958}
