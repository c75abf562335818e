"""``tinygan-evaluate voc``: the Pascal VOC protocol, for AFW, PASCAL Face and MAFA."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan.cli.common import add_example
from tinygan.cli.evaluate.files import (
    BOOTSTRAP,
    LEVEL,
    RESAMPLES,
    SEED,
    Inputs,
    add_images_option,
    add_input_options,
    add_report_options,
    check_outputs,
    describe_difference,
    describe_inputs,
    read_inputs,
    warn,
    write_json,
)
from tinygan.cli.tables import Table, ap, count, format_tables, interval, points
from tinygan.errors import ConfigError
from tinygan.formats.truths import GROUND_TRUTHS, load_faces

if TYPE_CHECKING:
    from tinygan.detections import GroundTruth
    from tinygan.evaluate.curves import Difference
    from tinygan.evaluate.voc import VocResult

UNMASKED, MASKED = "face", "face_mask"  # classes of MAFA's annotations in XML
EXAMPLE = "tinygan-evaluate voc --detections D --ground-truth XML"
_NOTE = f"difference: all-point AP in points, interval by paired bootstrap ({RESAMPLES:,} draws of the images)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the protocol's options."""
    parser.description = "The Pascal VOC protocol at IoU 0.5: all-point and eleven-point average precision."
    parser.set_defaults(body=run)
    add_example(parser, EXAMPLE)
    add_input_options(parser, f"{GROUND_TRUTHS}; faces marked invalid or difficult are ignored")
    add_images_option(parser)
    parser.add_argument(
        "--mafa",
        action="store_true",
        help=f"MAFA's subsets whole, masked and unignored; needs XML with the classes '{UNMASKED}' and '{MASKED}'",
    )
    add_report_options(parser, plot="draw the precision-recall curves")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and report; returns the exit code."""
    check_outputs(arguments)
    from tinygan.evaluate.voc import compare_voc, evaluate_voc, mafa_truth, voc_truth

    if arguments.mafa and arguments.category:
        raise ConfigError(f"--mafa counts the classes '{UNMASKED}' and '{MASKED}'; leave --category out")
    skipped: list[str] = []
    if arguments.mafa:
        truth = mafa_truth(_read_mafa(arguments.ground_truth))
    else:
        truth = voc_truth(load_faces(arguments.ground_truth, arguments.images, arguments.category, skipped))
    inputs = read_inputs(arguments, truth.faces, skipped)
    results = {role: evaluate_voc(source.detections, truth, inputs.names) for role, source in inputs.sources.items()}
    result, baseline = results["detections"], results.get("baseline")
    differences = {} if baseline is None else compare_voc(baseline, result, RESAMPLES, SEED, LEVEL)

    print(format_tables([_tabulate(result, baseline, differences)], arguments.markdown))
    if arguments.json is not None:
        write_json(arguments.json, _describe(arguments, inputs, results, differences))
    if arguments.plot is not None:
        _write_plot(arguments.plot, inputs, results)
    return warn(inputs)


def _read_mafa(folder: Path) -> dict[str, GroundTruth]:
    from tinygan.evaluate.voc import mark_masked
    from tinygan.formats.voc import load_voc

    return mark_masked(load_voc(folder, (UNMASKED,)), load_voc(folder, (MASKED,)))


def _tabulate(result: VocResult, baseline: VocResult | None, differences: Mapping[str, Difference]) -> Table:
    title = f"Pascal VOC protocol, {len(result.names):,} images, {result.boxes:,} boxes"
    heading = ["subset", "faces", "AP (all-point)", "AP (11-point)"]
    if baseline is not None:
        title += f" (baseline: {baseline.boxes:,})"
        heading = ["subset", "faces", "AP before", "after", "11-point before", "after", "difference", "95 %"]
    rows = [heading]
    for name, subset in result.subsets.items():
        row = [name, count(subset.faces)]
        if baseline is None:
            row += [ap(subset.ap), ap(subset.ap_11)]
        else:
            before, change = baseline.subsets[name], differences[name]
            row += [ap(before.ap), ap(subset.ap), ap(before.ap_11), ap(subset.ap_11)]
            row += [points(change.value), interval(change.low, change.high)]
        rows.append(row)
    return Table(title, rows, "" if baseline is None else _NOTE)


def _describe(
    arguments: argparse.Namespace,
    inputs: Inputs,
    results: Mapping[str, VocResult],
    differences: Mapping[str, Difference],
) -> dict[str, object]:
    report = describe_inputs("voc", arguments, inputs)
    for role, result in results.items():
        subsets = {n: {"faces": s.faces, "ap": s.ap, "ap_11": s.ap_11} for n, s in result.subsets.items()}
        report[role] = {**inputs.sources[role].described(), "subsets": subsets}
    if differences:
        report["difference"] = {
            "measure": "ap, detections minus baseline, in points (1/100)",
            "bootstrap": BOOTSTRAP,
            "subsets": {name: describe_difference(difference) for name, difference in differences.items()},
        }
    return report


def _write_plot(path: Path, inputs: Inputs, results: Mapping[str, VocResult]) -> None:
    from tinygan.evaluate.plots import Line, draw_curves
    from tinygan.files import write_atomically

    labels = {"detections": "after", "baseline": "before"} if len(results) > 1 else {"detections": "detections"}
    panels = {
        f"{name} ({subset.faces:,} faces)": [
            Line(label, results[role].subsets[name].curve, results[role].subsets[name].ap)
            for role, label in labels.items()
        ]
        for name, subset in results["detections"].subsets.items()
    }
    write_atomically(path, draw_curves(panels, f"Pascal VOC protocol, {len(inputs.names):,} images"))
