"""Landmarks predicted by a teacher, in the format of RetinaFace's ``label.txt``, as WIDER-mini has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from proposals.retinaface import RetinaFaceConfig, build_retinaface
from tinygan.boxes import iou
from tinygan.detections import Detections, FloatArray, GroundTruth
from tinygan.files import write_atomically
from tinygan.formats.images import read_image
from tinygan.formats.wider import load_split
from tinygan.runtime import Runtime

SURE, SAME_FACE = 0.5, 0.5


def write_landmarks(root: Path, weights: Path, out: Path, runtime: Runtime) -> int:
    """Search the training images and write the landmarks of the faces that the teacher is sure of.

    Args:
        root: a WIDER FACE root.
        weights: file of the teacher's weights, a RetinaFace-MobileNet0.25.
        out: the ``label.txt`` to write.
        runtime: the device and the precision.

    Returns:
        Number of faces with landmarks.
    """
    teacher = build_retinaface(RetinaFaceConfig(score_threshold=SURE), weights, runtime)
    split, lines, count = load_split(root, "train"), [], 0
    for name, truth in split.faces.items():
        pixels = np.array(read_image(split.images / name))
        (found,) = teacher.propose([torch.from_numpy(pixels).permute(2, 0, 1)])
        rows = list(landmark_rows(found, truth))
        count += len(rows)
        lines += [f"# {name}", *rows]
    write_atomically(out, ("\n".join(lines) + "\n").encode())
    return count


def landmark_rows(found: Detections, truth: GroundTruth) -> list[str]:
    """One line per face whose best detection overlaps it well."""
    if not len(found) or not len(truth):
        return []
    overlaps = iou(truth.boxes, found.boxes)
    rows = []
    for face, row in enumerate(overlaps):
        at = int(row.argmax())
        if truth.usable[face] and row[at] >= SAME_FACE:
            box = truth.boxes[face]
            points: FloatArray = found.fields["landmarks"][at].reshape(5, 2)
            numbers = [*box[:2], *(box[2:] - box[:2])]
            texts = [f"{value:g}" for value in numbers] + [f"{x:.2f} {y:.2f} 0" for x, y in points]
            rows.append(" ".join([*texts, f"{found.scores[at]:.3f}"]))
    return rows
