"""``tinygan-propose``: a first stage's boxes, as files that ``tinygan-rescore`` and ``tinygan-train`` read."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan.cli.common import DONE, Parser, list_skipped, make_parser, name_unread, run_command, show_config
from tinygan.cli.options import (
    SUBSET,
    add_backend_option,
    add_config_options,
    add_image_options,
    add_output_options,
    add_runtime_options,
    add_view_options,
    runtime_options,
    view_overrides,
)
from tinygan.errors import DataError

if TYPE_CHECKING:
    from proposals.engine import Report

log = logging.getLogger(__name__)

EXAMPLE = "tinygan-propose --images DIR --out P"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_parser(), _propose, argv)


def _parser() -> Parser:
    from tinygan.proposers import DEFAULT, proposer_names

    parser = make_parser(
        "tinygan-propose", "Find faces with a first stage alone; write its boxes, one file per image.", EXAMPLE
    )
    names = ", ".join(proposer_names())
    parser.add_argument(
        "--proposer", metavar="NAME", help=f"first stage: {names} (default: that of the weights, else {DEFAULT})"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="W",
        help="its weights: run folder of tinygan-train-proposer, .safetensors, the .pth of a public RetinaFace, or the "
        ".onnx of a public YuNet (default: those that ship with tinygan)",
    )
    parser.add_argument("--images", required=True, type=Path, metavar="DIR", help="folder of the images, at any depth")
    parser.add_argument("--out", required=True, type=Path, metavar="P", help="folder or .tar.gz to write")
    parser.add_argument("--subset", type=Path, metavar="LIST", help=f"search these images only: {SUBSET}")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="write counts and times to FILE.json")
    add_view_options(parser)
    add_output_options(parser, "a run")
    add_image_options(parser)
    add_config_options(parser, "the first stage")
    add_backend_option(add_runtime_options(parser, "images per forward pass (default: 1)"))
    return parser


def _propose(arguments: argparse.Namespace) -> int:
    if arguments.report is not None and not arguments.report.absolute().parent.is_dir():
        raise DataError(f"{arguments.report}: no such folder to write the report into")
    from proposals.engine import KEPT, plan_proposing, propose_all, run_settings
    from tinygan.files import write_atomically
    from tinygan.formats.images import allow_pixels
    from tinygan.formats.writing import open_output
    from tinygan.proposers import choose_proposer, find_proposer, name_proposer

    arguments.proposer = name_proposer(arguments.proposer, arguments.weights)
    overrides = [
        *view_overrides(arguments, arguments.proposer, find_proposer(arguments.proposer).config),
        *arguments.overrides,
    ]
    chosen = choose_proposer(arguments.proposer, arguments.weights, arguments.config, overrides)
    if arguments.show_config:
        return show_config(chosen.config)
    allow_pixels(arguments.max_pixels)
    plan = plan_proposing(arguments.images, arguments.subset, arguments.orientation)
    runtime = chosen.runtime(runtime_options(arguments))
    proposer = chosen.build(runtime)
    settings = run_settings(
        chosen.name, chosen.config, chosen.weights, arguments.images, runtime, arguments.orientation
    )
    writer = open_output(
        arguments.out, KEPT, "tinygan-propose", settings,
        resume=arguments.resume, overwrite=arguments.overwrite, names=plan.image_of,
    )  # fmt: skip
    log.info("%s", runtime)
    report = propose_all(plan, proposer, writer, arguments.batch_size or 1)
    writer.close()
    if arguments.report is not None:
        write_atomically(arguments.report, report.to_json().encode())
    return _print(report, arguments.out)


def _print(report: Report, out: Path) -> int:
    print(
        f"{out}: {report.images} images, {report.boxes} boxes; {report.without_boxes} images without a box; "
        f"{report.resumed} done before; {report.seconds:.1f} s, {report.ms_per_image:.0f} ms per image"
    )
    name_unread(report.unread)
    skipped = report.skipped
    if not skipped:
        return DONE
    return list_skipped(
        f"{len(skipped)} images were skipped: {len(report.missing)} missing, {len(report.unreadable)} unreadable, "
        f"{len(report.failed)} failed",
        skipped,
        "; --report FILE.json lists them all",
    )
