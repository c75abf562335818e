"""The ground truth that protocols share: every annotated face, and the faces that each subset counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinygan.detections import BoolArray, FloatArray, GroundTruth
from tinygan.errors import DataError
from tinygan.formats import wider
from tinygan.formats.wider_mat import MAT_FILES, load_mat

_EXPECTED = f"a folder with {', '.join(MAT_FILES)} (ground_truth/ in the official eval_tools.zip), or a *_bbx_gt.txt"


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


def load_evaluation_truth(path: Path) -> EvaluationTruth:
    """Read the ground truth of the WIDER FACE protocol.

    Args:
        path: the folder with the official ``.mat`` files (subsets easy, medium, hard), or a
            ``*_bbx_gt.txt`` (one subset, ``all``).

    Returns:
        The faces of all images and the subsets.

    Raises:
        DataError: if the path is neither, or a file is absent, damaged or malformed.
    """
    if path.is_dir():
        return EvaluationTruth(*load_mat(path))
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
        faces: ``{image name: faces}``, e.g. from :func:`tinygan.formats.truths.load_faces`.
        subset: name of the subset.

    Returns:
        The faces and the subset.
    """
    boxes = {name: truth.boxes if len(truth) else np.zeros((1, 4)) for name, truth in faces.items()}
    members = {name: truth.usable if len(truth) else np.zeros(1, dtype=np.bool_) for name, truth in faces.items()}
    return EvaluationTruth(boxes, {subset: members})


def truth_by_height(faces: Mapping[str, GroundTruth], heights_px: Sequence[float]) -> EvaluationTruth:
    """As :func:`truth_of_faces`, with one subset per height: smaller faces are ignored.

    Args:
        faces: ``{image name: faces}``.
        heights_px: least height of a face in each subset, in pixels; a subset is named after it and its place.

    Returns:
        The faces and the subsets, in the order of ``heights_px``.
    """
    truth = truth_of_faces(faces)
    (usable,) = truth.subsets.values()
    height_of = {name: boxes[:, 3] - boxes[:, 1] for name, boxes in truth.faces.items()}
    subsets = {
        f"{at}: {least:g} px": {name: usable[name] & (height >= least) for name, height in height_of.items()}
        for at, least in enumerate(heights_px)
    }
    return EvaluationTruth(truth.faces, subsets)
