"""Trainings of a first stage that start from one set of weights and differ in a few settings, side by side.

Every column is the command ``tinygan-train-proposer`` as a user types it, for the same number of steps, then
``tinygan-propose`` on the images kept out. Finished columns are not repeated, and a training that was cut off goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.steps import do, training_figures
from proposals.cli import propose as propose_command
from proposals.cli import train as train_command
from tinygan.data.rois import split_holdout
from tinygan.evaluate.breakdown import break_down
from tinygan.evaluate.truth import truth_of_faces
from tinygan.evaluate.wider import evaluate_wider
from tinygan.files import write_atomically
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import load_split
from tinygan.training.prepare import match_proposals

RESULTS, TABLE = "results.json", "table.md"
HEADING = (
    "| column | AP at IoU .5 | points over the control | AP at IoU .7 | false positives at recall 50 / 80 % "
    "| recall of all boxes | seeds |"
)


@dataclass(frozen=True)
class Column:
    """A training.

    Attributes:
        name: name of the column, as printed.
        settings: ``section.key=value`` overrides of the common recipe.
        tables: the tables that the column is in.
        use: ``key=value`` overrides of ``tinygan-propose``, for columns that differ in thresholds.
    """

    name: str
    settings: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    use: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The name as part of a path."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.name)


class Bench:
    """Trains columns and measures them on the images kept out.

    Args:
        data: WIDER FACE root.
        out: folder of all runs, and of ``results.json``.
        holdout: the share of images that the recipe keeps out.
        images: number of images kept out that are searched, evenly spaced; 0: all.
        common: words that every training has, such as ``--config``.
        threads: CPU threads.
    """

    def __init__(
        self, data: Path, out: Path, holdout: float, images: int, common: Sequence[object], threads: int | None
    ) -> None:
        self.data, self.out = data, out
        self._common = [*common, "--data", data, *([] if threads is None else ["--threads", threads])]
        self._threads = [] if threads is None else ["--threads", threads]
        faces = load_split(data, "train").faces
        held = split_holdout(faces, holdout)[1]
        held = held[:: max(1, -(-len(held) // images))] if images else held
        self.faces = {name: faces[name] for name in held}

    def results(self) -> list[dict[str, Any]]:
        """What is measured so far, in order."""
        file = self.out / RESULTS
        found: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []
        return found

    def run(self, column: Column, seed: int) -> Path:
        """Run folder of a column."""
        return self.out / f"{column.folder}_{seed}"

    def do(self, column: Column, seed: int, init: Path) -> None:
        """Train and measure a column with a seed, unless that has been done.

        Args:
            column: the training.
            seed: its seed.
            init: the weights it starts from.
        """
        if any((one["column"], one["seed"]) == (column.name, seed) for one in self.results()):
            return
        run = self.run(column, seed)
        self.train(run, [*column.settings, f"seed={seed}"], ["--init", init])
        row = {"column": column.name, "seed": seed, **self.measure(run, column.use)}
        rest = [one for one in self.results() if (one["column"], one["seed"]) != (column.name, seed)]
        write_atomically(self.out / RESULTS, json.dumps([*rest, row], indent=1).encode())

    def train(self, run: Path, settings: Sequence[str], start: Sequence[object]) -> None:
        """Train to the end; what is finished is left."""
        if training_figures(run) is None:
            words = [word for setting in settings for word in ("--set", setting)]
            do(train_command.main, "tinygan-train-proposer", *self._common, *words, *start, "--out", run, "--resume")

    def measure(self, run: Path, use: Sequence[str] = ()) -> dict[str, Any]:
        """AP, false positives and recall on the images kept out."""
        found = run / "holdout.tar.gz"
        listed = run / "measured_on.txt"
        write_atomically(listed, "".join(f"{name}\n" for name in self.faces).encode())
        words = [word for setting in use for word in ("--set", setting)]
        do(propose_command.main, "tinygan-propose", "--weights", run, "--images", self.data / "WIDER_train/images",
           "--subset", listed, "--out", found, "--overwrite", *words, *self._threads)  # fmt: skip
        detections = match_proposals(open_detections(found), load_split(self.data, "train"))
        truth = truth_of_faces(self.faces)
        parts = break_down(evaluate_wider(detections, truth), truth, {})
        ((subset, by_iou),) = parts.by_iou.items()
        wrong = parts.false_positives[subset]
        figures = training_figures(run) or {}
        return {
            "steps": figures.get("steps"),
            "minutes": figures.get("minutes"),
            "ap_50": rounded(by_iou[0.5].ap),
            "ap_70": rounded(by_iou[0.7].ap),
            "false_positives_50": wrong[50],
            "false_positives_80": wrong[80],
            "recall": rounded(parts.recall_ceiling[subset]),
            "images": len(self.faces),
        }


def rounded(value: float) -> float | None:
    """Four digits, or None for a figure that cannot be told."""
    return round(float(value), 4) if np.isfinite(value) else None


def tabulate(results: Sequence[Mapping[str, Any]], columns: Sequence[Column], control: str) -> str:
    """Markdown: each table's columns, differences from the control, and what is noise.

    Args:
        results: from :meth:`Bench.results`.
        columns: those of the experiment, in order.
        control: name of the column that all others are compared with.

    Returns:
        One table for each of the columns' tables. A difference in AP within the spread of the control's seeds is noise.
    """
    aps = [one["ap_50"] for one in results if one["column"] == control]
    spread = 100 * (max(aps) - min(aps)) if len(aps) > 1 else None
    mean = float(np.mean(aps)) if aps else None
    lines = []
    for table in dict.fromkeys(table for column in columns for table in column.tables):
        lines += [f"\n## {table}\n", HEADING, "|---|---|---|---|---|---|---|"]
        for column in columns:
            rows = [one for one in results if one["column"] == column.name and table in column.tables]
            if rows:
                lines.append(_line(column.name, rows, mean, spread, column.name == control))
    said = "one seed alone: no noise is known" if spread is None else f"{spread:.2f} points: less is noise"
    return "\n".join([f"Spread of the control's seeds: {said}.", *lines]) + "\n"


def _line(
    name: str, rows: Sequence[Mapping[str, Any]], control: float | None, spread: float | None, is_control: bool
) -> str:
    def mean(key: str, form: str) -> str:
        values = [one[key] for one in rows]
        return "–" if any(value is None for value in values) else format(float(np.mean(values)), form)

    points = (
        "" if control is None or is_control else f"{100 * (np.mean([one['ap_50'] for one in rows]) - control):+.2f}"
    )
    noise = " (noise)" if points and spread is not None and abs(float(points)) <= spread else ""
    wrong = f"{mean('false_positives_50', ',.0f')} / {mean('false_positives_80', ',.0f')}"
    cells = [name, mean("ap_50", ".3f"), f"{points}{noise}", mean("ap_70", ".3f"), wrong, mean("recall", ".3f")]
    return f"| {' | '.join(cells)} | {len(rows)} |"
