"""WIDER FACE's evaluation ground truth: the official ``wider_{face,easy,medium,hard}_val.mat``, or a ``*_bbx_gt.txt``.

MATLAB writes two kinds of ``.mat``: v5, which scipy reads, and v7.3, which is HDF5 with every array
transposed and cells as references. Both become the same nested lists here. Boxes are turned from
``x y w h`` to ``x1, y1, x2, y2`` here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinygan.detections import BoolArray, FloatArray, GroundTruth
from tinygan.errors import DataError
from tinygan.formats import wider

if TYPE_CHECKING:
    import h5py

SUBSETS = ("easy", "medium", "hard")
MAT_FILES = ("wider_face_val.mat", *(f"wider_{subset}_val.mat" for subset in SUBSETS))

Cell: TypeAlias = "str | npt.NDArray[Any] | list[Cell]"


@dataclass(frozen=True, eq=False)
class EvaluationTruth:
    """Every annotated face of an evaluation, and which of them each subset counts.

    Attributes:
        faces: ``{image name: float64 [M, 4]}``, ``x1, y1, x2, y2`` in pixels, x2/y2 exclusive; rows may have no area.
        subsets: ``{subset: {image name: bool [M]}}``; a face outside the subset is *ignored*.

    Raises:
        ValueError: if a subset lacks an image, or has another number of faces for it.
    """

    faces: Mapping[str, FloatArray]
    subsets: Mapping[str, Mapping[str, BoolArray]]

    def __post_init__(self) -> None:
        for subset, members in self.subsets.items():
            for name, boxes in self.faces.items():
                if name not in members or len(members[name]) != len(boxes):
                    got = len(members[name]) if name in members else "no"
                    raise ValueError(f"subset {subset!r} has {got} flags for the {len(boxes)} faces of '{name}'")

    @property
    def names(self) -> list[str]:
        """Image names, in the order of the ground truth."""
        return list(self.faces)


def load_evaluation_ground_truth(path: Path) -> EvaluationTruth:
    """Read what an evaluation compares with.

    Args:
        path: the folder with the official ``.mat`` files (subsets easy, medium, hard), or a
            ``*_bbx_gt.txt`` (one subset, ``all``).

    Returns:
        The faces of all images and the subsets.

    Raises:
        DataError: if the path is neither, or a file is absent, damaged or malformed.
    """
    if path.is_dir():
        return load_mat_ground_truth(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected {_EXPECTED}")
    if path.suffix.lower() == ".mat":
        raise DataError(f"{path}: give the folder that holds {', '.join(MAT_FILES)}, not one of them")
    faces = wider.load_ground_truth(path)
    if not faces:
        raise DataError(f"{path}: the file is empty; expected {_EXPECTED}")
    return truth_of_faces(faces)


def truth_of_faces(faces: Mapping[str, GroundTruth], subset: str = "all") -> EvaluationTruth:
    """An evaluation of one subset that counts every usable face; invalid ones and those of no area are ignored.

    As in the official files, an image without faces keeps one all-zero ignored box: the protocol skips
    images without boxes, and the false positives of an image without faces must count.

    Args:
        faces: ``{image name: faces}``, e.g. from :func:`tinygan.formats.wider.load_ground_truth`.
        subset: name of the subset.

    Returns:
        The faces and the subset.
    """
    boxes = {name: truth.boxes if len(truth) else np.zeros((1, 4)) for name, truth in faces.items()}
    members = {name: truth.usable if len(truth) else np.zeros(1, dtype=np.bool_) for name, truth in faces.items()}
    return EvaluationTruth(boxes, {subset: members})


def truth_by_height(faces: Mapping[str, GroundTruth], heights_px: Sequence[float]) -> EvaluationTruth:
    """As :func:`truth_of_faces`, with one subset a height: smaller faces are ignored.

    Args:
        faces: ``{image name: faces}``.
        heights_px: least height of each subset; they are named after it and their place.
    """
    truth = truth_of_faces(faces)
    (usable,) = truth.subsets.values()
    height_of = {name: boxes[:, 3] - boxes[:, 1] for name, boxes in truth.faces.items()}
    subsets = {
        f"{at}: {least:g} px": {name: usable[name] & (height >= least) for name, height in height_of.items()}
        for at, least in enumerate(heights_px)
    }
    return EvaluationTruth(truth.faces, subsets)


def load_mat_ground_truth(folder: Path) -> EvaluationTruth:
    """Read the four official ``.mat`` files of a folder.

    Args:
        folder: holds ``wider_face_val.mat``, ``wider_easy_val.mat``, ``wider_medium_val.mat`` and
            ``wider_hard_val.mat`` (``ground_truth/`` in the official ``eval_tools.zip``), v5 or v7.3.

    Returns:
        Image names are ``event/name.jpg``; subset lists are 1-based on disk and masks here.

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
    names = image_names(cells, path)
    boxes = [boxes_of(cell, path) for cell in images_of(cells, "face_bbx_list", path)]
    if len(boxes) != len(names) or len(set(names)) != len(names):
        raise DataError(f"{path}: file_list names {len(names)} images, face_bbx_list has boxes for {len(boxes)}")
    faces = dict(zip(names, boxes, strict=True))
    subsets = {s: _read_subset(folder / f"wider_{s}_val.mat", faces) for s in SUBSETS}
    return EvaluationTruth(faces, subsets)


_EXPECTED = f"a folder with {', '.join(MAT_FILES)} (ground_truth/ in the official eval_tools.zip), or a *_bbx_gt.txt"
_FIX = "copy it again from the official eval_tools.zip"


def _read_subset(path: Path, faces: Mapping[str, FloatArray]) -> dict[str, BoolArray]:
    cells = read_mat(path, ("event_list", "file_list", "gt_list"))
    names = image_names(cells, path)
    lists = images_of(cells, "gt_list", path)
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


def image_names(cells: Mapping[str, Cell], path: Path) -> list[str]:
    """``event/name.jpg`` of every image, in the official order, from ``event_list`` and ``file_list``."""
    events, files = cells["event_list"], cells["file_list"]
    if not isinstance(events, list) or not isinstance(files, list) or len(events) != len(files):
        raise DataError(f"{path}: expected event_list and file_list to be cell arrays of one length; {_FIX}")
    return [f"{event}/{file}.jpg" for event, group in zip(events, files, strict=True) for file in group]


def images_of(cells: Mapping[str, Cell], key: str, path: Path) -> list[Cell]:
    """A variable's cell of every image, in the official order."""
    events = cells[key]
    if not isinstance(events, list) or not all(isinstance(event, list) for event in events):
        raise DataError(f"{path}: expected {key} to be a cell array (events) of cell arrays (images); {_FIX}")
    return [image for event in events for image in event]


def boxes_of(cell: Cell, path: Path) -> FloatArray:
    """Boxes float64 [M, 4], ``x1, y1, x2, y2``, of one image's ``x y w h`` rows."""
    xywh = np.asarray(cell if isinstance(cell, np.ndarray) else np.nan, dtype=np.float64)
    if xywh.size == 0:
        return np.zeros((0, 4))
    if xywh.ndim != 2 or xywh.shape[1] != 4 or not np.isfinite(xywh).all():
        raise DataError(f"{path}: expected face_bbx_list to hold rows of 'x y w h', got shape {xywh.shape}; {_FIX}")
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


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

    with h5py.File(path, "r") as file:
        for key in keys:
            if key in file:
                yield key, _from_dataset(file[key], file)


def _from_dataset(dataset: h5py.Dataset, file: h5py.File) -> Cell:
    value = dataset[()]
    if dataset.attrs.get("MATLAB_empty", 0):  # the dataset then holds the shape
        return [] if dataset.attrs.get("MATLAB_class") == b"cell" else np.zeros((0, 0))
    if value.dtype == object:
        return [_from_dataset(file[reference], file) for reference in value.ravel()]
    if dataset.attrs.get("MATLAB_class") == b"char":
        return "".join(map(chr, value.ravel()))
    transposed: npt.NDArray[Any] = value.T
    return transposed
