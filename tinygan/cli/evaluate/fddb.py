"""``tinygan-evaluate fddb``: the FDDB protocol, discrete and continuous ROC."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan.cli.common import add_example
from tinygan.cli.evaluate.files import (
    add_input_options,
    add_report_options,
    check_outputs,
    describe_inputs,
    read_inputs,
    warn,
    write_json,
)
from tinygan.cli.options import positive_int
from tinygan.cli.tables import Table, format_tables

if TYPE_CHECKING:
    from tinygan.evaluate.fddb import FddbResult
    from tinygan.evaluate.plots import RocLine
    from tinygan.formats.fddb import RocPoints

_SHOWN_AT = 1000  # false positives at which the legend's rates are read, as in RefineFace's Figure 11; Bai et al.: 500

EXAMPLE = "tinygan-evaluate fddb --detections D --ground-truth FDDB-folds --images DIR"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the protocol's options."""
    parser.description = "The FDDB protocol: true positive rate at 500, 1,000 and 2,000 false positives."
    parser.set_defaults(body=run)
    add_example(parser, EXAMPLE)
    add_input_options(parser, "the folder FDDB-folds, or one *ellipseList.txt")
    add = parser.add_argument
    add(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder of FDDB's images; boxes are cut to their sizes, as the official program does",
    )
    add(
        "--ellipses",
        action="store_true",
        help="turn boxes into ellipses, which raises the continuous score (not official)",
    )
    add(
        "--curves",
        type=Path,
        metavar="DIR",
        help="folder of published curves (*DiscROC.txt, *ContROC.txt) to add to --plot",
    )
    add_report_options(parser, plot="draw the ROC curves")
    add(
        "--at",
        type=positive_int,
        default=_SHOWN_AT,
        metavar="N",
        help=f"--plot: false positives at which the legend's rates are read (default: {_SHOWN_AT})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and report; returns the exit code."""
    check_outputs(arguments)
    from tinygan.evaluate.fddb import evaluate_fddb, roc_report
    from tinygan.evaluate.published import load_published_rocs
    from tinygan.formats.fddb import bounding_boxes, load_folds

    truth = load_folds(arguments.ground_truth)
    published = {} if arguments.curves is None else load_published_rocs(arguments.curves)
    inputs = read_inputs(arguments, {name: bounding_boxes(rows) for name, rows in truth.ellipses.items()})
    skipped: list[str] = []
    sizes = {} if arguments.images is None else image_sizes(arguments.images, inputs.names, skipped)
    inputs = replace(inputs, skipped=skipped)
    results = {
        role: evaluate_fddb(source.detections, truth, inputs.names, sizes, arguments.ellipses)
        for role, source in inputs.sources.items()
    }
    print(format_tables([_tabulate(role, result, arguments) for role, result in results.items()], arguments.markdown))
    if arguments.json is not None:
        report = {**describe_inputs("fddb", arguments, inputs), "boxes_as_ellipses": arguments.ellipses}
        for role, result in results.items():
            report[role] = {**inputs.sources[role].described(), **roc_report(result)}
        write_json(arguments.json, report)
    if arguments.plot is not None:
        _write_plot(arguments.plot, results, published, arguments.at)
    return warn(inputs)


def image_sizes(folder: Path, names: Sequence[str], skipped: list[str]) -> dict[str, tuple[int, int]]:
    """Width and height of every picture found, upright as boxes are, from its header; others get a line.

    Args:
        folder: the pictures, at any depth.
        names: those of the ground truth.
        skipped: gets a line for each picture whose size cannot be read.
    """
    from tinygan.errors import DataError
    from tinygan.formats.names import list_images, match_names
    from tinygan.formats.sizes import read_size

    pictures = match_names(list_images(folder), names, str(folder))
    sizes = {}
    for name, file in pictures.items():
        try:
            sizes[name] = read_size(folder / file)
        except DataError as error:
            skipped.append(f"{error}; its size counts as unknown")
    return sizes


def _tabulate(role: str, result: FddbResult, arguments: argparse.Namespace) -> Table:
    from tinygan.evaluate.fddb import UNREACHED_NOTE, roc_table

    shape = ", boxes turned into ellipses" if arguments.ellipses else ""
    title = f"FDDB protocol, {role}{shape}: true positive rate"
    rows = roc_table(result)
    notes = [UNREACHED_NOTE] if any("*" in cell for row in rows for cell in row) else []
    if result.unsized:
        size = result.assumed_size
        clip = f"{size[0]} x {size[1]} px" if size is not None else "x, y >= 0 alone"
        notes.append(f"{result.unsized:,} images of unknown size, clipped to {clip}; --images DIR gives their sizes")
    return Table(title, rows, "; ".join(notes))


def _write_plot(
    path: Path, results: Mapping[str, FddbResult], published: Mapping[str, Mapping[str, RocPoints]], at: int
) -> None:
    from tinygan.evaluate.plots import draw_rocs
    from tinygan.files import write_atomically

    images = results["detections"].merged.images
    panels = {kind: _lines(kind, results, published.get(kind, {}), at) for kind in ("discrete", "continuous")}
    title = f"FDDB protocol, {images:,} images; rates at {at:,} false positives"
    write_atomically(path, draw_rocs(panels, title))


def _lines(kind: str, results: Mapping[str, FddbResult], published: Mapping[str, RocPoints], at: int) -> list[RocLine]:
    from tinygan.evaluate.plots import RocLine

    labels = {"detections": "after", "baseline": "before"} if len(results) > 1 else {"detections": "detections"}
    lines = []
    for role, label in labels.items():
        merged = results[role].merged
        curve = merged.discrete if kind == "discrete" else merged.continuous
        false_positives = curve.false_positives.astype(float)
        lines.append(RocLine(label, false_positives, curve.tpr, curve.at(at).tpr))
    for method, points in published.items():
        within = points.tpr[points.false_positives <= at]
        value = float(within.max(initial=0.0))
        lines.append(RocLine(method, points.false_positives, points.tpr, value, published=True))
    return lines
