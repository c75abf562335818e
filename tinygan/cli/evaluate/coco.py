"""``tinygan-evaluate coco``: the COCO protocol, with room for crowds."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tinygan.cli.common import add_example
from tinygan.cli.evaluate.files import (
    add_images_option,
    add_input_options,
    add_report_options,
    check_outputs,
    describe_inputs,
    read_inputs,
    warn,
    write_json,
)
from tinygan.cli.options import positive_int
from tinygan.cli.tables import Table, ap, format_tables, points
from tinygan.formats.truths import GROUND_TRUTHS, load_faces

if TYPE_CHECKING:
    from tinygan.evaluate.coco import CocoResult

EXAMPLE = "tinygan-evaluate coco --detections D --ground-truth annotations.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the protocol's options."""
    parser.description = "The COCO protocol, by faster-coco-eval (pip install 'tinygan[coco]')."
    parser.set_defaults(body=run)
    add_example(parser, EXAMPLE)
    add_input_options(parser, f"{GROUND_TRUTHS}; faces marked invalid are ignored")
    add_images_option(parser)
    parser.add_argument(
        "--max-detections",
        type=positive_int,
        default=1000,
        metavar="N",
        help="count the best N boxes per image (default: 1000; COCO's own 100 would cut off crowds)",
    )
    add_report_options(parser, plot=None)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and report; returns the exit code."""
    check_outputs(arguments)
    from tinygan.evaluate.coco import evaluate_coco

    skipped: list[str] = []
    faces = load_faces(arguments.ground_truth, arguments.images, arguments.category, skipped)
    inputs = read_inputs(arguments, {name: truth.boxes for name, truth in faces.items()}, skipped)
    results = {
        role: evaluate_coco(source.detections, faces, inputs.names, arguments.max_detections)
        for role, source in inputs.sources.items()
    }
    print(format_tables([_tabulate(results)], arguments.markdown))
    if arguments.json is not None:
        report = describe_inputs("coco", arguments, inputs)
        report["max_detections"] = arguments.max_detections
        for role, result in results.items():
            report[role] = {**inputs.sources[role].described(), "faces": result.faces, "figures": result.figures}
        write_json(arguments.json, report)
    return warn(inputs)


def _tabulate(results: Mapping[str, CocoResult]) -> Table:
    result, baseline = results["detections"], results.get("baseline")
    title = f"COCO protocol, {len(result.names):,} images, {result.faces:,} faces, {result.boxes:,} boxes"
    note = f"at most {result.max_detections:,} boxes per image; small: below 32 x 32 px, medium: to 96 x 96 px"
    if baseline is None:
        rows = [["measure", "value"], *([name, ap(value)] for name, value in result.figures.items())]
        return Table(title, rows, note)
    rows = [["measure", "before", "after", "difference"]]
    for name, value in result.figures.items():
        before = baseline.figures[name]
        rows.append([name, ap(before), ap(value), points(value - before)])
    return Table(f"{title} (baseline: {baseline.boxes:,})", rows, note)
