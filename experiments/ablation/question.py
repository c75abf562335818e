"""Does super-resolution help the judge, and for which faces? Areas under the ROC curve by size, paired over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.ablation.rows import ROWS
from tinygan.boxes import longer_side
from tinygan.data.rois import FACE, NON_FACE, RoiConfig, label_boxes
from tinygan.detections import FloatArray
from tinygan.files import write_atomically
from tinygan.training.fusion_fit import Truths
from tinygan.training.holdout import ByImage
from tinygan.training.samples import roc_area

BINS_PX = (0.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, np.inf)
PAIRS = (
    ("full", "no SR"),
    ("full", "no SR, wider D"),
    ("pairs + wild, no routing", "no SR, no routing"),
    ("pretrained D", "pretrained D, no SR"),
)
RESAMPLES, LEVEL = 500, 0.95
LABELS = RoiConfig(negative_iou=0.5)


def face_logit_columns(judged: ByImage, truths: Truths) -> dict[str, npt.NDArray[Any]]:
    """Judgements of proposals as columns of N rows: image number, longer side in px, label, face logit."""
    columns: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("image", "side", "label", "face")}
    for number, name in enumerate(sorted(judged)):
        one = judged[name]
        boxes = one.best.boxes
        rows = (
            np.full(len(boxes), number),
            longer_side(boxes),
            label_boxes(boxes, truths[name], LABELS),
            one.face_logits,
        )
        for column, values in zip(columns.values(), rows, strict=True):
            column.append(values)
    return {name: np.concatenate([np.zeros(0), *values]) for name, values in columns.items()}


def size_differences(out: Path, first: str, second: str, seeds: Sequence[int]) -> list[dict[str, float]]:
    """Area under the ROC curve of two rows' face logits by size, on the hold-out and WIDER_val together.

    Args:
        out: the folder of the runs.
        first: name of one row.
        second: name of the row that it is compared with.
        seeds: seeds with which both rows were trained; areas are averaged over them.

    Returns:
        For each size: both areas, their difference and its paired bootstrap interval over images, in points.
    """
    tables = {row: [_load(out, row, seed) for seed in seeds] for row in (first, second)}
    found = []
    for low, high in pairwise(BINS_PX):
        areas = {row: [_by_image(table, low, high) for table in those] for row, those in tables.items()}
        images = int(max(table["image"].max() for table in tables[first])) + 1
        whole = np.arange(images)
        values = [_mean_area(areas[row], whole) for row in (first, second)]
        if any(value is None for value in values):
            continue
        rng = np.random.default_rng(0)
        drawn = []
        for _ in range(RESAMPLES):
            chosen = rng.integers(0, images, images)
            pair = [_mean_area(areas[row], chosen) for row in (first, second)]
            if pair[0] is not None and pair[1] is not None:
                drawn.append(100 * (pair[0] - pair[1]))
        count = sum(len(face) for face, _ in areas[first][0].values())
        a, b = (100 * float(value) for value in values if value is not None)
        interval = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
        found.append(
            {"from": low, "to": high, "boxes": count, "first": a, "second": b, "points": a - b}
            | {"low": interval[0], "high": interval[1]}
        )
    return found


def write_table(out: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Write ``table.md``: each row as the mean over its seeds, then the pairs of rows compared by size."""
    lines = ["| row | GFLOP | easy | medium | hard | seeds (hard) | what |", "|---|---|---|---|---|---|---|"]
    lines.append("| baseline | 0 | 0 | 0 | 0 | | the detector alone |")
    for row in ROWS:
        of_row = [one for one in results if one["row"] == row.name]
        if not of_row:
            continue
        cells = []
        for subset in of_row[0]["val"]:
            mean = {key: np.mean([one["val"][subset][key] for one in of_row]) for key in ("points", "low", "high")}
            cells.append(f"{mean['points']:+.2f} [{mean['low']:+.2f}, {mean['high']:+.2f}]")
        last = list(of_row[0]["val"])[-1]
        each = " ".join(f"{one['val'][last]['points']:+.2f}" for one in of_row)
        cells += [""] * (3 - len(cells))
        lines.append(f"| {row.name} | {of_row[0]['giga_flops']:.3f} | {' | '.join(cells)} | {each} | {row.note} |")
    for first, second in PAIRS:
        seeds = sorted(
            {one["seed"] for one in results if one["row"] == first}
            & {one["seed"] for one in results if one["row"] == second}
        )
        seeds = [seed for seed in seeds if all(_judged(out, row, seed).is_dir() for row in (first, second))]
        if not seeds:
            continue
        lines += [
            "",
            f"**{first}** against **{second}**, area under the ROC curve of the face logit, seeds {seeds}:",
            "",
        ]
        lines += [f"| longer side | boxes | {first} | {second} | difference |", "|---|---|---|---|---|"]
        for one in size_differences(out, first, second, seeds):
            size = f"{one['from']:g} to {one['to']:g} px" if np.isfinite(one["to"]) else f"{one['from']:g} px and more"
            lines.append(
                f"| {size} | {one['boxes']} | {one['first']:.1f} | {one['second']:.1f} | "
                f"{one['points']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}] |"
            )
    write_atomically(out / "table.md", ("\n".join(lines) + "\n").encode())


ByNumber = dict[int, tuple[FloatArray, FloatArray]]  # {image number: (labels, face logits)}


def _judged(out: Path, row: str, seed: int) -> Path:
    return out / f"{row.replace(' ', '_').replace(',', '')}_{seed}" / "judged"


def _load(out: Path, row: str, seed: int) -> dict[str, npt.NDArray[Any]]:
    """The columns of both splits; the images of the second are numbered after those of the first."""
    folder = _judged(out, row, seed)
    parts = []
    for part in ("train", "val"):
        with np.load(folder / f"{part}.npz") as file:
            parts.append({name: file[name] for name in file.files})
    if len(parts[0]["image"]):
        parts[1]["image"] = parts[1]["image"] + parts[0]["image"].max() + 1
    return {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}


def _by_image(table: Mapping[str, npt.NDArray[Any]], low: float, high: float) -> ByNumber:
    inside = (table["side"] >= low) & (table["side"] < high) & np.isin(table["label"], (FACE, NON_FACE))
    order = np.flatnonzero(inside)
    numbers = table["image"][order].astype(int)
    return {
        number: (table["label"][order[numbers == number]], table["face"][order[numbers == number]])
        for number in np.unique(numbers).tolist()
    }


def _mean_area(seeds: Sequence[ByNumber], chosen: npt.NDArray[np.int64]) -> float | None:
    areas = []
    for by_number in seeds:
        there = [by_number[number] for number in chosen.tolist() if number in by_number]
        if not there:
            return None
        labels, logits = (np.concatenate(column) for column in zip(*there, strict=True))
        area = roc_area(logits, labels.astype(np.int64))
        if area is None:
            return None
        areas.append(area)
    return float(np.mean(areas))
