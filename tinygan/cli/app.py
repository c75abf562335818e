"""``tinygan-app``: find the faces of a photograph on a page in the browser."""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
import webbrowser
from collections.abc import Sequence

from tinygan.cli.common import DONE, Parser, make_parser, run_command
from tinygan.cli.options import add_runtime_options, positive_int, runtime_options

EXAMPLE = "tinygan-app --open"
MOST_PIXELS = 50_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_parser(), _serve, argv)


def _parser() -> Parser:
    parser = make_parser("tinygan-app", "Find the faces of a photograph on a page in the browser.", EXAMPLE)
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen at; 0.0.0.0 lets everybody in the network use the page (default: 127.0.0.1, this "
        "computer alone)",
    )
    add("--port", type=positive_int, default=7860, metavar="N", help="port to listen at (default: 7860)")
    add("--open", action="store_true", help="open the page in the browser")
    add("--max-megabytes", type=positive_int, default=20, metavar="N", help="largest file (default: 20)")
    add(
        "--max-pixels",
        type=positive_int,
        default=MOST_PIXELS,
        metavar="N",
        help=f"largest photograph (default: {MOST_PIXELS:,})",
    )
    add_runtime_options(parser, "patches per forward pass of the second stage (default: 64)")
    return parser


def _serve(arguments: argparse.Namespace) -> int:
    from tinygan.app.page import ServerOptions, serve
    from tinygan.app.search import Stages
    from tinygan.formats.images import allow_pixels

    allow_pixels(arguments.max_pixels)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what is kept is removed
    options = ServerOptions(host=arguments.host, port=arguments.port, most_bytes=1_000_000 * arguments.max_megabytes)
    with serve(Stages(runtime_options(arguments), arguments.batch_size or 64), options) as address:
        print(f"{address}  (stop with Ctrl+C)", flush=True)
        if arguments.open:
            webbrowser.open(address)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    return DONE
