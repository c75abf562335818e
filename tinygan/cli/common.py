"""What every command shares: options, one-line errors and exit codes.

Exit 0: all done. 1: done, some inputs were skipped and listed. 2: misuse or malformed input.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from tinygan import __version__
from tinygan.errors import TinyGanError

if TYPE_CHECKING:
    from tinygan.runtime import Runtime, RuntimeOptions
    from tinygan.training.run import RunFolder

log = logging.getLogger(__name__)
DONE, SOME_SKIPPED, MISUSE = 0, 1, 2
LISTED = 20


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print one line on stderr and exit with 2."""
        self.exit(MISUSE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def make_parser(prog: str, description: str) -> Parser:
    """A parser with ``--version`` and ``--debug``."""
    parser = Parser(prog=prog, description=description)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_runtime_options(parser: argparse.ArgumentParser) -> None:
    """Options on where and how the networks run."""
    group = parser.add_argument_group("runtime")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    group.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "bf16", "32"],
        help="default: auto, bf16 on GPUs that multiply it natively and CPUs with AMX, else 32",
    )
    group.add_argument("--batch-size", type=positive_int, metavar="N", help="patches in one forward pass")
    group.add_argument(
        "--threads",
        type=positive_int,
        metavar="N",
        help="CPU threads (default: all cores this process may use, OMP_NUM_THREADS at most)",
    )


def runtime_options(arguments: argparse.Namespace) -> RuntimeOptions:
    """Where and how the networks run, of the options that :func:`add_runtime_options` added.

    Commands alone decide on the threads of torch: a library leaves them to the program that calls it.
    """
    from tinygan.runtime import RuntimeOptions, command_threads

    return RuntimeOptions(
        device=arguments.device, precision=arguments.precision, threads=command_threads(arguments.threads)
    )


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """``--config`` and ``--set``."""
    parser.add_argument("--config", metavar="NAME|FILE", help="a preset such as lite or paper, or a YAML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=v",
        dest="overrides",
        help="override one key; may be repeated",
    )


def add_output_options(parser: argparse.ArgumentParser, what: str) -> None:
    """``--resume`` and ``--overwrite``, of which one at most may be given."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--resume", action="store_true", help=f"continue {what} that was cut off")
    group.add_argument("--overwrite", action="store_true", help=f"replace {what} that is there")


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text}")
    return value


def run_command(parser: Parser, body: Callable[[argparse.Namespace], int], argv: Sequence[str] | None = None) -> int:
    """Parse, run, and turn expected errors into one line and an exit code.

    Args:
        parser: made by :func:`make_parser`.
        body: does the work and returns an exit code.
        argv: arguments, for tests; the process's own by default.

    Returns:
        The exit code.
    """
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return body(arguments)
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130
    except (TinyGanError, OSError) as error:
        if arguments.debug:
            raise
        message = " ".join(str(error).split())
        print(f"{parser.prog}: error: {message}", file=sys.stderr)
        return MISUSE


def open_run(arguments: argparse.Namespace, settings: str, runtime: Runtime) -> RunFolder:
    """The run folder ``--out``; of several processes the first one checks and makes it, the others open it.

    Also says on which device and in which precision it will be trained.

    Args:
        arguments: with ``out``, ``resume`` and ``overwrite``.
        settings: text of its ``config.yaml``.
        runtime: of this process.
    """
    from tinygan.training.run import RunFolder

    if runtime.is_main:
        RunFolder(arguments.out, settings, arguments.resume, arguments.overwrite)
        log.info("%s", runtime)
    runtime.barrier()
    return RunFolder(arguments.out, settings, resume=True)


def end_run(message: str, unreadable: Sequence[str], runtime: Runtime) -> int:
    """Tell that a run is finished, and which images it could not read; returns the exit code."""
    runtime.barrier()  # a process that ended before the weights are written would take the others with it
    if not runtime.is_main:
        return DONE
    print(message)
    if unreadable:
        print(f"{len(unreadable)} images could not be read and were skipped:", *unreadable, sep="\n  ", file=sys.stderr)
        return SOME_SKIPPED
    return DONE


def list_skipped(summary: str, lines: Sequence[str], more: str = "") -> int:
    """Name the first skipped inputs on stderr.

    Args:
        summary: a line above them.
        lines: one an input.
        more: where the others are listed, if they are too many.

    Returns:
        The exit code.
    """
    print(summary, *(f"  {line}" for line in lines[:LISTED]), sep="\n", file=sys.stderr)
    if len(lines) > LISTED:
        print(f"  … and {len(lines) - LISTED} more{more}", file=sys.stderr)
    return SOME_SKIPPED
