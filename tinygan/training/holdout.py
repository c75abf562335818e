"""What the judge says of a detector's proposals in the hold-out images, kept in the run folder once it is known."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tinygan.detections import Detections
from tinygan.files import write_atomically
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import WiderSplit
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import Judged, Request, judge_images
from tinygan.training.prepare import match_proposals

log = logging.getLogger(__name__)

ByImage = Mapping[str, Judged]  # one detector's judged proposals by image name


def judge_proposals(
    judge: Judge,
    path: Path,
    split: WiderSplit,
    names: Sequence[str],
    batch_size: int,
    max_rois: int,
    unreadable: list[str],
    looks: int = 1,
) -> dict[str, Judged]:
    """One detector's best proposals in these images, judged.

    Args:
        judge: the networks.
        path: the detector's proposals.
        split: images and faces.
        names: images to judge; images without proposals are left out.
        batch_size: patches per forward pass.
        max_rois: proposals judged per image.
        unreadable: gets a line for every image that could not be read.
        looks: how often the judge looks at a box.
    """
    proposals = match_proposals(open_detections(path), split)
    best = {name: proposals[name].sorted()[:max_rois] for name in names if name in proposals}
    requests = (Request(name, split.images / name, detections) for name, detections in best.items())
    judged = {}
    for one in tqdm(
        judge_images(judge, requests, batch_size, looks=looks),
        total=len(best), desc="judging hold-out", unit="image", disable=None,
    ):  # fmt: skip
        if one.error is not None:
            log.warning("skipped: %s", one.error)
            if one.error not in unreadable:  # another detector's proposals may have met it
                unreadable.append(one.error)
            continue
        judged[one.name] = one
    return judged


def save_judged(file: Path, judged: ByImage) -> None:
    """Write judged proposals atomically as ``.npz``: per image ``x1 y1 x2 y2 score logit fx1 fy1 fx2 fy2``."""
    buffer = io.BytesIO()
    rows = {
        name: np.column_stack([one.best.boxes, one.best.scores, one.face_logits, one.boxes])
        for name, one in judged.items()
    }
    np.savez_compressed(buffer, **rows)  # type: ignore[arg-type]  # names of images are names of arrays
    write_atomically(file, buffer.getvalue())


def load_judged(file: Path) -> dict[str, Judged]:
    """Read back what :func:`save_judged` wrote."""
    with np.load(file) as rows:
        columns = {name: rows[name] for name in rows.files}
    return {
        name: Judged(name, Detections(table[:, :4], table[:, 4]), table[:, 5], table[:, 6:])
        for name, table in columns.items()
    }
