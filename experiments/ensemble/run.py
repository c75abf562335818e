"""What ``tinygan-rescore --search`` adds: detectors alone, re-scored, and joined with what the shipped stages find.

    python -m experiments.ensemble.run --data ROOT --split val --proposals P … --out runs/ensemble

Of the training images those are taken that ``lite`` was not trained on. Writes ``results.json`` and ``table.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from experiments.lite.report import Pair, Row, compare, truth_of
from tinygan.checkpoint import load_checkpoint, packaged_weights
from tinygan.cli import rescore as rescore_command
from tinygan.cli.common import SOME_SKIPPED
from tinygan.cli.tables import NONE, Table, ap, format_tables
from tinygan.detect.detector import LITE, FaceDetector
from tinygan.detections import Detections
from tinygan.files import write_atomically
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import WiderSplit, load_split
from tinygan.joining import join_detections
from tinygan.proposers import DEFAULT, choose_proposer
from tinygan.runtime import RuntimeOptions
from tinygan.second_stage.ensemble import LEAST_SCORE
from tinygan.training.prepare import match_proposals

ALONE, RESCORED, JOINED = "alone", "re-scored", "joined"
Found = Mapping[str, Detections]
Report = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Row]]]]  # way, IoU, detector, subset


def main(argv: Sequence[str] | None = None) -> int:
    """Search, re-score, join and compare; print the table and write it; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE root, official .mat files in eval/")
    parser.add_argument("--split", choices=["train", "val"], default="train")
    parser.add_argument("--proposals", type=Path, nargs="+", required=True, metavar="P", help="of one detector each")
    parser.add_argument("--precision", choices=["auto", "bf16", "32"], default="auto")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    options = RuntimeOptions(precision=arguments.precision, threads=1)
    weights = load_checkpoint(packaged_weights(LITE), ("fused",))
    split = load_split(arguments.data, arguments.split)
    names = [name for name in split.faces if not weights.was_trained_on(name)]
    searched = search(split, names, options)
    arguments.out.mkdir(parents=True, exist_ok=True)
    ways = {path.name.removesuffix(".tar.gz"): three_ways(path, split, names, searched, arguments.out, options)
            for path in arguments.proposals}  # fmt: skip
    truth = truth_of(arguments.data, split, names)
    report = {
        way: {f"IoU {iou:g}": compare(against_alone(ways, way), truth, names, iou) for iou in (0.5, 0.7)}
        for way in (RESCORED, JOINED)
    }
    own = compare({"the shipped stages": (searched, searched)}, truth, names)["the shipped stages"]
    table = format_tables([tabulate(report, own, len(names))], markdown=True)
    print(table)
    found = {"images": len(names), "split": arguments.split, "searched": own, **report}
    write_atomically(arguments.out / "results.json", (json.dumps(found, indent=1) + "\n").encode())
    write_atomically(arguments.out / "table.md", table.encode())
    return 0


def search(split: WiderSplit, names: Sequence[str], options: RuntimeOptions) -> dict[str, Detections]:
    """What both stages that ship find in images."""
    detector = FaceDetector.open(choose_proposer(DEFAULT), options=options)
    return {name: detector.detect(split.images / name, LEAST_SCORE) for name in tqdm(names, "searching", disable=None)}


def three_ways(
    path: Path, split: WiderSplit, names: Sequence[str], searched: Found, out: Path, options: RuntimeOptions
) -> dict[str, Found]:
    """One detector's boxes as they are, re-scored by the command that a user types, and joined with what was found."""
    subset, again = out / "images.txt", out / path.name.removesuffix(".tar.gz")
    write_atomically(subset, "".join(f"{name}\n" for name in names).encode())
    words = ["--proposals", str(path), "--images", str(split.images), "--subset", str(subset), "--out", str(again)]
    words += ["--precision", options.precision, "--threads", str(options.threads), "--overwrite"]
    words += ["--no-opinion"]  # as with --search, which brings more than one
    print("$ tinygan-rescore", *words, flush=True)
    if rescore_command.main(words) > SOME_SKIPPED:
        raise SystemExit("tinygan-rescore failed")
    given, rescored = ({**match_proposals(open_detections(one), split)} for one in (path, again))
    nothing = {name: Detections.empty() for name in names}
    return {
        ALONE: {name: given.get(name, nothing[name]) for name in names},
        RESCORED: {name: rescored.get(name, nothing[name]) for name in names},
        JOINED: {name: join_detections(rescored.get(name, nothing[name]), searched[name]) for name in names},
    }


def against_alone(ways: Mapping[str, Mapping[str, Found]], way: str) -> dict[str, Pair]:
    """What is compared, by detector."""
    return {name: (found[ALONE], found[way]) for name, found in ways.items()}


def tabulate(report: Report, own: Mapping[str, Row], images: int) -> Table:
    """A line per detector: AP of each subset alone, re-scored and joined, and what joining gains."""
    again, joined = (report[way]["IoU 0.5"] for way in (RESCORED, JOINED))
    lines = [["detector", *(cell for subset in own for cell in (subset, "points [95 %]"))]]
    for name, subsets in joined.items():
        cells = [name]
        for subset, row in subsets.items():
            if "before" in row:
                steps = (row["before"], again[name][subset]["after"], row["after"])
                cells.append(" / ".join(map(ap, steps)))
            else:
                cells.append(NONE)
            cells.append(f"{row['points']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]")
        lines.append(cells)
    lines.append(["both stages that ship", *(cell for row in own.values() for cell in (ap(row["after"]), ""))])
    return Table(f"exact AP on {images} images: {ALONE} / {RESCORED} / {JOINED}, points joined against alone", lines)


if __name__ == "__main__":
    raise SystemExit(main())
