"""``tinygan-evaluate``: how good detections are, by the protocols people publish."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from tinygan.cli.common import Parser, make_parser, run_command
from tinygan.cli.evaluate import coco, fddb, voc, wider

_PROTOCOLS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "wider": ("WIDER FACE: average precision on easy, medium and hard", wider.add_arguments),
    "fddb": ("FDDB: discrete and continuous ROC", fddb.add_arguments),
    "voc": ("Pascal VOC: average precision for AFW, PASCAL Face and MAFA", voc.add_arguments),
    "coco": ("COCO: average precision and recall over ten IoU thresholds", coco.add_arguments),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_parser(), _evaluate, argv)


def _parser() -> Parser:
    parser = make_parser("tinygan-evaluate", "Evaluate detections by a published protocol.", wider.EXAMPLE)
    protocols = parser.add_subparsers(dest="protocol", required=True, metavar="PROTOCOL", parser_class=Parser)
    for name, (summary, add_arguments) in _PROTOCOLS.items():
        add_arguments(protocols.add_parser(name, help=summary))
    return parser


def _evaluate(arguments: argparse.Namespace) -> int:
    body: Callable[[argparse.Namespace], int] = arguments.body
    return body(arguments)
