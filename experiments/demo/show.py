"""The first look: both stages that ship, on tiny faces of known place. ``make demo`` runs it.

    python -m experiments.demo.show --out runs/demo

Takes less than a minute on two cores; nothing is trained. There are two sets of pictures: a wall of photographs of two
real people, shrunk, and crowds of the sample set, which are drawn. It prints what the first stage finds alone and what
both stages find, and writes pictures of that, which are opened on a desktop.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.demo.crowd import draw_scene
from experiments.demo.photos import load_photos
from experiments.demo.wall import draw_wall
from tinygan.cli.tables import Table, ap, format_tables, points
from tinygan.detect.detector import LITE, fitted_fusion
from tinygan.detections import Detections, GroundTruth
from tinygan.evaluate.curves import kept_at_precision
from tinygan.evaluate.truth import truth_of_faces
from tinygan.evaluate.wider import WiderResult, evaluate_wider
from tinygan.pictures import before_after, save_png
from tinygan.proposers import DEFAULT, choose_proposer, to_tensor
from tinygan.runtime import RuntimeOptions
from tinygan.second_stage.stage import SecondStage

CROWDS, PRECISION = 6, 0.9


@dataclass(frozen=True)
class Shown:
    """One picture: its faces, and what was found before and after the second stage."""

    image: Image.Image
    truth: GroundTruth
    before: Detections
    after: Detections


def main(argv: Sequence[str] | None = None) -> int:
    """Find the faces, print the table, write and open the pictures; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--crowds", type=int, default=CROWDS, help=f"number of drawn crowds (default: {CROWDS})")
    parser.add_argument("--no-open", action="store_true", help="do not open the picture on the desktop")
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    print("finding tiny faces with the two stages that ship", flush=True)
    wall = draw_wall()
    photos, scenes = load_photos("val"), []
    for number in range(arguments.crowds):
        scene = draw_scene(photos, np.random.default_rng([0, 1, number]))  # as in the sample crowd set
        scenes.append((Image.fromarray(scene.image), scene.truth))
    found = find_faces([(wall.image, wall.truth), *scenes])
    sets = {"real people, shrunk": found[:1], "drawn crowds": found[1:]}
    print(format_tables([tabulate({name: shown for name, shown in sets.items() if shown})], markdown=False))
    pictures = _write(arguments.out, sets)
    print(f"{time.monotonic() - started:.0f} s. Pictures:", *(str(path) for path in pictures), sep="\n  ")
    if not arguments.no_open:
        open_picture(pictures[0], os.environ)
    return 0


def find_faces(pictures: Sequence[tuple[Image.Image, GroundTruth]]) -> list[Shown]:
    """Run both stages as ``tinygan-detect`` does, and keep what the first one proposed."""
    choice = choose_proposer(DEFAULT)
    first = choice.build(choice.runtime(RuntimeOptions()))
    second = SecondStage(LITE, fusion=fitted_fusion(choice.weights))
    shown = []
    for image, truth in pictures:
        (before,) = first.propose([to_tensor(image)])
        shown.append(Shown(image, truth, before, second.rescore(image, before)))
    return shown


def tabulate(sets: Mapping[str, Sequence[Shown]]) -> Table:
    """Before and after, for each set of pictures: exact AP, and the share of faces found at equal precision."""
    rows = [["", "faces", "median height", "AP before", "after", "points", "found before", "after"]]
    for name, shown in sets.items():
        truth = truth_of_faces({str(at): one.truth for at, one in enumerate(shown)})
        before = evaluate_wider({str(at): one.before for at, one in enumerate(shown)}, truth)
        after = evaluate_wider({str(at): one.after for at, one in enumerate(shown)}, truth)
        boxes = np.concatenate([one.truth.boxes[one.truth.usable] for one in shown])
        height = f"{np.median(boxes[:, 3] - boxes[:, 1]):.0f} px"
        first, second = before.subsets["all"].ap_exact, after.subsets["all"].ap_exact
        shares = [f"{100 * _recall(result):.0f} %" for result in (before, after)]
        rows.append([name, str(len(boxes)), height, ap(first), ap(second), points(second - first), *shares])
    note = f"found: share of the faces, where {100 * PRECISION:.0f} % of the boxes are faces"
    return Table("\nbefore (first stage) and after (with the second stage)", rows, note)


def _write(out: Path, sets: Mapping[str, Sequence[Shown]]) -> list[Path]:
    """One picture per set, its first one, with the boxes that are kept at the precision of the table."""
    written = []
    for name, (shown, *_) in ((name, shown) for name, shown in sets.items() if shown):
        truth = truth_of_faces({"": shown.truth})
        before, after = (
            found.sorted()[: _kept(evaluate_wider({"": found}, truth))] for found in (shown.before, shown.after)
        )
        drawn = before_after(np.asarray(shown.image), before, after, shown.truth, max(len(before), len(after)))
        written.append(out / f"{name.replace(',', '').replace(' ', '_')}.png")
        save_png(drawn, written[-1])
    return written


def _kept(result: WiderResult) -> int:
    """How many of the best boxes are kept at the precision."""
    outcomes = result.subsets["all"].outcomes
    return int(kept_at_precision(outcomes, np.ones((len(outcomes.faces), 1)), PRECISION)[0])


def _recall(result: WiderResult) -> float:
    outcomes = result.subsets["all"].outcomes
    return float(outcomes.hits[: _kept(result)].sum()) / outcomes.positives if outcomes.positives else float("nan")


def open_picture(path: Path, environment: Mapping[str, str]) -> bool:
    """Show a picture in the desktop's viewer; where there is no desktop, do nothing.

    Args:
        path: the picture.
        environment: of the process; a picture is opened where it has ``DISPLAY`` or ``WAYLAND_DISPLAY``, and no ``CI``.

    Returns:
        Whether a viewer was started.
    """
    viewer = shutil.which("xdg-open", path=environment.get("PATH"))
    if "CI" in environment or not environment.keys() & {"DISPLAY", "WAYLAND_DISPLAY"} or viewer is None:
        return False
    quiet = subprocess.DEVNULL
    started = subprocess.Popen([viewer, str(path)], stdout=quiet, stderr=quiet, start_new_session=True)
    threading.Thread(target=started.wait, daemon=True).start()  # some viewers stay until they are closed
    return True


if __name__ == "__main__":
    raise SystemExit(main())
