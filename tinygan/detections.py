"""The two types that all modules share: the detections and the true faces of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.uint8]
Index = slice | npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Detections:
    """The boxes a detector found in one image.

    Attributes:
        boxes: float64 [N, 4], ``x1, y1, x2, y2`` in pixels of the original image, x2/y2 exclusive.
        scores: float64 [N], on any finite scale; a larger score means more likely a face.
        fields: further columns of N rows each, such as ``proposal_score`` and ``face_logit``.

    Raises:
        ValueError: if shapes disagree or a number is not finite.
    """

    boxes: FloatArray
    scores: FloatArray
    fields: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        boxes = _boxes(self.boxes)
        scores = np.asarray(to_numpy(self.scores), dtype=np.float64).reshape(-1)
        if len(scores) != len(boxes):
            raise ValueError(f"got {len(boxes)} boxes but {len(scores)} scores")
        if not np.isfinite(scores).all():
            raise ValueError("scores must be finite")
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "fields", _columns(self.fields, len(boxes)))

    @classmethod
    def empty(cls) -> Detections:
        """No detections: boxes [0, 4], scores [0]."""
        return cls(np.zeros((0, 4)), np.zeros(0))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Index) -> Detections:
        """Rows chosen by a slice, a boolean mask or an array of positions."""
        columns = {name: column[index] for name, column in self.fields.items()}
        return Detections(self.boxes[index], self.scores[index], columns)

    def sorted(self) -> Detections:
        """The same rows by falling score; equal scores keep their order."""
        return self[np.argsort(-self.scores, kind="stable")]

    def with_fields(self, **columns: npt.NDArray[Any]) -> Detections:
        """The same rows with further (or replaced) columns."""
        return replace(self, fields={**self.fields, **columns})


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The annotated faces of one image.

    Attributes:
        boxes: float64 [M, 4], ``x1, y1, x2, y2`` in pixels, x2/y2 exclusive. Some may have no area.
        invalid: bool [M]; faces marked invalid are *ignored*: neither positive nor negative.
        fields: attribute columns of M rows each, such as ``blur``, ``occlusion`` and ``pose``.

    Raises:
        ValueError: if shapes disagree or a number is not finite.
    """

    boxes: FloatArray
    invalid: BoolArray
    fields: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        boxes = _boxes(self.boxes)
        invalid = np.asarray(self.invalid, dtype=np.bool_).reshape(-1)
        if len(invalid) != len(boxes):
            raise ValueError(f"got {len(boxes)} boxes but {len(invalid)} invalid flags")
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "invalid", invalid)
        object.__setattr__(self, "fields", _columns(self.fields, len(boxes)))

    @classmethod
    def empty(cls) -> GroundTruth:
        """An image without faces."""
        return cls(np.zeros((0, 4)), np.zeros(0, dtype=np.bool_))

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def usable(self) -> BoolArray:
        """bool [M]: faces that may be training targets: not invalid, and with a positive area."""
        size = self.boxes[:, 2:] - self.boxes[:, :2]
        usable: BoolArray = ~self.invalid & (size > 0).all(axis=1)
        return usable


def to_numpy(values: Any) -> npt.NDArray[Any]:
    """An array of anything array-like, also of torch's tensors on any device, with a gradient or in bfloat16.

    Raises:
        ValueError: if rows differ in length.
        TypeError: if it is no array.
    """
    if hasattr(values, "detach"):  # torch itself is not imported here
        tensor = values.detach().cpu()
        try:
            array: npt.NDArray[Any] = tensor.numpy()
        except TypeError:  # NumPy knows no bfloat16
            array = tensor.float().numpy()
        return array
    try:
        return np.asarray(values)
    except (RuntimeError, TypeError):  # a list of such tensors
        if not isinstance(values, list | tuple):
            raise
        return np.asarray([to_numpy(value) for value in values])


def _boxes(values: object) -> FloatArray:
    boxes = np.asarray(to_numpy(values), dtype=np.float64)
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape [N, 4], got {list(boxes.shape)}")
    if not np.isfinite(boxes).all():
        raise ValueError("boxes must be finite")
    return boxes


def _columns(fields: Mapping[str, Any], rows: int) -> dict[str, npt.NDArray[Any]]:
    columns = {name: to_numpy(column) for name, column in fields.items()}
    for name, column in columns.items():
        if len(column) != rows:
            raise ValueError(f"field {name!r} has {len(column)} rows, expected {rows}")
    return columns
