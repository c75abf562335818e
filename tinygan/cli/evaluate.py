"""``tinygan-evaluate``: how good detections are, by the protocols people publish."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan.cli.common import DONE, SOME_SKIPPED, Parser, make_parser, run_command
from tinygan.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tinygan.detections import Detections
    from tinygan.evaluate.wider import Difference, WiderResult
    from tinygan.formats.wider_mat import EvaluationTruth

RESAMPLES, SEED, LEVEL = 1000, 0, 0.95
_SHOWN = 5  # names listed in a warning


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_parser(), _evaluate, argv)


def _parser() -> Parser:
    parser = make_parser("tinygan-evaluate", "Evaluate detections by a published protocol.")
    protocols = parser.add_subparsers(dest="protocol", required=True, metavar="PROTOCOL", parser_class=Parser)
    _add_wider(protocols.add_parser("wider", help="WIDER FACE: average precision on easy, medium and hard"))
    return parser


def _evaluate(arguments: argparse.Namespace) -> int:
    body: Callable[[argparse.Namespace], int] = arguments.body
    return body(arguments)


def _add_wider(parser: argparse.ArgumentParser) -> None:
    parser.description = "The official WIDER FACE protocol, with an exact AP beside the official binned one."
    parser.set_defaults(body=_wider)
    add = parser.add_argument
    add("--detections", required=True, type=Path, metavar="D", help="folder or .tar.gz, one .txt an image")
    add(
        "--ground-truth",
        required=True,
        type=Path,
        metavar="EVAL",
        help="folder with wider_{face,easy,medium,hard}_val.mat, or a *_bbx_gt.txt (one subset: all)",
    )
    add("--subset", type=Path, metavar="LIST", help="count these images only: names, one a line, or a *_bbx_gt.txt")
    add("--baseline", type=Path, metavar="D0", help="detections to compare with, e.g. the first stage's")
    add("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    add("--plot", type=Path, metavar="FILE.png", help="draw the precision-recall curves")
    add("--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error")


def _wider(arguments: argparse.Namespace) -> int:
    _check_outputs(arguments)
    from tinygan.evaluate.wider import compare_wider, evaluate_wider
    from tinygan.formats.wider_mat import load_evaluation_ground_truth

    truth = load_evaluation_ground_truth(arguments.ground_truth)
    names, unknown = _select(arguments.subset, truth)
    sources = {"detections": _read(arguments.detections, truth, names)}
    if arguments.baseline is not None:
        sources["baseline"] = _read(arguments.baseline, truth, names)
    results = {role: evaluate_wider(source.detections, truth, names) for role, source in sources.items()}
    result, baseline = results["detections"], results.get("baseline")
    differences = {} if baseline is None else compare_wider(baseline, result, RESAMPLES, SEED, LEVEL)

    print("\n".join(_report(result, baseline, differences)))
    if arguments.json is not None:
        _write_json(arguments, sources, unknown, results, differences)
    if arguments.plot is not None:
        _write_plot(arguments.plot, sources, results)
    return _warn(sources, len(names), unknown)


@dataclass(frozen=True)
class _Source:
    """Detections of the evaluated images, and what did not fit."""

    path: Path
    detections: dict[str, Detections]
    missing: list[str]
    unused: int


def _check_outputs(arguments: argparse.Namespace) -> None:
    for option, path in (("--json", arguments.json), ("--plot", arguments.plot)):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{option} {path}: no such folder as {path.parent}; make it first")
        if path is not None and path.is_dir():
            raise ConfigError(f"{option} {path}: is a folder; expected a file to write")
    if arguments.plot is not None and arguments.plot.suffix.lower() != ".png":
        raise ConfigError(f"--plot {arguments.plot}: expected a name that ends in .png")


def _select(subset: Path | None, truth: EvaluationTruth) -> tuple[list[str], list[str]]:
    """The images to evaluate, and names of the list that the ground truth lacks."""
    from tinygan.formats.names import match_names, select_names
    from tinygan.formats.wider import load_subset

    if subset is None:
        return truth.names, []
    wanted = load_subset(subset)
    chosen = select_names(wanted, truth.names, str(subset))
    if len(chosen) == len(wanted):
        return chosen, []
    matched = set(match_names(wanted, truth.names, str(subset)).values())
    return chosen, [name for name in dict.fromkeys(wanted) if name not in matched]


def _read(path: Path, truth: EvaluationTruth, names: Iterable[str]) -> _Source:
    """Detections of the images ``names``; files are matched against all images of the ground truth."""
    from tinygan.formats.files import open_detections
    from tinygan.formats.names import match_names

    files = open_detections(path)
    matched = match_names(files, truth.names, str(path))
    names = list(names)
    found = {name: files[matched[name]] for name in names if name in matched}
    if not found:
        example = next(iter(files))
        raise DataError(
            f"{path}: none of its {len(files)} files (such as '{example}') is named like one of the "
            f"{len(names)} images (such as '{names[0]}'); check --detections, --ground-truth and --subset"
        )
    missing = [name for name in names if name not in found]
    return _Source(path, found, missing, len(files) - len(found))


def _report(result: WiderResult, baseline: WiderResult | None, differences: Mapping[str, Difference]) -> list[str]:
    """What is printed, line by line."""
    lines = [f"WIDER FACE protocol, {len(result.names):,} images, {result.boxes:,} boxes"]
    if baseline is None:
        rows = [["subset", "images", "faces", "AP binned (official)", "AP exact"]]
    else:
        lines[0] += f" (baseline: {baseline.boxes:,})"
        rows = [["subset", "images", "faces", "binned before", "after", "exact before", "after", "difference", "95 %"]]
    for name, subset in result.subsets.items():
        row = [name, f"{len(result.names):,}", f"{subset.faces:,}"]
        if baseline is None:
            row += [_ap(subset.ap_binned), _ap(subset.ap_exact)]
        else:
            before, change = baseline.subsets[name], differences[name]
            row += [_ap(before.ap_binned), _ap(subset.ap_binned), _ap(before.ap_exact), _ap(subset.ap_exact)]
            row += [_points(change.value), f"[{_points(change.low)}, {_points(change.high)}]"]
        rows.append(row)
    lines += _align(rows)
    if baseline is not None:
        lines.append(
            f"difference: exact AP in points, interval by paired bootstrap ({RESAMPLES:,} draws of the images)"
        )
    return lines


def _ap(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}" if math.isfinite(value) else "-"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns two blanks apart, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _write_json(
    arguments: argparse.Namespace,
    sources: Mapping[str, _Source],
    unknown: Sequence[str],
    results: Mapping[str, WiderResult],
    differences: Mapping[str, Difference],
) -> None:
    from tinygan.formats.files import write_atomically

    report: dict[str, object] = {
        "protocol": "wider",
        "ground_truth": str(arguments.ground_truth),
        "subset_list": None if arguments.subset is None else str(arguments.subset),
        "subset_names_unknown": list(unknown),
        "images": len(results["detections"].names),
    }
    for role, result in results.items():
        source = sources[role]
        report[role] = {
            "path": str(source.path),
            "boxes": result.boxes,
            "unused_files": source.unused,
            "images_without_file": source.missing,
            "subsets": {
                name: {"faces": subset.faces, "ap_binned": subset.ap_binned, "ap_exact": subset.ap_exact}
                for name, subset in result.subsets.items()
            },
        }
    if differences:
        report["difference"] = {
            "measure": "ap_exact, detections minus baseline, in points (1/100)",
            "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "level": LEVEL},
            "subsets": {
                n: {"points": 100 * d.value, "low": 100 * d.low, "high": 100 * d.high} for n, d in differences.items()
            },
        }
    write_atomically(arguments.json, (json.dumps(_plain(report), indent=2) + "\n").encode("utf-8"))


def _plain(value: object) -> object:
    """The same tree with null for NaN, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_plot(path: Path, sources: Mapping[str, _Source], results: Mapping[str, WiderResult]) -> None:
    from tinygan.evaluate.plots import Line, draw_curves
    from tinygan.formats.files import write_atomically

    labels = {"detections": "after", "baseline": "before"} if len(results) > 1 else {"detections": "detections"}
    origin = ", ".join(f"{label}: {sources[role].path.name}" for role, label in reversed(labels.items()))
    title = f"WIDER FACE protocol, {len(results['detections'].names):,} images; {origin}"
    panels = {}
    for name, subset in results["detections"].subsets.items():
        lines = [(label, results[role].subsets[name]) for role, label in labels.items()]
        panels[f"{name} ({subset.faces:,} faces)"] = [Line(label, s.exact, s.ap_exact) for label, s in lines]
    write_atomically(path, draw_curves(panels, title))


def _warn(sources: Mapping[str, _Source], images: int, unknown: Sequence[str]) -> int:
    """Say on stderr what did not fit; returns the exit code."""
    code = DONE
    if unknown:
        print(
            f"warning: {len(unknown)} names of the subset are not in the ground truth: {_some(unknown)}",
            file=sys.stderr,
        )
        code = SOME_SKIPPED
    for source in sources.values():
        if source.unused:
            print(f"{source.path}: {source.unused} files belong to no image of this evaluation", file=sys.stderr)
        if source.missing:
            print(
                f"warning: {source.path}: {len(source.missing)} of {images} images have no file, and count as "
                f"without detections: {_some(source.missing)}",
                file=sys.stderr,
            )
            code = SOME_SKIPPED
    return code


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
