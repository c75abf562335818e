"""``tinygan-evaluate wider``: the official WIDER FACE protocol, and why its figures moved."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan.cli.common import add_example
from tinygan.cli.evaluate.details import describe_details, measure_details, tabulate_details
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
from tinygan.cli.evaluate.groups import PRECISION, check_groups, describe_groups, measure_groups, tabulate_groups
from tinygan.cli.options import share
from tinygan.cli.tables import NONE, Table, ap, count, format_tables, interval, points
from tinygan.errors import ConfigError, DataError
from tinygan.formats.truths import GROUND_TRUTHS

if TYPE_CHECKING:
    from tinygan.evaluate.curves import Difference
    from tinygan.evaluate.plots import Line
    from tinygan.evaluate.published import PublishedCurve
    from tinygan.evaluate.truth import EvaluationTruth
    from tinygan.evaluate.wider import WiderResult

_PUBLISHED_IMAGES = 3226
_PUBLISHED_NOTE = f"published curves: all {_PUBLISHED_IMAGES:,} images"
Published = Mapping[str, "Sequence[PublishedCurve]"]
EXAMPLE = "tinygan-evaluate wider --detections rescored --ground-truth EVAL --baseline P"
DIFFERENCE_NOTE = f"difference: exact AP in points, interval by paired bootstrap ({RESAMPLES:,} draws of the images)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the protocol's options."""
    parser.description = "The official WIDER FACE protocol, with an exact AP beside the official binned one."
    parser.set_defaults(body=run)
    add_example(parser, EXAMPLE)
    add_input_options(
        parser,
        f"folder with wider_{{face,easy,medium,hard}}_val.mat; or, with one subset (all), {GROUND_TRUTHS}",
    )
    add_images_option(parser)
    parser.add_argument(
        "--details",
        action="store_true",
        help="also print AP by IoU threshold, face height, blur, occlusion, pose and illumination, false positives by "
        "recall, and the recall ceiling",
    )
    parser.add_argument(
        "--groups",
        type=Path,
        metavar="CSV",
        help="also print recall at equal precision by group of faces: a table with the columns image, face (row of the "
        "image's boxes, from 0) and any attributes",
    )
    parser.add_argument(
        "--precision",
        type=share,
        metavar="P",
        help=f"with --groups: the precision on all valid faces at which recall is compared (default: {PRECISION})",
    )
    parser.add_argument(
        "--curves",
        type=Path,
        metavar="DIR",
        help="folder of published curves (wider_pr_info_*_val.mat) to set beside the figures",
    )
    add_report_options(parser, plot="draw the precision-recall curves")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and report; returns the exit code."""
    check_outputs(arguments)
    check_groups(arguments)
    from tinygan.evaluate.wider import compare_wider, evaluate_wider
    from tinygan.formats.truths import load_faces

    skipped: list[str] = []
    truth = load_truth(arguments, skipped)
    published = _load_published(arguments.curves, truth)
    inputs = read_inputs(arguments, truth.faces, skipped)
    results = {role: evaluate_wider(source.detections, truth, inputs.names) for role, source in inputs.sources.items()}
    result, baseline = results["detections"], results.get("baseline")
    differences = {} if baseline is None else compare_wider(baseline, result, RESAMPLES, SEED, LEVEL)
    details = measure_details(arguments.ground_truth, truth, results) if arguments.details else None
    groups = None
    if arguments.groups is not None:
        faces = load_faces(arguments.ground_truth, arguments.images, arguments.category, list[str]())  # told of above
        groups = measure_groups(arguments.groups, arguments.precision, faces, results)

    tables = [_tabulate(result, baseline, differences)]
    tables += [] if details is None else tabulate_details(details)
    tables += [] if groups is None else [tabulate_groups(groups)]
    tables += [_tabulate_published(published, results)] if published else []
    print(format_tables(tables, arguments.markdown))
    if arguments.json is not None:
        report = _describe(arguments, inputs, results, differences, published)
        report |= {} if details is None else {"details": describe_details(details)}
        report |= {} if groups is None else {"groups": describe_groups(arguments, groups)}
        write_json(arguments.json, report)
    if arguments.plot is not None:
        _write_plot(arguments.plot, inputs, results, published)
    return warn(inputs)


def load_truth(arguments: argparse.Namespace, skipped: list[str]) -> EvaluationTruth:
    """The faces and subsets of ``--ground-truth``.

    Args:
        arguments: parsed, with ``ground_truth``, ``images``, ``category`` and ``details``.
        skipped: gets a line for everything in the ground truth that was left out.
    """
    from tinygan.evaluate.truth import load_evaluation_truth, truth_of_faces
    from tinygan.formats.truths import find_truth, is_tools, load_faces

    path, images = find_truth(arguments.ground_truth), arguments.images
    is_official = any(path.glob("*.mat")) if path.is_dir() else not is_tools(path)
    if is_official:
        return load_evaluation_truth(path)
    if arguments.details:
        raise ConfigError(f"--details needs attributes such as blur and pose, which {path} lacks; leave it out")
    return truth_of_faces(load_faces(path, images, arguments.category, skipped))


def _load_published(folder: Path | None, truth: EvaluationTruth) -> Published:
    from tinygan.evaluate.published import load_published_curves

    if folder is None:
        return {}
    found = load_published_curves(folder)
    published = {subset: found[subset] for subset in truth.subsets if subset in found}
    if not published:
        raise DataError(
            f"--curves {folder}: its curves are of the official subsets, but this ground truth has "
            f"{', '.join(truth.subsets)}; give the folder with the official .mat files as --ground-truth"
        )
    return published


def _tabulate(result: WiderResult, baseline: WiderResult | None, differences: Mapping[str, Difference]) -> Table:
    title = f"WIDER FACE protocol, {len(result.names):,} images, {result.boxes:,} boxes"
    heading = ["subset", "images", "faces", "AP binned (official)", "AP exact"]
    if baseline is not None:
        title += f" (baseline: {baseline.boxes:,})"
        heading = ["subset", "images", "faces", "binned before", "after", "exact before", "after", "difference", "95 %"]
    rows = [heading]
    for name, subset in result.subsets.items():
        row = [name, count(len(result.names)), count(subset.faces)]
        if baseline is None:
            row += [ap(subset.ap_binned), ap(subset.ap_exact)]
        else:
            before, change = baseline.subsets[name], differences[name]
            row += [ap(before.ap_binned), ap(subset.ap_binned), ap(before.ap_exact), ap(subset.ap_exact)]
            row += [points(change.value), interval(change.low, change.high)]
        rows.append(row)
    return Table(title, rows, "" if baseline is None else DIFFERENCE_NOTE)


def _tabulate_published(published: Published, results: Mapping[str, WiderResult]) -> Table:
    """Every method's official AP, the best on the last subset first."""
    subsets = list(published)
    methods: dict[str, dict[str, float]] = {}
    for subset, curves in published.items():
        for curve in curves:
            methods.setdefault(curve.method, {})[subset] = curve.ap
    for role, label in _labels(results).items():
        methods[f"{label} (this evaluation)"] = {s: results[role].subsets[s].ap_binned for s in subsets}
    ranked = sorted(methods.items(), key=lambda method: -method[1].get(subsets[-1], -1.0))
    rows = [[name, *(ap(figures[s]) if s in figures else NONE for s in subsets)] for name, figures in ranked]
    return Table("AP binned (official) beside published curves", [["method", *subsets], *rows], _PUBLISHED_NOTE)


def _describe(
    arguments: argparse.Namespace,
    inputs: Inputs,
    results: Mapping[str, WiderResult],
    differences: Mapping[str, Difference],
    published: Published,
) -> dict[str, object]:
    report = describe_inputs("wider", arguments, inputs)
    for role, result in results.items():
        subsets = {
            name: {"faces": subset.faces, "ap_binned": subset.ap_binned, "ap_exact": subset.ap_exact}
            for name, subset in result.subsets.items()
        }
        report[role] = {**inputs.sources[role].described(), "subsets": subsets}
    if differences:
        report["difference"] = {
            "measure": "ap_exact, detections minus baseline, in points (1/100)",
            "bootstrap": BOOTSTRAP,
            "subsets": {name: describe_difference(difference) for name, difference in differences.items()},
        }
    if published:
        report["published"] = {subset: {c.method: c.ap for c in curves} for subset, curves in published.items()}
    return report


def _labels(results: Mapping[str, object]) -> dict[str, str]:
    return {"detections": "after", "baseline": "before"} if len(results) > 1 else {"detections": "detections"}


def _write_plot(path: Path, inputs: Inputs, results: Mapping[str, WiderResult], published: Published) -> None:
    from tinygan.evaluate.plots import draw_curves
    from tinygan.files import write_atomically

    labels = _labels(results)
    origin = ", ".join(f"{label}: {inputs.sources[role].path.name}" for role, label in reversed(labels.items()))
    title = f"WIDER FACE protocol, {len(inputs.names):,} images; {origin}"
    title += f"; {_PUBLISHED_NOTE}" if published and len(inputs.names) != _PUBLISHED_IMAGES else ""
    panels = {
        f"{name} ({subset.faces:,} faces)": _lines(name, results, published.get(name, ()), binned=bool(published))
        for name, subset in results["detections"].subsets.items()
    }
    write_atomically(path, draw_curves(panels, title))


def _lines(
    subset: str, results: Mapping[str, WiderResult], published: Sequence[PublishedCurve], binned: bool
) -> list[Line]:
    """Our curves, then the published ones; those are of 1,000 bins, and so are ours beside them."""
    from tinygan.evaluate.plots import Line

    lines = []
    for role, label in _labels(results).items():
        own = results[role].subsets[subset]
        lines.append(Line(label, own.binned, own.ap_binned) if binned else Line(label, own.exact, own.ap_exact))
    return lines + [Line(curve.method, curve.curve, curve.ap, published=True) for curve in published]
