"""WIDER FACE's evaluation files in MATLAB's format: ``wider_{face,easy,medium,hard}_val.mat``, published curves.

MATLAB writes two kinds of ``.mat``: v5, which scipy reads, and v7.3, which is HDF5 with every array
transposed and cells as references. Both become the same nested lists here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinygan.boxes import xywh_to_xyxy
from tinygan.detections import BoolArray, FloatArray, GroundTruth, IntArray
from tinygan.errors import DataError

if TYPE_CHECKING:
    import h5py

SUBSETS = ("easy", "medium", "hard")
MAT_FILES = ("wider_face_val.mat", *(f"wider_{subset}_val.mat" for subset in SUBSETS))
_MOST_NUMBERS = 50_000_000  # a hundred times as many as in the official files
ATTRIBUTES = ("blur", "occlusion", "pose", "illumination")

Boxes: TypeAlias = dict[str, FloatArray]
"""``{image name: float64 [M, 4]}``, ``x1, y1, x2, y2`` in pixels."""

Masks: TypeAlias = dict[str, BoolArray]
"""``{image name: bool [M]}``."""

Cell: TypeAlias = "str | npt.NDArray[Any] | list[Cell]"


def load_mat(folder: Path) -> tuple[Boxes, dict[str, Masks]]:
    """Read the boxes of every image, and which of them each subset counts, from the four official files.

    Args:
        folder: holds ``wider_face_val.mat``, ``wider_easy_val.mat``, ``wider_medium_val.mat`` and
            ``wider_hard_val.mat`` (``ground_truth/`` in the official ``eval_tools.zip``), v5 or v7.3.

    Returns:
        ``{event/name.jpg: boxes}``, and ``{subset: {event/name.jpg: mask}}`` (1-based lists on disk, masks here).

    Raises:
        DataError: naming the file that is absent, damaged or at odds with the others.
    """
    missing = [name for name in MAT_FILES if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder}: no {', '.join(missing)}; expected the four .mat files (ground_truth/ in the "
            "official eval_tools.zip); or give a *_bbx_gt.txt"
        )
    path = folder / MAT_FILES[0]
    cells = read_mat(path, ("event_list", "file_list", "face_bbx_list"))
    names = _image_names(cells, path)
    boxes = [_boxes_of(cell, path) for cell in _images_of(cells, "face_bbx_list", path)]
    if len(boxes) != len(names) or len(set(names)) != len(names):
        raise DataError(f"{path}: file_list names {len(names)} images, face_bbx_list has boxes for {len(boxes)}")
    faces = dict(zip(names, boxes, strict=True))
    return faces, {subset: _read_subset(folder / f"wider_{subset}_val.mat", faces) for subset in SUBSETS}


def load_mat_faces(folder: Path) -> dict[str, GroundTruth]:
    """Read every face with its attributes from ``wider_face_val.mat``.

    Args:
        folder: holds that file.

    Returns:
        ``{event/name.jpg: faces}`` with the columns ``blur``, ``occlusion``, ``pose`` and ``illumination``.

    Raises:
        DataError: if the file is absent or damaged, or lacks an attribute of a face.
    """
    path = folder / MAT_FILES[0]
    lists = {attribute: f"{attribute}_label_list" for attribute in (*ATTRIBUTES, "invalid")}
    cells = read_mat(path, ("event_list", "file_list", "face_bbx_list", *lists.values()))
    names = _image_names(cells, path)
    images = {key: _images_of(cells, key, path) for key in ("face_bbx_list", *lists.values())}
    for key, values in images.items():
        if len(values) != len(names):
            raise DataError(f"{path}: {key} has {len(values)} images, expected {len(names)}; {_FIX}")
    loaded = {}
    for number, name in enumerate(names):
        boxes = _boxes_of(images["face_bbx_list"][number], path)
        codes = {attribute: _codes(images[key][number]) for attribute, key in lists.items()}
        for attribute, column in codes.items():
            if len(column) != len(boxes):
                got = f"{lists[attribute]} has {len(column)} values for the {len(boxes)} faces of '{name}'"
                raise DataError(f"{path}: {got}; {_FIX}")
        loaded[name] = GroundTruth(boxes, codes.pop("invalid") != 0, codes)
    return loaded


_FIX = "copy it again from the official eval_tools.zip"


def _read_subset(path: Path, faces: Boxes) -> Masks:
    cells = read_mat(path, ("event_list", "file_list", "gt_list"))
    names = _image_names(cells, path)
    lists = _images_of(cells, "gt_list", path)
    if names != list(faces) or len(lists) != len(names):
        raise DataError(f"{path}: lists other images than {MAT_FILES[0]} ({len(names)}, expected {len(faces)}); {_FIX}")
    members = {}
    for name, cell in zip(names, lists, strict=True):
        chosen = np.asarray(cell, dtype=np.int64).ravel() if isinstance(cell, np.ndarray) else np.zeros(1, np.int64)
        if chosen.size and not 1 <= chosen.min() <= chosen.max() <= len(faces[name]):
            raise DataError(f"{path}: gt_list of '{name}' must hold numbers 1..{len(faces[name])}; {_FIX}")
        members[name] = np.zeros(len(faces[name]), dtype=np.bool_)
        members[name][chosen - 1] = True
    return members


def _image_names(cells: Mapping[str, Cell], path: Path) -> list[str]:
    """``event/name.jpg`` of every image, in the official order, from ``event_list`` and ``file_list``."""
    events, files = cells["event_list"], cells["file_list"]
    if not isinstance(events, list) or not isinstance(files, list) or len(events) != len(files):
        raise DataError(f"{path}: expected event_list and file_list to be cell arrays of one length; {_FIX}")
    return [f"{event}/{file}.jpg" for event, group in zip(events, files, strict=True) for file in group]


def _images_of(cells: Mapping[str, Cell], key: str, path: Path) -> list[Cell]:
    """A variable's cell of every image, in the official order."""
    events = cells[key]
    if not isinstance(events, list) or not all(isinstance(event, list) for event in events):
        raise DataError(f"{path}: expected {key} to be a cell array (events) of cell arrays (images); {_FIX}")
    return [image for event in events for image in event]


def _boxes_of(cell: Cell, path: Path) -> FloatArray:
    """Boxes float64 [M, 4], ``x1, y1, x2, y2``, of one image's ``x y w h`` rows."""
    xywh = np.asarray(cell if isinstance(cell, np.ndarray) else np.nan, dtype=np.float64)
    if xywh.size == 0:
        return np.zeros((0, 4))
    if xywh.ndim != 2 or xywh.shape[1] != 4 or not np.isfinite(xywh).all():
        raise DataError(f"{path}: expected face_bbx_list to hold rows of 'x y w h', got shape {xywh.shape}; {_FIX}")
    return xywh_to_xyxy(xywh)


def _codes(cell: Cell) -> IntArray:
    values = np.asarray(cell if isinstance(cell, np.ndarray) else [])
    return values.astype(np.int64).ravel()


def read_mat(path: Path, keys: tuple[str, ...]) -> dict[str, Cell]:
    """The named variables of a v5 or v7.3 file: cells as lists in MATLAB's order, char arrays as strings."""
    from scipy.io import loadmat

    try:
        try:
            values = loadmat(path, variable_names=keys)
            cells = {key: _from_scipy(values[key]) for key in keys if key in values}
        except NotImplementedError:  # v7.3
            cells = dict(_from_hdf5(path, keys))
    except Exception as error:  # scipy and h5py raise nearly any kind on a damaged file
        raise DataError(f"{path}: expected a MATLAB file, v5 or v7.3: {error}; {_FIX}") from error
    absent = [key for key in keys if key not in cells]
    if absent:
        raise DataError(f"{path}: expected the variables {', '.join(keys)}; {', '.join(absent)} is absent; {_FIX}")
    return cells


def _from_scipy(value: npt.NDArray[Any]) -> Cell:
    if value.dtype == object:
        return [_from_scipy(item) for item in value.ravel(order="F")]
    if value.dtype.kind == "U":
        return "".join(value.ravel().tolist())
    return value


def _from_hdf5(path: Path, keys: tuple[str, ...]) -> Iterator[tuple[str, Cell]]:
    import h5py

    allowance = _Allowance()
    with h5py.File(path, "r") as file:
        for key in keys:
            if key in file:
                yield key, _from_dataset(file[key], file, allowance)


class _Allowance:
    """Numbers that the datasets of a file may hold: HDF5 keeps a terabyte of equal ones in a few bytes."""

    left = _MOST_NUMBERS

    def read(self, dataset: h5py.Dataset) -> Any:
        """A dataset's content.

        Raises:
            ValueError: if it, with those before it, is far larger than any of the official files.
        """
        self.left -= dataset.size or 0
        if self.left < 0:
            raise ValueError(f"holds more than {_MOST_NUMBERS:,} numbers")
        return dataset[()]


def _from_dataset(dataset: h5py.Dataset, file: h5py.File, allowance: _Allowance) -> Cell:
    value = allowance.read(dataset)
    if dataset.attrs.get("MATLAB_empty", 0):  # the dataset then holds the shape
        return [] if dataset.attrs.get("MATLAB_class") == b"cell" else np.zeros((0, 0))
    if value.dtype == object:
        return [_from_dataset(file[reference], file, allowance) for reference in value.ravel()]
    if dataset.attrs.get("MATLAB_class") == b"char":
        return "".join(map(chr, value.ravel()))
    transposed: npt.NDArray[Any] = value.T
    return transposed
