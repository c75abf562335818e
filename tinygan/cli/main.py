"""``tinygan``: lists the commands; ``tinygan train ...`` is ``tinygan-train ...``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

from tinygan import __version__
from tinygan.cli.common import DONE, Parser

COMMANDS = {
    "detect": "Find the faces in photographs and videos; list and draw them.",
    "rescore": "Re-score a detector's boxes by what super-resolution makes visible.",
    "upscale": "Make pictures of faces 4 times as wide and high.",
    "compare": "Draw faces of pictures before and after; true faces and ours.",
    "evaluate": "Evaluate detections by a published protocol.",
    "report": "Show on one page what the second stage changed.",
    "app": "Find the faces of a photograph on a page in the browser.",
    "convert": "Turn detections of many images from one format into another.",
    "export": "Write the networks as ONNX, OpenVINO or TorchScript.",
    "propose": "Find faces with a first stage alone; write its boxes, one file per image.",
    "train": "Train the second stage, one stage of training after another.",
    "train-proposer": "Train a first stage on WIDER FACE or on other faces.",
    "anchors": "Find the anchors that fit the faces of a data set, by k-means.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that is named, or list all; returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in COMMANDS:
        point = next(iter(entry_points(group="console_scripts", name=f"tinygan-{words[0]}")))
        code: int = point.load()(words[1:])
        return code
    parser = _parser()
    parser.parse_args(words)
    parser.print_help()
    return DONE


def _parser() -> Parser:
    lines = [f"  tinygan-{name:<15} {summary}" for name, summary in COMMANDS.items()]
    parser = Parser(
        prog="tinygan",
        description="A second stage for face detectors that finds the faces they miss.",
        epilog="\n".join(["commands, each of which has a --help:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "command",
        nargs="?",
        choices=COMMANDS,
        metavar="COMMAND",
        help="run a command: tinygan train ... is tinygan-train ...",
    )
    return parser
