"""What the protocols of ``tinygan-evaluate`` share: options, files read, files written, warnings."""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tinygan.cli.common import DONE, SOME_SKIPPED, list_skipped, tell_left_out
from tinygan.cli.options import DETECTIONS, FORMATS, SUBSET, add_dialect_options, read_dialect
from tinygan.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tinygan.detections import Detections, FloatArray
    from tinygan.evaluate.curves import Difference
    from tinygan.formats.folders import DetectionFiles

log = logging.getLogger(__name__)
Truth: TypeAlias = "Mapping[str, FloatArray]"
RESAMPLES, SEED, LEVEL = 1000, 0, 0.95  # of the paired bootstrap
BOOTSTRAP = {"resamples": RESAMPLES, "seed": SEED, "level": LEVEL}
_SHOWN = 5  # names listed in a warning


@dataclass(frozen=True)
class Source:
    """Detections of the evaluated images, and what did not fit.

    Attributes:
        path: where they were read.
        detections: ``{image: detections}``.
        missing: evaluated images without a file.
        unused: number of files (or images in a file) that belong to no evaluated image, apart from those left out.
        files: what was read.
    """

    path: Path
    detections: dict[str, Detections]
    missing: list[str]
    unused: int
    files: DetectionFiles

    def described(self) -> dict[str, object]:
        """For the JSON report."""
        boxes = sum(map(len, self.detections.values()))
        unused, missing = self.unused, self.missing
        return {"path": str(self.path), "boxes": boxes, "unused_files": unused, "images_without_file": missing}


@dataclass(frozen=True)
class Inputs:
    """What an evaluation reads beside the ground truth.

    Attributes:
        names: the images evaluated.
        unknown: names of ``--subset`` that the ground truth lacks.
        skipped: a line for everything in the ground truth that was left out, such as an image that cannot be read.
        sources: ``detections``, and ``baseline`` if one was given.
    """

    names: list[str]
    unknown: list[str]
    sources: dict[str, Source]
    skipped: Sequence[str] = ()


def add_input_options(parser: argparse.ArgumentParser, ground_truth: str) -> None:
    """``--detections``, ``--ground-truth`` and what goes with them.

    Args:
        parser: the protocol's parser.
        ground_truth: help for ``--ground-truth``.
    """
    add = parser.add_argument
    add("--detections", required=True, type=Path, metavar="D", help=f"detections to evaluate, in {DETECTIONS}")
    add("--ground-truth", required=True, type=Path, metavar="TRUTH", help=f"the annotated faces: {ground_truth}")
    add("--subset", type=Path, metavar="LIST", help=f"count these images only: {SUBSET}")
    add("--baseline", type=Path, metavar="D0", help="detections to compare with, such as those before rescoring")
    add(
        "--from",
        dest="format",
        metavar="FORMAT",
        help=f"format of --detections, {FORMATS} (default: found out)",
    )
    add_dialect_options(parser, "detections", " of detections and annotations")
    add("--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error")


def add_images_option(parser: argparse.ArgumentParser) -> None:
    """``--images``, where boxes are parts of an image's size."""
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the images, for YOLO text and --boxes relative"
    )


def add_report_options(parser: argparse.ArgumentParser, plot: str | None) -> None:
    """``--json``, ``--markdown`` and, if ``plot`` says what is drawn, ``--plot``."""
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="write every figure to FILE.json")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    if plot is not None:
        parser.add_argument("--plot", type=Path, metavar="FILE.png", help=plot)


def check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse outputs that cannot be written, before anything is read.

    Raises:
        ConfigError: if a folder is absent or a name unfit.
    """
    plot = getattr(arguments, "plot", None)
    for option, path in (("--json", arguments.json), ("--plot", plot)):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{option} {path}: no such folder as {path.parent}; make it first")
        if path is not None and path.is_dir():
            raise ConfigError(f"{option} {path}: is a folder; expected a file to write")
    if plot is not None and plot.suffix.lower() != ".png":
        raise ConfigError(f"--plot {plot}: expected a name that ends in .png")


def read_inputs(arguments: argparse.Namespace, truth: Truth, skipped: Sequence[str] = ()) -> Inputs:
    """Read ``--subset``, ``--detections`` and ``--baseline``.

    Args:
        arguments: parsed; see :func:`add_input_options`.
        truth: ``{image: float64 [M, 4]}``, every image of the ground truth and its faces.
        skipped: a line for everything in the ground truth that was left out.
    """
    names, unknown = _select(arguments.subset, list(truth))
    sources = {
        role: _read_source(_open(path, arguments), truth, names, getattr(arguments, "images", None))
        for role, path in (("detections", arguments.detections), ("baseline", arguments.baseline))
        if path is not None
    }
    return Inputs(names, unknown, sources, skipped)


def describe_inputs(protocol: str, arguments: argparse.Namespace, inputs: Inputs) -> dict[str, object]:
    """The head of the JSON report."""
    return {
        "protocol": protocol,
        "ground_truth": str(arguments.ground_truth),
        "subset_list": None if arguments.subset is None else str(arguments.subset),
        "subset_names_unknown": inputs.unknown,
        "images": len(inputs.names),
    }


def describe_difference(difference: Difference) -> dict[str, float]:
    """A difference in points, for the JSON report."""
    return {"points": 100 * difference.value, "low": 100 * difference.low, "high": 100 * difference.high}


def write_json(path: Path, report: Mapping[str, object]) -> None:
    """Write a report; NaN, which JSON lacks, becomes null."""
    from tinygan.files import write_atomically

    write_atomically(path, (json.dumps(_without_nan(report), indent=2) + "\n").encode("utf-8"))


def warn(inputs: Inputs) -> int:
    """Say on stderr what did not fit; returns the exit code."""
    code = DONE
    if inputs.skipped:
        code = list_skipped(
            f"warning: {len(inputs.skipped)} inputs of the ground truth could not be read", inputs.skipped
        )
    if inputs.unknown:
        print(
            f"warning: {len(inputs.unknown)} names of the subset are not in the ground truth: {_some(inputs.unknown)}",
            file=sys.stderr,
        )
        code = SOME_SKIPPED
    for source in inputs.sources.values():
        code = max(code, tell_left_out(source.files))
        if source.unused:
            print(f"{source.path}: {source.unused} files belong to no image of this evaluation", file=sys.stderr)
        if source.missing:
            print(
                f"warning: {source.path}: {len(source.missing)} of {len(inputs.names)} images have no file, and count "
                f"as without detections: {_some(source.missing)}",
                file=sys.stderr,
            )
            code = SOME_SKIPPED
    return code


def _open(path: Path, arguments: argparse.Namespace) -> DetectionFiles:
    from tinygan.formats.registry import open_detections
    from tinygan.formats.truths import names_file

    dialect = read_dialect(arguments)
    if dialect.names is None:
        dialect = replace(dialect, names=names_file(arguments.ground_truth))  # COCO annotations name their images
    # The baseline may be of another format: it is always found out.
    return open_detections(path, arguments.format if path == arguments.detections else None, dialect)


def _read_source(files: DetectionFiles, truth: Truth, names: Sequence[str], pictures: Path | None) -> Source:
    """Detections of the images ``names``; files are matched against all images of the ground truth."""
    from tinygan.formats.names import match_names

    matched = match_names(files, truth, str(files.source))
    strays = {file: reason for file in files if (reason := files.stray(file)) is not None}
    malformed = {file for file in strays if file in matched.values() and files.text(file).strip()}
    files.left_out |= {file: reason for file, reason in strays.items() if file not in malformed}
    found = {name: files[matched[name]] for name in names if matched.get(name, None) not in (None, *files.left_out)}
    if not found:
        example = next(iter(files))
        raise DataError(
            f"{files.source}: none of its {len(files)} files (such as '{example}') is named like one of the "
            f"{len(names)} images (such as '{names[0]}'); check --detections, --ground-truth and --subset"
        )
    missing = [name for name in names if name not in found]
    _warn_of_boxes(files, found, truth, pictures)
    unused = sum(file not in files.left_out for file in files) - len(found)
    return Source(files.source, found, missing, unused, files)


def _warn_of_boxes(files: DetectionFiles, found: Mapping[str, Detections], truth: Truth, pictures: Path | None) -> None:
    """Warn in one sentence if boxes do not look like what they were taken for, by the faces and by the pictures."""
    from tinygan.formats.plausible import BoxCheck, explain_by_faces, warn_of_degenerate
    from tinygan.formats.sizes import find_pictures

    if problem := explain_by_faces(found, truth, files.order):
        log.warning("%s: %s", files.source, problem)
    elif pictures is not None and pictures.is_dir():
        check = BoxCheck(find_pictures(found, pictures, str(pictures)), found)
        for name, one in found.items():
            check.add(name, one)
        check.warn(files)
    else:
        warn_of_degenerate(found.values(), str(files.source))


def _select(subset: Path | None, images: Sequence[str]) -> tuple[list[str], list[str]]:
    """The images to evaluate, and names of the list that the ground truth lacks."""
    from tinygan.formats.names import match_names, select_names
    from tinygan.formats.wider import load_subset

    if subset is None:
        return list(images), []
    wanted = load_subset(subset)
    chosen = select_names(wanted, images, str(subset))
    if len(chosen) == len(wanted):
        return chosen, []
    matched = set(match_names(wanted, images, str(subset)).values())
    return chosen, [name for name in dict.fromkeys(wanted) if name not in matched]


def _without_nan(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
