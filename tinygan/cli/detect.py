"""``tinygan-detect``: photographs and videos in; boxes, pictures of them and super-resolved faces out."""

from __future__ import annotations

import argparse
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygan.cli.cluster import add_cluster_options, open_cluster
from tinygan.cli.common import DONE, Parser, list_skipped, make_parser, name_unread, run_command, show_config
from tinygan.cli.options import (
    add_backend_option,
    add_config_options,
    add_image_options,
    add_output_options,
    add_runtime_options,
    add_view_options,
    positive_int,
    runtime_options,
    share,
    view_overrides,
)
from tinygan.cli.table import add_table_option, check_table, open_parts, print_parts, spread_over

if TYPE_CHECKING:
    from tinygan.detect.detector import FaceDetector
    from tinygan.detect.results import Totals
    from tinygan.proposers import Choice
    from tinygan.runtime import Runtime

log = logging.getLogger(__name__)

EXAMPLE = "tinygan-detect photo.jpg holiday/ --out found"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_parser(), _detect, argv)


def _parser() -> Parser:
    from tinygan.proposers import DEFAULT, DEFAULT_ROIS, proposer_names

    parser = make_parser("tinygan-detect", "Find the faces in photographs and videos; list and draw them.", EXAMPLE)
    parser.add_argument("inputs", nargs="*", type=Path, metavar="INPUT", help="images, videos, or folders of them")
    add_table_option(parser, "folder to write", with_boxes=False)
    parser.add_argument(
        "--min-score", type=share, default=0.3, metavar="S", help="lowest final score of a face, 0 to 1 (default: 0.3)"
    )
    names = ", ".join(proposer_names())
    parser.add_argument(
        "--proposer", metavar="NAME", help=f"first stage: {names} (default: that of the weights, else {DEFAULT})"
    )
    parser.add_argument(
        "--first-stage-weights",
        type=Path,
        metavar="W",
        help="weights of the first stage: run folder of tinygan-train-proposer, .safetensors, the .pth of a public "
        "RetinaFace, or the .onnx of a public YuNet (default: those that ship with tinygan)",
    )
    parser.add_argument(
        "--checkpoint",
        default="lite",
        metavar="PATH|lite",
        help="second stage: run folder or .safetensors file of stage fusion, judge or gan; default: lite, which ships "
        "with tinygan",
    )
    parser.add_argument(
        "--max-rois",
        type=positive_int,
        default=DEFAULT_ROIS,
        metavar="N",
        help=f"judge the best N boxes per image (default: {DEFAULT_ROIS})",
    )
    parser.add_argument("--no-boxes", action="store_true", help="leave every box where the first stage put it")
    parser.add_argument("--no-pictures", action="store_true", help="write detections.json and .csv only")
    add_cluster_options(parser)
    add_view_options(parser)
    add_output_options(parser, "a run")
    add_image_options(parser)
    add_config_options(parser, "the first stage")
    add_backend_option(
        add_runtime_options(parser, "patches per forward pass of the second stage (default: 64)"), exported=True
    )
    return parser


def _detect(arguments: argparse.Namespace) -> int:
    if arguments.show_config:
        return show_config(_choice(arguments).config)
    check_table(arguments, {"inputs": "INPUT"}, ())
    from tinygan.detect.sources import find_sources

    started = time.monotonic()
    sources = None if arguments.table is not None else find_sources(arguments.inputs, arguments.out)
    from tinygan.detect.detector import FaceDetector
    from tinygan.detect.results import open_results
    from tinygan.detect.run import DetectConfig, detect_all, find_on
    from tinygan.formats.images import allow_pixels
    from tinygan.runtime import Runtime

    allow_pixels(arguments.max_pixels)
    chosen = _choice(arguments)
    options = runtime_options(arguments)
    first, second = chosen.runtime(options), Runtime(options)
    opened = partial(
        FaceDetector.open,
        chosen,
        Path(arguments.checkpoint).resolve() if Path(arguments.checkpoint).exists() else arguments.checkpoint,
        move_boxes=not arguments.no_boxes,
        max_rois=arguments.max_rois,
        batch_size=arguments.batch_size or 64,
    )
    settings = _settings(arguments, chosen, first, second)
    if sources is None:
        return _detect_table(arguments, opened, settings, started)
    detector, cluster = opened(options=options), open_cluster(arguments)
    config = DetectConfig(
        min_score=arguments.min_score, pictures=not arguments.no_pictures, orientation=arguments.orientation
    )
    find = None
    if cluster is not None:
        find = find_on(cluster, partial(opened, options=cluster.settings.options), config)
    with open_results(arguments.out, settings, arguments.resume, arguments.overwrite) as results:
        log.info("first stage: %s; second stage: %s", first, second)
        skipped = sources.skipped + detect_all(detector, sources.found, results, config, find)
        totals = results.write_tables(settings)
    code = _print(totals, skipped, arguments.out, time.monotonic() - started)
    name_unread(sources.unread)
    return code


def _detect_table(
    arguments: argparse.Namespace, opened: Callable[..., FaceDetector], settings: dict[str, Any], started: float
) -> int:
    from tinygan.detect.tables import table_finder
    from tinygan.formats.parts import work_through
    from tinygan.formats.shards import plan_table

    table, cluster = plan_table(arguments.table, with_boxes=False), open_cluster(arguments)
    settings = {**settings, "table": arguments.table}
    folder = open_parts(arguments, "tinygan-detect --table", settings)
    options = runtime_options(arguments) if cluster is None else cluster.settings.options
    make = table_finder(partial(opened, options=options), folder, arguments.min_score, arguments.orientation)
    parts = work_through(table, folder, settings, spread_over(cluster), make)
    return print_parts(parts, arguments.out, time.monotonic() - started)


def _choice(arguments: argparse.Namespace) -> Choice:
    from tinygan.proposers import choose_proposer, find_proposer, name_proposer

    arguments.proposer = name_proposer(arguments.proposer, arguments.first_stage_weights)
    overrides = [
        *view_overrides(arguments, arguments.proposer, find_proposer(arguments.proposer).config),
        *arguments.overrides,
    ]
    return choose_proposer(arguments.proposer, arguments.first_stage_weights, arguments.config, overrides)


def _settings(arguments: argparse.Namespace, chosen: Choice, first: Runtime, second: Runtime) -> dict[str, Any]:
    """What decides the result, as JSON types."""
    from tinygan.checkpoint import chosen_weights, find_weights

    checkpoint = find_weights(chosen_weights(arguments.checkpoint))
    return {
        "min_score": arguments.min_score,
        "orientation": arguments.orientation,
        "first_stage": chosen.settings(first),
        "second_stage": {
            "checkpoint": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
            **second.settings(),
            "move_boxes": not arguments.no_boxes,
            "max_rois": arguments.max_rois,
        },
        "pictures": not arguments.no_pictures,
    }


def _print(totals: Totals, skipped: Sequence[str], out: Path, seconds: float) -> int:
    parts = [_count(totals.images, "image")] if totals.images or not totals.frames else []
    parts += [_count(totals.frames, "frame")] if totals.frames else []
    what = ", ".join([*parts, _count(totals.faces, "face")])
    changes = ", ".join(f"{totals.outcomes[name]} {name}" for name in ("raised", "lowered", "moved"))
    print(f"{out}: {what}; {changes}; {totals.dropped} dropped; {seconds:.1f} s")
    if not skipped:
        return DONE
    return list_skipped(f"skipped: {_count(len(skipped), 'input')}", skipped)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
