"""``tinygan-report``: one page on what the second stage changed."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tinygan import __version__
from tinygan.cli.common import Parser, list_skipped, make_parser, run_command, tell_left_out
from tinygan.cli.evaluate.files import read_inputs, warn
from tinygan.cli.evaluate.groups import PRECISION, measure_groups
from tinygan.cli.evaluate.wider import load_truth
from tinygan.cli.options import (
    DETECTIONS,
    FORMATS,
    SUBSET,
    add_dialect_options,
    add_image_options,
    add_runtime_options,
    read_dialect,
    runtime_options,
)
from tinygan.errors import ConfigError, DataError
from tinygan.formats.truths import GROUND_TRUTHS

if TYPE_CHECKING:
    from tinygan.detections import Detections, GroundTruth
    from tinygan.evaluate.fddb import FddbResult
    from tinygan.report.content import Judged
    from tinygan.report.faces import Pictures

EXAMPLE = "tinygan-report rescored --images DIR --ground-truth EVAL --baseline P --out report.html"
_SCORE, _BOX = "proposal_score", "proposal_box"  # columns with the first stage's


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_parser(), _report, argv)


def _parser() -> Parser:
    parser = make_parser("tinygan-report", "Show on one page what the second stage changed.", EXAMPLE)
    parser.set_defaults(details=False)
    add = parser.add_argument
    add(
        "detections",
        type=Path,
        metavar="RESCORED",
        help=f"what tinygan-rescore or tinygan-detect wrote, or other detections, in {DETECTIONS}",
    )
    add("--images", required=True, type=Path, metavar="DIR", help="folder of the images, at any depth")
    add("--out", required=True, type=Path, metavar="FILE.html", help="page to write: one file, which needs no network")
    add(
        "--ground-truth",
        type=Path,
        metavar="TRUTH",
        help="the annotated faces: folder with wider_{face,easy,medium,hard}_val.mat; or, with one subset (all), "
        f"{GROUND_TRUTHS} (default: none, and only boxes whose scores changed are shown)",
    )
    add(
        "--baseline",
        type=Path,
        metavar="P",
        help=f"the boxes before rescoring (default: those that RESCORED notes, or its column {_SCORE})",
    )
    add("--subset", type=Path, metavar="LIST", help=f"these images only: {SUBSET}")
    add(
        "--groups",
        type=Path,
        metavar="CSV",
        help=f"also show recall by group of faces, at precision {PRECISION}; for the table see tinygan-evaluate "
        "wider --help",
    )
    add("--run", type=Path, metavar="RUN", help="run folder of tinygan-train whose training is drawn")
    add(
        "--checkpoint",
        default="portrait",
        metavar="PATH|NAME",
        help="run folder or .safetensors file whose generator enlarges the faces (default: portrait, which ships)",
    )
    add("--overwrite", action="store_true", help="replace the page if it exists")
    add("--from", dest="format", metavar="FORMAT", help=f"format of RESCORED, {FORMATS} (default: found out)")
    add_dialect_options(parser, "detections", " of detections and annotations")
    add_image_options(parser)
    add_runtime_options(parser, "not used: faces go one by one")
    return parser


def _report(arguments: argparse.Namespace) -> int:
    _check(arguments)
    from tinygan.files import encode, write_atomically
    from tinygan.formats.images import allow_pixels
    from tinygan.report.content import Subject, build_report

    allow_pixels(arguments.max_pixels)
    notes = _notes(arguments.detections)
    if arguments.baseline is None and notes is not None and Path(str(notes.get("proposals"))).exists():
        arguments.baseline = Path(str(notes["proposals"]))
    metrics, files = _run(arguments.run)
    read = _read(arguments) if arguments.ground_truth is not None else _read_alone(arguments)
    pictures = _pictures(arguments, list(read.after))
    if notes is not None:
        files = {"Settings of tinygan-rescore": json.dumps(notes, indent=1), **files}
    subject = Subject(
        before=read.before, after=read.after, judged=read.judged, metrics=metrics, settings=_settings(arguments),
        files=files, remarks=_remarks(arguments, read),
    )  # fmt: skip
    content = encode(build_report(subject, pictures), arguments.out)
    write_atomically(arguments.out, content)
    print(f"{arguments.out}: {len(read.after):,} pictures, {len(content) / 1e6:.1f} MB")
    if pictures.skipped:
        return list_skipped(f"skipped: {len(pictures.skipped)} images", pictures.skipped)
    return read.code


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be done, before anything is read."""
    out = arguments.out
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {out}: expected a file name that ends in .html")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: no such folder as {out.parent}; make it first")
    if out.is_dir():
        raise DataError(f"{out}: is a folder, and a file is to be written; choose another --out")
    if os.path.lexists(out) and not arguments.overwrite:
        raise DataError(f"{out}: exists already; replace it with --overwrite or choose another --out")
    if arguments.groups is not None and arguments.ground_truth is None:
        raise ConfigError(f"--groups {arguments.groups}: groups are of annotated faces; give --ground-truth too")


def _notes(rescored: Path) -> dict[str, Any] | None:
    """The settings that ``tinygan-rescore`` left beside its detections, if it wrote them."""
    file = rescored / "rescore.json"
    try:
        notes = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return notes if isinstance(notes, dict) else None


def _run(folder: Path | None) -> tuple[list[dict[str, float]], dict[str, str]]:
    """The rows of a run's ``metrics.jsonl``, and its config by the name it is shown under."""
    from tinygan.training.run import CONFIG_FILE, METRICS_FILE, read_metrics

    if folder is None:
        return [], {}
    metrics = read_metrics(folder / METRICS_FILE)
    if not metrics:
        raise DataError(f"--run {folder}: expected the folder of a run with figures in {METRICS_FILE}, found none")
    config = folder / CONFIG_FILE
    return metrics, {f"Config of the run {folder.name}": config.read_text()} if config.is_file() else {}


class _Read(NamedTuple):
    """What was read, by the names of the images.

    Attributes:
        after: detections of both stages.
        before: detections of the first stage.
        code: the exit code so far.
        judged: both against the annotated faces, if there are any.
        missing: evaluated images without a file among ``after``.
    """

    after: Mapping[str, Detections]
    before: Mapping[str, Detections]
    code: int
    judged: Judged | None = None
    missing: Sequence[str] = ()


def _read(arguments: argparse.Namespace) -> _Read:
    """Detections of the annotated images, evaluated."""
    from tinygan.evaluate.wider import evaluate_wider
    from tinygan.formats.truths import load_faces
    from tinygan.report.content import Judged

    skipped: list[str] = []
    truth = load_truth(arguments, skipped)
    inputs = read_inputs(arguments, truth.faces, skipped)
    after = inputs.sources["detections"].detections
    baseline = inputs.sources.get("baseline")
    before = _first_stage(after, arguments.detections) if baseline is None else baseline.detections
    results = {
        role: evaluate_wider(found, truth, inputs.names)
        for role, found in (("detections", after), ("baseline", before))
    }
    faces = load_faces(arguments.ground_truth, arguments.images, arguments.category, list[str]())  # told of above
    groups = None if arguments.groups is None else measure_groups(arguments.groups, None, faces, results)
    judged = Judged(
        before=results["baseline"], after=results["detections"], truth=truth, faces=faces, groups=groups,
        fddb=_fddb(arguments, {name: faces[name] for name in inputs.names}, before, after),
    )  # fmt: skip
    return _Read(after, before, warn(inputs), judged, inputs.sources["detections"].missing)


def _fddb(
    arguments: argparse.Namespace,
    faces: Mapping[str, GroundTruth],
    before: Mapping[str, Detections],
    after: Mapping[str, Detections],
) -> tuple[FddbResult, FddbResult] | None:
    """Both lists by the protocol of FDDB, if the faces are ellipses."""
    from tinygan.cli.evaluate.fddb import image_sizes
    from tinygan.evaluate.fddb import evaluate_fddb
    from tinygan.formats.fddb import ELLIPSE, NO_FOLD, FddbTruth

    if not all(ELLIPSE in one.fields for one in faces.values()):
        return None
    ellipses = {name: one.fields[ELLIPSE] for name, one in faces.items()}
    truth = FddbTruth(ellipses, dict.fromkeys(ellipses, NO_FOLD))
    sizes = image_sizes(arguments.images, list(ellipses), list[str]())  # told of where pictures are read
    first, second = (evaluate_fddb(found, truth, image_sizes=sizes) for found in (before, after))
    return first, second


def _read_alone(arguments: argparse.Namespace) -> _Read:
    """Detections of the pictures in ``--images``."""
    from tinygan.formats.names import list_images, select_names
    from tinygan.formats.wider import load_subset

    images = list_images(arguments.images)
    if arguments.subset is not None:
        images = select_names(load_subset(arguments.subset), images, str(arguments.subset))
    after, code = _open(arguments.detections, arguments.format, images, arguments)
    if arguments.baseline is None:
        return _Read(after, _first_stage(after, arguments.detections), code)
    before, other = _open(arguments.baseline, None, list(after), arguments)
    return _Read(after, before, max(code, other))


def _remarks(arguments: argparse.Namespace, read: _Read) -> list[str]:
    """Sentences on what the page's figures leave out."""
    remarks = []
    if read.missing:
        evaluated = len(read.after) + len(read.missing)
        remarks.append(
            f"{len(read.missing):,} of the {evaluated:,} annotated pictures have no file in "
            f"{arguments.detections.name} and count as without boxes; --subset leaves them out."
        )
    if arguments.baseline is None:
        remarks.append(
            f"The scores before are those of column {_SCORE}, so boxes that rescoring merged or left out are on "
            "neither side; --baseline P counts them."
        )
    return remarks


def _open(
    path: Path, format: str | None, images: Sequence[str], arguments: argparse.Namespace
) -> tuple[dict[str, Detections], int]:
    """``{image: detections}`` of those images that have any, and the exit code."""
    from tinygan.formats.names import match_names
    from tinygan.formats.registry import open_detections

    files = open_detections(path, format, read_dialect(arguments))
    matched = match_names(files, images, str(path))
    files.left_out |= {file: reason for file in matched.values() if (reason := files.stray(file)) is not None}
    found = {image: files[file] for image, file in matched.items() if file not in files.left_out}
    if not found:
        raise DataError(
            f"{path}: none of its {len(files)} files (such as '{next(iter(files))}') is named like one of the "
            f"{len(images)} images (such as '{images[0]}'); check --images and --subset"
        )
    return found, tell_left_out(files)


def _first_stage(after: Mapping[str, Detections], source: Path) -> dict[str, Detections]:
    """The boxes as the first stage scored, and perhaps placed, them, of the columns that say so."""
    import numpy as np

    from tinygan.detections import Detections

    before = {}
    for image, found in after.items():
        if not len(found):
            continue
        if _SCORE not in found.fields:
            raise ConfigError(f"{source}: has no column {_SCORE}; give the boxes before rescoring with --baseline P")
        scores = np.asarray(found.fields[_SCORE], np.float64)
        known = np.isfinite(scores)
        before[image] = Detections(found.fields.get(_BOX, found.boxes)[known], scores[known])
    return before


def _pictures(arguments: argparse.Namespace, names: Sequence[str]) -> Pictures:
    from tinygan.formats.names import list_images, match_names
    from tinygan.report.faces import Pictures
    from tinygan.runtime import Runtime
    from tinygan.second_stage.upscaling import SuperResolver

    listed = match_names(list_images(arguments.images), names, str(arguments.images))
    files = {name: arguments.images / file for name, file in listed.items()}
    resolver = SuperResolver(arguments.checkpoint, runtime=Runtime(runtime_options(arguments)))
    return Pictures(files, resolver, arguments.orientation)


def _settings(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """What the page ends with: what was given, and the versions of what made it."""
    import numpy
    import torch

    given = {
        "rescored": arguments.detections,
        "before": arguments.baseline or f"column {_SCORE}",
        "images": arguments.images,
        "ground truth": arguments.ground_truth,
        "subset": arguments.subset,
        "groups": arguments.groups,
        "run": arguments.run,
        "generator": arguments.checkpoint,
        "tinygan": __version__,
        "Python": platform.python_version(),
        "NumPy": numpy.__version__,
        "PyTorch": torch.__version__,
    }
    return [(name, str(value)) for name, value in given.items() if value is not None]
