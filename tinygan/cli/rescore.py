"""``tinygan-rescore``: rescore a detector's proposals."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan.cli.cluster import add_cluster_options, open_cluster
from tinygan.cli.common import DONE, Parser, list_skipped, make_parser, name_unread, run_command, show_config
from tinygan.cli.options import (
    DETECTIONS,
    FORMATS,
    SUBSET,
    add_backend_option,
    add_config_options,
    add_dialect_options,
    add_image_options,
    add_output_options,
    add_runtime_options,
    add_view_options,
    positive_int,
    read_dialect,
    runtime_options,
    share,
    view_overrides,
)
from tinygan.cli.table import add_table_option, check_table, open_parts, print_parts, spread_over
from tinygan.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tinygan.checkpoint import Checkpoint
    from tinygan.detect.detector import FaceDetector
    from tinygan.second_stage.cluster import Cluster
    from tinygan.second_stage.engine import Judging, Report
    from tinygan.second_stage.rescoring import RescoreConfig

log = logging.getLogger(__name__)

OF_FILES = ("subset", "report", "format", "boxes", "names", "category", "search")  # options that a table has no use for
VIEWS = ("scale", "slice", "overlap")
EXAMPLE = "tinygan-rescore --proposals P --images DIR --out rescored"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_parser(), _rescore, argv)


def _parser() -> Parser:
    parser = make_parser(
        "tinygan-rescore", "Re-score a detector's boxes by what super-resolution makes visible.", EXAMPLE
    )
    parser.add_argument("--proposals", type=Path, metavar="P", help=f"boxes to rescore, in {DETECTIONS}")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images, at any depth")
    add_table_option(parser, "folder or .tar.gz to write", with_boxes=True)
    parser.add_argument(
        "--checkpoint",
        default="lite",
        metavar="PATH|lite",
        help="run folder or .safetensors file of stage fusion, judge or gan; default: lite, which ships with tinygan",
    )
    parser.add_argument(
        "--fusion",
        choices=["replace", "product", "logit"],
        help="how the detector's score and the judge's make the new one (default: logit, which stage fusion fits)",
    )
    parser.add_argument(
        "--search",
        action="store_true",
        help="search the images with the first stage that ships, too: faces that your detector missed are added, and "
        "where both found one, its box lies in the middle; takes up to twice as long",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="look at fewer proposals, less often, and as with --no-opinion: half to two thirds of its time for .1 "
        "points of hard AP less, of a weak detector .5; what --search finds is looked at as ever",
    )
    parser.add_argument(
        "--no-opinion",
        action="store_true",
        help="let the judge alone decide, in about half of the time; else a CenterFace searches the images in which it "
        "leaves doubt, and what it finds counts where your detector has a box, worth 1.6 points of hard AP",
    )
    parser.add_argument("--no-boxes", action="store_true", help="leave every box where the detector put it")
    parser.add_argument(
        "--max-rois", type=positive_int, metavar="N", help="judge the best N proposals per image (default: 600)"
    )
    parser.add_argument(
        "--min-score", type=share, metavar="S", help="do not judge proposals of a lower score; they keep their place"
    )
    parser.add_argument("--subset", type=Path, metavar="LIST", help=f"rescore these images only: {SUBSET}")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="write counts and times to FILE.json")
    parser.add_argument(
        "--from", dest="format", metavar="FORMAT", help=f"format of --proposals, {FORMATS} (default: found out)"
    )
    add_view_options(parser, "what a search sees (with --search)")
    add_cluster_options(parser)
    add_dialect_options(parser, "proposals")
    add_output_options(parser, "a run")
    add_image_options(parser)
    add_config_options(parser, "rescoring")
    add_backend_option(add_runtime_options(parser, "patches per forward pass (default: 64)"), exported=True)
    return parser


def _rescore(arguments: argparse.Namespace) -> int:
    if not arguments.show_config:
        check_table(arguments, {"proposals": "--proposals P", "images": "--images DIR"}, OF_FILES)
    if arguments.report is not None and not arguments.report.absolute().parent.is_dir():
        raise DataError(f"{arguments.report}: no such folder to write the report into")
    from tinygan.files import write_atomically
    from tinygan.formats.images import allow_pixels
    from tinygan.formats.writing import open_output
    from tinygan.runtime import Runtime
    from tinygan.second_stage.engine import KEPT, rescore, run_settings
    from tinygan.second_stage.judge import Judge
    from tinygan.second_stage.opinion import SecondOpinion, opinion_settings
    from tinygan.second_stage.plan import plan_rescoring

    weights = _weights(arguments.checkpoint)
    config = _config(arguments, weights)
    if arguments.show_config:
        return show_config(config)
    _check_search(arguments, config)
    allow_pixels(arguments.max_pixels)
    if arguments.table is not None:
        return _rescore_table(arguments, weights, config)
    dialect = read_dialect(arguments)
    plan = plan_rescoring(
        arguments.proposals,
        arguments.images,
        config,
        arguments.subset,
        arguments.orientation,
        dialect,
        arguments.format,
        arguments.search,
    )
    runtime = Runtime(runtime_options(arguments))
    cluster = open_cluster(arguments)
    judge = Judge.from_weights(weights, runtime) if cluster is None else _judging(weights, config, cluster)
    searcher, search = _searcher(arguments, config) if arguments.search else (None, None)
    opinion = SecondOpinion.open(config, runtime.options) if cluster is None else None
    settings = run_settings(
        weights, config, arguments.proposals, runtime, arguments.orientation, dialect, arguments.format, search,
        opinion_settings(config, runtime.options),
    )  # fmt: skip
    writer = open_output(
        arguments.out, KEPT, "tinygan-rescore", settings,
        resume=arguments.resume, overwrite=arguments.overwrite, names=plan.proposals,
    )  # fmt: skip
    log.info("%s", runtime)
    report = rescore(plan, judge, config, writer, searcher, opinion)
    writer.close()
    if arguments.report is not None:
        write_atomically(arguments.report, report.to_json().encode())
    return _print(report, arguments.out)


def _check_search(arguments: argparse.Namespace, config: RescoreConfig) -> None:
    if not arguments.search:
        if given := [option for option in VIEWS if getattr(arguments, option) is not None]:
            raise ConfigError(f"--{given[0]}: says what a search sees; give --search, too")
        return
    if config.method != "logit":
        raise ConfigError(f"--search: adds log-odds, which fusion by {config.method} does not give; leave one out")
    if not config.move_boxes:
        raise ConfigError("--search: draws boxes between those of both detectors; leave out --no-boxes")
    if arguments.engine != "local":
        raise ConfigError(f"--search: searches on this machine alone; leave out --engine {arguments.engine}")


def _searcher(arguments: argparse.Namespace, config: RescoreConfig) -> tuple[FaceDetector, dict[str, object]]:
    """Both stages that ship, and what decides their results."""
    from tinygan.detect.detector import FaceDetector
    from tinygan.proposers import DEFAULT, choose_proposer, find_proposer

    chosen = choose_proposer(DEFAULT, overrides=view_overrides(arguments, DEFAULT, find_proposer(DEFAULT).config))
    options = runtime_options(arguments)
    detector = FaceDetector.open(chosen, arguments.checkpoint, batch_size=config.batch_size, options=options)
    return detector, chosen.settings(chosen.runtime(options))


def _rescore_table(arguments: argparse.Namespace, weights: Checkpoint, config: RescoreConfig) -> int:
    from tinygan.formats.shards import plan_table
    from tinygan.runtime import Runtime
    from tinygan.second_stage.engine import CALIBRATION_FILE, run_settings
    from tinygan.second_stage.opinion import opinion_settings
    from tinygan.second_stage.tables import TableRescorer

    started = time.monotonic()
    table = plan_table(arguments.table, with_boxes=True)
    options, cluster = runtime_options(arguments), open_cluster(arguments)
    settings = run_settings(
        weights, config, arguments.table, Runtime(options), arguments.orientation,
        opinion=opinion_settings(config, options),
    )  # fmt: skip
    folder = open_parts(arguments, "tinygan-rescore --table", settings, kept=(CALIBRATION_FILE,))
    rescorer = TableRescorer(
        weights, config, options if cluster is None else cluster.settings.options, arguments.orientation
    )
    parts = rescorer.rescore(table, folder, settings, spread_over(cluster))
    return print_parts(parts, arguments.out, time.monotonic() - started, "skipped, or got no second opinion")


def _judging(weights: Checkpoint, config: RescoreConfig, cluster: Cluster) -> Judging:
    from tinygan.second_stage.cluster import judging

    return judging(weights, config, cluster)


def _weights(checkpoint: str) -> Checkpoint:
    from tinygan.checkpoint import chosen_weights, load_checkpoint

    return load_checkpoint(chosen_weights(checkpoint), ("fused", "gan"))


def _config(arguments: argparse.Namespace, weights: Checkpoint) -> RescoreConfig:
    """Defaults < the checkpoint's fusion < --quick < --config < --set and other options."""
    from tinygan.config import load_config
    from tinygan.second_stage.fusion import stored_fusion
    from tinygan.second_stage.rescoring import QUICK, RescoreConfig

    fusion = stored_fusion(weights)
    overrides = list(arguments.overrides)
    for key, value in (
        ("method", arguments.fusion),
        ("max_rois", arguments.max_rois),
        ("min_score", arguments.min_score),
        ("batch_size", arguments.batch_size),
        ("move_boxes", False if arguments.no_boxes else None),
        ("second_opinion", False if arguments.no_opinion or arguments.search else None),
    ):
        if value is not None:
            overrides.append(f"{key}={value}")
    fitted = {"fusion": fusion.to_facts()} if fusion else {}
    base = {**fitted, **(QUICK if arguments.quick else {})}
    config = load_config(RescoreConfig, arguments.config, overrides, base=base)
    if config.method == "logit" and not config.fusion.fitted:
        log.warning(
            "%s: fusion was not fitted (tinygan-train --stage fusion); using %g x logit(score) + %g x face logit",
            arguments.checkpoint, config.fusion.detector, config.fusion.judge,
        )  # fmt: skip
    return config


def _print(report: Report, out: Path) -> int:
    added = f"{report.added} added, " if report.added else ""
    print(
        f"{out}: {report.images} images, {report.proposals} proposals: {report.rescored} rescored, "
        f"{report.passed_through} passed through, {report.merged} merged, {added}{report.written} written; "
        f"calibration: {report.calibration}; "
        f"{report.seconds:.1f} s, {report.rois_per_second:.0f} ROIs/s"
    )
    name_unread(report.unread)
    skipped = report.skipped
    if not skipped:
        return DONE
    untouched = len(skipped) - len(report.unusable) - len(report.by_judge_alone)
    counts = (
        (
            untouched,
            f"images were not rescored: {len(report.missing)} missing, {len(report.unreadable)} unreadable, "
            f"{len(report.without_proposals)} without proposals, {len(report.sizeless)} without a size",
        ),
        (len(report.by_judge_alone), "images were rescored without a second opinion"),
        (len(report.unusable), "files of proposals were not read"),
    )
    summary = "; ".join(f"{count} {what}" for count, what in counts if count)
    return list_skipped(summary, skipped, "; --report FILE.json lists them all")
